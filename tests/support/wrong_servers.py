"""A server that is right, and servers with one fault each: what `conform` has to find.

The right one is written from the specification, as `peer_habits.base` is; what a request for a
state leads to is the table's, which is what is tested. Each other one is named after its fault and
has the name of the check that is to find it.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.peer_habits.base import (
    ERROR,
    LOGGING_REPORT,
    LOGGING_START,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    STOP,
    STOP_COPY,
    Peer,
    RefusalError,
)
from support.raw_client import FEATURE, GET, HEADER, MIG_READ, MIG_WRITE, PROBE, SET, VERSION
from vfio_migration.model import load

SPEC = load()
NAMES = {row.value: row.name for row in SPEC.states}
VALUES = {row.name: row.value for row in SPEC.states}
SAVING = (PRE_COPY, PRE_COPY_P2P, STOP_COPY)
HELD = bytes(range(256)) * 4


class Right(Peer):
    """Everything as the text and the table have it.

    Attributes:
        finds: The check that finds the fault; "" for none.
        grade: How bad that is.
    """

    finds = ""
    grade = "violation"
    offers = 7

    def __init__(self, held: bytes = HELD) -> None:
        super().__init__(held)
        self.negotiated = False
        self.resets = self.connections = 0

    def connected(self) -> None:
        self.negotiated = False
        self.connections += 1

    def version_data(self) -> bytes:
        return json.dumps({"capabilities": {"max_data_xfer_size": 1 << 20}}).encode()

    max_transfer = 1 << 20

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == VERSION:
            if self.negotiated or struct.unpack_from("=H", payload)[0] != 0:
                raise RefusalError(errno.EINVAL)
            self.negotiated = True
        elif not self.negotiated:
            raise RefusalError(errno.EINVAL)
        if command in (4, FEATURE, MIG_READ, MIG_WRITE) and len(payload) < 8:
            raise RefusalError(errno.EINVAL)
        return super().answer(command, payload)

    def _feature(self, payload: bytes) -> bytes:
        _, flags = struct.unpack_from("=II", payload)
        if flags & ~(0xFFFF | GET | SET | PROBE):
            raise RefusalError(errno.EINVAL)
        if not flags & PROBE and ((flags & GET and flags & SET) or not flags & (GET | SET)):
            raise RefusalError(errno.EINVAL)
        number, methods = flags & 0xFFFF, flags & (GET | SET)
        if number in (LOGGING_START, LOGGING_REPORT) and not flags & PROBE:
            reply = self._logged(payload, number, methods)
        else:
            reply = super()._feature(payload)
        room = struct.unpack_from("=I", payload)[0]
        return reply if len(reply) <= room else struct.pack("=II", len(reply), flags)

    def _logged(self, payload: bytes, number: int, methods: int) -> bytes:
        data = payload[8:]
        if number == LOGGING_START:
            if methods != SET or len(data) < 16:
                raise RefusalError(errno.EINVAL)
            self.start(*struct.unpack_from("=QI", data), data[16:])
            return payload
        if methods != GET or len(data) < 24:
            raise RefusalError(errno.EINVAL)
        _, length, page_size = struct.unpack_from("=QQQ", data)
        reported = data[:24] + self.report(length, page_size)
        return payload[:8] + reported

    def start(self, page_size: int, count: int, ranges: bytes) -> None:
        """DMA_LOGGING_START."""
        if len(ranges) < 16 * count or page_size & (page_size - 1):
            raise RefusalError(errno.EINVAL)
        self.start_logging()

    def report(self, length: int, page_size: int) -> bytes:
        """Return the bitmap of DMA_LOGGING_REPORT: nothing was written."""
        if not self.logging or not page_size or page_size & (page_size - 1):
            raise RefusalError(errno.EINVAL)
        pages = -(-length // page_size)
        return bytes(8 * -(-pages // 64))

    def arc(self, to: int) -> None:
        if self.state == RESUMING:
            self.judge(bytes(self._written))
        whole = len(self.held).to_bytes(8, "big") + bytes(self.held)
        if to in SAVING and self.state not in SAVING:
            half = len(whole) // 2
            self._left, self._later = (
                (whole, b"") if to == STOP_COPY else (whole[:half], whole[half:])
            )
        elif to == STOP_COPY:
            self._left, self._later = self._left + self._later, b""
        elif to == RESUMING:
            self._written.clear()
        self.state = to

    def judge(self, stream: bytes) -> None:
        super().judge(stream)
        if stream[8:] != HELD:  # in the place of a checksum
            raise RefusalError(errno.EBADMSG)

    def read(self, size: int) -> bytes:
        if self.state not in SAVING:
            raise RefusalError(errno.EINVAL)
        data, self._left = self._left[:size], self._left[size:]
        return data

    def reset(self) -> None:
        self.resets += 1
        self.state, self._left, self._later, self.logging = RUNNING, b"", b"", False
        self.held[:] = HELD

    def _request(self, target: int) -> None:
        route = SPEC.machine(self.offers).route(NAMES[self.state], target)
        if route.refused is not None:
            raise RefusalError(getattr(errno, route.refused.errno))
        for arc in route.arcs:
            self.arc(VALUES[arc.to])


class WithoutP2p(Right):
    """The same, of a device with less."""

    offers = 5


class WithMuchState(Right):
    """The stream is longer than one message may be.

    Attributes:
        longest: The longest payload that came.
    """

    state_bytes = HELD * 1100
    longest = 0

    def answer(self, command: int, payload: bytes) -> bytes:
        self.longest = max(self.longest, len(payload))
        return super().answer(command, payload)

    def judge(self, stream: bytes) -> None:
        if stream[8:] != self.state_bytes:
            raise RefusalError(errno.EBADMSG)

    def reset(self) -> None:
        super().reset()
        self.held[:] = self.state_bytes


# --- faults: each has one ---


class RefusesThePresentState(Right):
    finds = "present_state_fails"
    grade = "house rule"  # Linux alone states that it succeeds

    def _request(self, target: int) -> None:
        if target == self.state:
            raise RefusalError(errno.EINVAL)
        super()._request(target)


class NeverStartsAgain(Right):
    """The arc STOP -> RUNNING_P2P fails whenever it is asked for alone."""

    finds = "path_refused_again"
    grade = "suspicious"

    def _request(self, target: int) -> None:
        if (self.state, target) == (STOP, RUNNING_P2P):
            raise RefusalError(errno.EBUSY)
        super()._request(target)


class NeverResumes(Right):
    finds = "path_refused_again"
    grade = "suspicious"

    def _request(self, target: int) -> None:
        if target == RESUMING:
            raise RefusalError(errno.EBUSY)
        super()._request(target)


class ReportsInAFewBytes(Right):
    """The reply to DMA_LOGGING_REPORT ends within its fixed part."""

    finds = "report_of_a_range"

    def _logged(self, payload: bytes, number: int, methods: int) -> bytes:
        reply = super()._logged(payload, number, methods)
        return reply[:20] if number == LOGGING_REPORT else reply


class ReadsAFewBytesAtATime(Right):
    """A read that is shorter than asked for, which is the final end, and data behind it."""

    finds = "after_the_end"

    def read(self, size: int) -> bytes:
        return super().read(min(size, 200))


class AcceptsStopCopyToPreCopy(Right):
    finds = "refusal_succeeds"

    def _request(self, target: int) -> None:
        if (self.state, target) == (STOP_COPY, PRE_COPY):
            self.state = PRE_COPY
            return
        super()._request(target)


class AcceptsError(Right):
    finds = "refusal_succeeds"

    def _request(self, target: int) -> None:
        if target == ERROR:
            return
        super()._request(target)


class AcceptsAnyNumber(Right):
    finds = "refusal_succeeds"

    def _request(self, target: int) -> None:
        if target not in NAMES:
            return
        super()._request(target)


class StaysWhereItWas(Right):
    """RUNNING -> RUNNING_P2P succeeds and moves nothing."""

    finds = "state_after_success"

    def _request(self, target: int) -> None:
        if (self.state, target) != (RUNNING, RUNNING_P2P):
            super()._request(target)


class StopsShort(Right):
    """Of a path of several arcs the last is not taken."""

    finds = "state_after_success"

    def _request(self, target: int) -> None:
        before = self.state
        super()._request(target)
        if (before, target) == (PRE_COPY, STOP):
            self.state = RUNNING_P2P


class RefusalMovesIt(Right):
    finds = "state_after_refusal"
    grade = "house rule"  # the text states nothing of it

    def _request(self, target: int) -> None:
        try:
            super()._request(target)
        except RefusalError:
            if self.state == STOP_COPY:
                self.state = STOP
            raise


class ReportsAStateItLacks(WithoutP2p):
    finds = "state_after_success"

    def answer(self, command: int, payload: bytes) -> bytes:
        reply = super().answer(command, payload)
        is_get = command == FEATURE and struct.unpack_from("=I", payload, 4)[0] == GET | 2
        if is_get and self.state == STOP:
            return reply[:8] + struct.pack("=I", RUNNING_P2P) + reply[12:]
        return reply


class ReportsNoState(Right):
    finds = "state_unknown"

    def answer(self, command: int, payload: bytes) -> bytes:
        reply = super().answer(command, payload)
        is_get = command == FEATURE and struct.unpack_from("=I", payload, 4)[0] == GET | 2
        if is_get and self.state == RESUMING:
            return reply[:8] + struct.pack("=I", 99) + reply[12:]
        return reply


class ResetStops(Right):
    finds = "state_after_reset"
    grade = "house rule"  # the text of vfio-user does not state what a reset does to the state

    def reset(self) -> None:
        super().reset()
        self.state = STOP


class ResetKeepsTheState(Right):
    finds = "state_after_reset"
    grade = "house rule"

    def reset(self) -> None:
        state = self.state
        super().reset()
        self.state = state


class HangingUpResets(Right):
    finds = "state_kept"
    grade = "suspicious"

    def connected(self) -> None:
        super().connected()
        self.reset()


class ReadsInRunning(Right):
    finds = "read_out_of_session"

    def read(self, size: int) -> bytes:
        return b"" if self.state == RUNNING else super().read(size)


class WritesAnywhere(Right):
    finds = "write_out_of_session"

    def write(self, data: bytes) -> None:
        if self.state == RESUMING:
            super().write(data)


class AnswersBeforeVersion(Right):
    finds = "command_before_version"

    def connected(self) -> None:
        super().connected()
        self.early = True

    def answer(self, command: int, payload: bytes) -> bytes:
        if command != VERSION:
            self.negotiated = True
            return super().answer(command, payload)
        self.negotiated = False
        return super().answer(command, payload)


class AgreesOnAnyVersion(Right):
    finds = "version_incompatible"

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == VERSION:
            payload = struct.pack("=H", 0) + payload[2:]
        return super().answer(command, payload)


class NegotiatesTwice(Right):
    finds = "version_again"

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == VERSION:
            self.negotiated = False
        return super().answer(command, payload)


class AnswersUnknownCommands(Right):
    finds = "command_unknown"

    def answer(self, command: int, payload: bytes) -> bytes:
        return b"" if command > 1000 else super().answer(command, payload)


class TakesItsOwnCommands(Right):
    finds = "wrong_direction"

    def answer(self, command: int, payload: bytes) -> bytes:
        return payload if command == 11 else super().answer(command, payload)


class TakesGetAndSetTogether(Right):
    finds = "feature_flags_clash"

    def _feature(self, payload: bytes) -> bytes:
        _, flags = struct.unpack_from("=II", payload)
        if flags & GET and flags & SET and not flags & PROBE:
            return payload
        return super()._feature(payload)


class ProbeOfSetSets(Right):
    finds = "probe_changes_nothing"

    def _feature(self, payload: bytes) -> bytes:
        _, flags = struct.unpack_from("=II", payload)
        if flags & PROBE and flags & SET and len(payload) >= 12:
            self.state = STOP
        return super()._feature(payload)


class HasEveryFeature(Right):
    finds = "feature_unknown"
    grade = "house rule"

    def probe(self, feature: int, methods: int) -> None:
        return


class RefusesLongerPayloads(Right):
    """Allowed: no sentence has them taken. A house rule, so only `--strict` shows it."""

    finds = "longer_payload"
    grade = "house rule"

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == FEATURE and len(payload) > 16 and payload[4:8] == struct.pack("=I", SET | 2):
            raise RefusalError(errno.EINVAL)
        return super().answer(command, payload)


class RefusesAGoodProbe(Right):
    finds = "probe"

    def probe(self, feature: int, methods: int) -> None:
        if methods == GET | SET:
            raise RefusalError(errno.EINVAL)


class RepliesToNoReply(Right):
    finds = "no_reply"
    replies_always = True


class MixesUpIds(Right):
    finds = "several_at_once"
    wrong_id_after = 3


class DiesOfHalfAMessage(Right):
    finds = "server_ended"
    dies_of_half = True


class AcceptsEveryStream(Right):
    finds = "stream_accepted"
    grade = "suspicious"

    def judge(self, stream: bytes) -> None:
        return


class ReportsWithoutLogging(Right):
    finds = "report_before_start"

    def report(self, length: int, page_size: int) -> bytes:
        self.logging = True
        return super().report(length, page_size)


class ReportsAfterStop(Right):
    finds = "report_after_stop"
    was_started = False

    def start(self, page_size: int, count: int, ranges: bytes) -> None:
        super().start(page_size, count, ranges)
        self.was_started = True

    def report(self, length: int, page_size: int) -> bytes:
        self.logging = self.logging or self.was_started
        return super().report(length, page_size)


class LogsNoMoreThanRanges(Right):
    finds = "logging_of_everything"

    def start(self, page_size: int, count: int, ranges: bytes) -> None:
        if not count:
            raise RefusalError(errno.EINVAL)
        super().start(page_size, count, ranges)


class LogsOneRangeOnly(Right):
    finds = "logging_of_several_ranges"

    def start(self, page_size: int, count: int, ranges: bytes) -> None:
        if count > 1:
            raise RefusalError(errno.E2BIG)
        super().start(page_size, count, ranges)


class TakesRangesThatAreNotThere(Right):
    finds = "ranges_missing"

    def start(self, page_size: int, count: int, ranges: bytes) -> None:
        super().start(page_size, min(count, len(ranges) // 16), ranges)


class StartsLoggingTwice(Right):
    finds = "logging_started_twice"
    grade = "house rule"

    def start_logging(self) -> None:
        self.logging = True


class CannotLogAgain(Right):
    finds = "logging_started_again"
    once = False

    def start(self, page_size: int, count: int, ranges: bytes) -> None:
        if self.once:
            raise RefusalError(errno.EBUSY)
        super().start(page_size, count, ranges)
        self.once = True


class ReportsOnePageTooMany(Right):
    finds = "report_of_a_range"

    def report(self, length: int, page_size: int) -> bytes:
        whole = bytearray(super().report(length, page_size))
        pages = -(-length // page_size)
        whole[pages // 8] |= 1 << pages % 8
        return bytes(whole)


class ReportsInItsOwnPagesOnly(Right):
    finds = "report_of_larger_pages"

    def report(self, length: int, page_size: int) -> bytes:
        if page_size != 4096:
            raise RefusalError(errno.EINVAL)
        return super().report(length, page_size)


class ReportsInPagesOfAnySize(Right):
    finds = "page_size_odd"
    grade = "house rule"

    def report(self, length: int, page_size: int) -> bytes:
        return super().report(length, 4096 if page_size % 4096 else page_size)


class JudgesNoStreamAfterAGoodOne(Right):
    """hisi_acc: a flag of the first migration is never cleared."""

    finds = "stream_accepted"
    grade = "suspicious"
    found_good = False

    def judge(self, stream: bytes) -> None:
        if not self.found_good:
            super().judge(stream)
        self.found_good = True


class AnotherAfterItsSecondReset(Right):
    """RUNNING_P2P -> PRE_COPY_P2P goes on to PRE_COPY; only in a second life."""

    finds = "state_after_success"

    def _request(self, target: int) -> None:
        before = self.state
        super()._request(target)
        if self.resets > 400 and (before, target) == (RUNNING_P2P, PRE_COPY_P2P):
            self.state = PRE_COPY


class HiddenState(Right):
    """PRE_COPY that was reached from STOP leads elsewhere: to STOP for RUNNING_P2P."""

    finds = "state_after_success"

    def __init__(self, held: bytes = HELD) -> None:
        super().__init__(held)
        self.hidden = False

    def _request(self, target: int) -> None:
        before = self.state
        super()._request(target)
        if self.hidden and (before, target) == (PRE_COPY, RUNNING_P2P):
            self.state = STOP
        if before != self.state:
            self.hidden = (before, self.state) == (STOP, PRE_COPY)


def _faults(kind: type[Right]) -> Iterator[type[Right]]:
    for one in kind.__subclasses__():
        if one.finds:
            yield one
        yield from _faults(one)


FAULTS = tuple(_faults(Right))


@contextmanager
def serving(path: Path, peer: Right) -> Iterator[threading.Thread]:
    """Serve one client after the other in a thread; a server that dies leaves its socket closed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    thread = threading.Thread(target=_accept, args=(listener, peer), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


def _accept(listener: socket.socket, peer: Right) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock:
            sock.settimeout(20)
            peer.connected()
            with suppress(OSError):
                if not _serve(sock, peer):
                    listener.close()
                    return


def _received(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes, or what came before the client hung up."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def _serve(sock: socket.socket, peer: Right) -> bool:
    """Serve a client; return whether the server goes on when it has left."""
    served = 0
    while head := _received(sock, HEADER.size):
        if len(head) < HEADER.size:
            return not getattr(peer, "dies_of_half", False)
        ident, command, size, flags, _ = HEADER.unpack(head)
        if size < HEADER.size:
            sock.sendall(HEADER.pack(ident, command, 16, 0x21, errno.EINVAL))
            return True
        asked = _received(sock, size - HEADER.size)
        try:
            payload, kind, number = peer.answer(command, asked), 1, 0
        except RefusalError as refusal:
            payload, kind, number = b"", 0x21, refusal.number
        if flags & 0x10 and not getattr(peer, "replies_always", False):
            continue
        served += 1
        if served == getattr(peer, "wrong_id_after", 0) + 2 and hasattr(peer, "wrong_id_after"):
            ident ^= 0x4000
        sock.sendall(HEADER.pack(ident, command, 16 + len(payload), kind, number) + payload)
    return True
