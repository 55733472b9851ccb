"""The habits of servers, each a class to be mixed into `base.Peer`.

C library is nutanix/libvfio-user at efd091b (2026), where nothing else is stated. What was measured
is so in its source; what is stated of its samples is in its `samples/`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import time

from support.peer_habits.base import (
    DEVICE_STATE,
    ERROR_REPLY,
    OFFERS_STOP_COPY,
    PRE_COPY,
    RESUMING,
    RUNNING,
    STOP,
    STOP_COPY,
    Peer,
    RefusalError,
)
from support.raw_client import (
    DMA_UNMAP,
    FEATURE,
    GET,
    GET_INFO,
    MIG_READ,
    MIG_WRITE,
    REGION_READ,
    REGION_WRITE,
    SET,
)

PRECOPY_INFO, PRECOPY_INFO_V2, REINIT = 19, 12, 1

# --- replies ---


class PadsReads(Peer):
    """A MIG_DATA_READ reply is as long as was asked for, and `size` states how much is data.

    C library, lib/migration.c, handle_mig_data_read. The text has argsz include the data, and says
    nothing of bytes behind it.
    """

    def read_reply(self, size: int, data: bytes) -> bytes:
        return super().read_reply(size, data) + bytes(size - len(data))


class GivesNoErrno(Peer):
    """An error reply has errno 0.

    rust-vmm vfio-user, src/lib.rs, Server::run: whatever is not an invalid input.
    """

    def error_reply(self, number: int) -> tuple[int, int]:
        return ERROR_REPLY, 0


class RepliesAsCommand(Peer):
    """An error reply has the Error bit and the type of a command, not of a reply.

    rust-vmm vfio-user 0.1.0 to 0.1.3, src/lib.rs, Server::run; repaired after 0.1.3 (7808555).
    """

    def error_reply(self, number: int) -> tuple[int, int]:
        return 0x20, number if number == errno.EINVAL else 0


class SendsPayloadWithErrors(Peer):
    """The reply to a refused SET_STATE has the payload that a successful one would have.

    C library, lib/libvfio-user.c, handle_device_feature and do_reply. The text: the header alone.
    """

    def error_payload(self, command: int, payload: bytes) -> bytes:
        return payload if command == FEATURE else b""


class LeavesDataFdZero(Peer):
    """`data_fd` is 0 in a reply that states the state, though no descriptor comes with it.

    C library, lib/libvfio-user.c, handle_migration_device_feature_get. The text: not used.
    """

    data_fd = 0


class AnswersReadsBackwards(Peer):
    """Of two MIG_DATA_READ that are under way the second is answered first.

    Of no peer in particular. The text: replies may come in any order.
    """

    def keeps_back(self, command: int) -> bool:
        return command == MIG_READ


class TakesNoData(Peer):
    """Its max_data_xfer_size is 0. Of no peer in particular; the text has no least value."""

    max_transfer = 0


# --- what is refused ---


class RefusesNearlyAllWhileStopped(Peer):
    """In STOP and STOP_COPY only regions, features and MIG_DATA_READ are answered.

    C library, lib/libvfio-user.c, should_exec_command: not DEVICE_GET_INFO, not DEVICE_RESET. In
    RESUMING everything is answered.
    """

    def admits(self, command: int) -> None:
        super().admits(command)
        answered = (REGION_READ, REGION_WRITE, FEATURE, MIG_READ)
        if self.state in (STOP, STOP_COPY) and command not in answered:
            raise RefusalError(errno.EINVAL)


class NeverReturnsDeviceInfo(Peer):
    """DEVICE_GET_INFO is refused in every state. Nobody does; the text has every command served."""

    def admits(self, command: int) -> None:
        super().admits(command)
        if command == GET_INFO:
            raise RefusalError(errno.EINVAL)


class RefusesRegionsWhileCopying(Peer):
    """In STOP_COPY no region is read or written.

    C library, lib/libvfio-user.c, is_valid_region_access.
    """

    def admits(self, command: int) -> None:
        super().admits(command)
        if self.state == STOP_COPY and command in (REGION_READ, REGION_WRITE):
            raise RefusalError(errno.EINVAL)


class WantsNul(Peer):
    """Version data that do not end with a NUL are refused.

    C library, lib/tran.c, recv_version. The text calls the data a JSON string and no more.
    """

    def receive_write(self, data: bytes) -> None:
        super().receive_write(data)
        if data and not data.endswith(b"\0"):
            raise RefusalError(errno.EINVAL)


class CallsUnknownFeatureInvalid(Peer):
    """PROBE of a feature that it does not have is EINVAL, not ENOTTY.

    C library, lib/libvfio-user.c, handle_device_feature.
    """

    def probe(self, feature: int, methods: int) -> None:
        try:
            super().probe(feature, methods)
        except RefusalError:
            raise RefusalError(errno.EINVAL) from None


class StartsLoggingTwice(Peer):
    """A second DMA_LOGGING_START succeeds.

    C library, lib/dma.c, dma_controller_dirty_page_logging_start.
    """

    def start_logging(self) -> None:
        self.logging = True


class RefusesToUnmap(Peer):
    """DMA_UNMAP of all maps is EINVAL, and they stay until the client hangs up.

    Of no peer in particular; the flag for all maps is younger than the command.
    """

    def admits(self, command: int) -> None:
        super().admits(command)
        if command == DMA_UNMAP:
            raise RefusalError(errno.EINVAL)


class RefusesToReturnItsState(Peer):
    """GET of the device state is EINVAL; all else is answered. Of no peer in particular."""

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == FEATURE:
            flags = struct.unpack_from("=I", payload, 4)[0]
            if flags & GET and flags & 0xFFFF == DEVICE_STATE:
                raise RefusalError(errno.EINVAL)
        return super().answer(command, payload)


class HidesItsStateOnceRead(Peer):
    """From the first MIG_DATA_READ on, that and GET of the device state are refused.

    Of no peer in particular.
    """

    hidden = False

    def answer(self, command: int, payload: bytes) -> bytes:
        self.hidden |= command == MIG_READ
        if command == FEATURE and self.hidden:
            flags = struct.unpack_from("=I", payload, 4)[0]
            if flags & GET and flags & 0xFFFF == DEVICE_STATE:
                raise RefusalError(errno.EINVAL)
        return super().answer(command, payload)

    def read(self, size: int) -> bytes:
        raise RefusalError(errno.EIO)


# --- connections ---


class ExitsBeforeVersion(Peer):
    """The server exits when a client hangs up before it has sent VERSION.

    C library, samples/server.c and samples/gpio-pci-idio-16.c, main: vfu_attach_ctx fails.
    """

    def hung_up(self, negotiated: bool) -> None:
        if not negotiated:
            raise SystemExit(1)


class ExitsOnHangUp(Peer):
    """The server exits when its client hangs up.

    C library, samples/null.c and samples/shadow_ioeventfd_server.c; rust-vmm vfio-user,
    Server::run.
    """

    def hung_up(self, negotiated: bool) -> None:
        raise SystemExit(0)


class RunsOnceItsClientHangsUp(Peer):
    """When its client hangs up, the device is in RUNNING, whatever state it was in.

    C library before 4f4fce4 (2026-05), lib/libvfio-user.c, vfu_reset_ctx and device_reset.
    """

    def hung_up(self, negotiated: bool) -> None:
        super().hung_up(negotiated)
        self.state = RUNNING


# --- states ---


class ResetKeepsState(Peer):
    """A reset leaves the migration state as it is.

    C library since 4f4fce4 (2026-05), lib/libvfio-user.c, device_reset. The kernel's text:
    RUNNING.
    """

    def reset(self) -> None:
        state = self.state
        super().reset()
        self.state = state


class OffersNoPreCopy(Peer):
    """Neither PRE_COPY nor P2P are offered.

    P2P is never offered by the C library: lib/libvfio-user.c,
    handle_migration_device_feature_get.
    """

    offers = OFFERS_STOP_COPY


class PreCopyArcFails(Peer):
    """RUNNING -> PRE_COPY is refused by the device.

    C library, lib/migration.c, migration_set_state: what the callback says.
    """

    def arc(self, to: int) -> None:
        if to == PRE_COPY:
            raise RefusalError(errno.EIO)
        super().arc(to)


class PreCopyReadsFail(Peer):
    """Every MIG_DATA_READ in PRE_COPY is refused; those in STOP_COPY are answered.

    C library, lib/migration.c, handle_mig_data_read: what the callback says.
    """

    def read(self, size: int) -> bytes:
        if self.state == PRE_COPY:
            raise RefusalError(errno.EIO)
        return super().read(size)


class PreCopyFailsPartWay(Peer):
    """In PRE_COPY the first MIG_DATA_READ is answered and every later one refused.

    As `PreCopyReadsFail`.
    """

    answered = 0

    def read(self, size: int) -> bytes:
        if self.state == PRE_COPY:
            if self.answered:
                raise RefusalError(errno.EIO)
            self.answered += 1
        return super().read(size)


class NeverStops(Peer):
    """RUNNING -> STOP fails. The text allows every arc to fail."""

    def arc(self, to: int) -> None:
        if (self.state, to) == (RUNNING, STOP):
            raise RefusalError(errno.EIO)
        super().arc(to)


class LeavesPreCopyByRunning(Peer):
    """PRE_COPY -> STOP_COPY is refused; from RUNNING the device stops and copies.

    As `PreCopyArcFails`.
    """

    def arc(self, to: int) -> None:
        if (self.state, to) == (PRE_COPY, STOP_COPY):
            raise RefusalError(errno.EIO)
        super().arc(to)


class RunsOffUponLastWrite(Peer):
    """With the last of a stream the device is reset, and the write acknowledged.

    Of no peer in particular: a device whose firmware restarts, say.
    """

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self._written) == 8 + len(self.held):
            self.reset()


# --- streams ---


class JudgesNothing(Peer):
    """RESUMING -> STOP succeeds, whatever was written.

    C library, lib/migration.c, migration_set_state: the library looks at no stream.
    """

    def judge(self, stream: bytes) -> None:
        size = len(self.held)
        self.held[:] = stream[8 : 8 + size].ljust(size, b"\0")


class RefusesWrites(JudgesNothing):
    """MIG_DATA_WRITE is EINVAL, and RESUMING -> STOP succeeds.

    C library, samples/gpio-pci-idio-16.c, migration_write_data.
    """

    def write(self, data: bytes) -> None:
        raise RefusalError(errno.EINVAL)


class LeavesWritesUnanswered(JudgesNothing):
    """MIG_DATA_WRITE is never answered, nor is anything after it. Of no peer in particular."""

    def write(self, data: bytes) -> None:
        signal.pause()


class RefusesEveryStream(Peer):
    """RESUMING -> STOP is EBADMSG. The text allows it: it is the moment of judgement."""

    def judge(self, stream: bytes) -> None:
        raise RefusalError(errno.EBADMSG)


class DoesNotStart(Peer):
    """STOP -> RUNNING fails. The text allows every arc to fail."""

    def arc(self, to: int) -> None:
        if (self.state, to) == (STOP, RUNNING):
            raise RefusalError(errno.EIO)
        super().arc(to)


class ReadsShort(Peer):
    """A MIG_DATA_READ brings a tenth of what was asked for, though there is more.

    Seen of a device written by a newcomer. The text calls a short read the end.
    """

    def read(self, size: int) -> bytes:
        return super().read(max(1, size // 10))


# --- precopy_info: a server of another author that has what docs/precopy-info.md proposes ---


class ReportsPrecopy(Peer):
    """MIG_PRECOPY_INFO is answered in PRE_COPY, where the end of the stream is ENOMSG."""

    def version_data(self) -> bytes:
        return json.dumps(
            {"capabilities": {"max_data_xfer_size": self.max_transfer, "precopy_info": True}}
        ).encode()

    def probe(self, feature: int, methods: int) -> None:
        if (feature, methods) != (PRECOPY_INFO_V2, SET):
            super().probe(feature, methods)

    def _feature(self, payload: bytes) -> bytes:
        if struct.unpack_from("=I", payload, 4)[0] == SET | PRECOPY_INFO_V2:
            return payload
        return super()._feature(payload)

    def answer(self, command: int, payload: bytes) -> bytes:
        if command != PRECOPY_INFO:
            return super().answer(command, payload)
        if self.state != PRE_COPY:
            raise RefusalError(errno.EINVAL)
        flags, initial, dirty = self.precopy_info()
        return struct.pack("=IIQQ", 24, flags, initial, dirty)

    def precopy_info(self) -> tuple[int, int, int]:
        """Return the flags, initial_bytes and dirty_bytes."""
        return 0, len(self._left), 0

    def read(self, size: int) -> bytes:
        data = super().read(size)
        if self.state == PRE_COPY and not data:
            raise RefusalError(errno.ENOMSG)
        return data


class AnnouncesForever(ReportsPrecopy):
    """Each reply announces 2**60 bytes of new initial data, and none of it is ever read."""

    def precopy_info(self) -> tuple[int, int, int]:
        return REINIT, 1 << 60, 1 << 60


class PausesWhileStopped(ReportsPrecopy):
    """The stream of a stopped device comes to a temporary end."""

    def read(self, size: int) -> bytes:
        data = super().read(size)
        if self.state == STOP_COPY and not data:
            raise RefusalError(errno.ENOMSG)
        return data


class ReadsShortWhileItRuns(Peer):
    """In PRE_COPY a MIG_DATA_READ brings a tenth of what was asked for, though there is more.

    Of no peer in particular; Linux's drivers do so, where a short read() means nothing.
    """

    def read(self, size: int) -> bytes:
        return super().read(max(1, size // 10) if self.state == PRE_COPY else size)


# --- all of a peer ---


class CLibrary(
    PadsReads,
    SendsPayloadWithErrors,
    LeavesDataFdZero,
    RefusesNearlyAllWhileStopped,
    RefusesRegionsWhileCopying,
    WantsNul,
    CallsUnknownFeatureInvalid,
    StartsLoggingTwice,
    ResetKeepsState,
    JudgesNothing,
):
    """The C library as a whole."""


# --- crashes at a moment of choice; of no peer in particular ---


class DiesUponRead(Peer):
    """The server is gone as soon as a MIG_DATA_READ arrives."""

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == MIG_READ:
            os._exit(9)
        return super().answer(command, payload)


class EndsSlowlyUponRead(Peer):
    """The server's sockets are closed as soon as a MIG_DATA_READ arrives, and it is gone later.

    As the kernel ends a process that is killed: its sockets first, which here takes longer.
    """

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == MIG_READ:
            os.closerange(3, 64)
            time.sleep(0.3)
            os._exit(9)
        return super().answer(command, payload)


class DiesUponSecondRead(Peer):
    """The server is gone as soon as a second MIG_DATA_READ arrives."""

    reads = 0

    def answer(self, command: int, payload: bytes) -> bytes:
        self.reads += command == MIG_READ
        if self.reads == 2:
            os._exit(9)
        return super().answer(command, payload)


class DiesUponWrite(Peer):
    """The server is gone as soon as a MIG_DATA_WRITE arrives."""

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == MIG_WRITE:
            os._exit(9)
        return super().answer(command, payload)


class KillsClientUponRead(Peer):
    """The process of the client is killed as soon as its first MIG_DATA_READ arrives."""

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == MIG_READ:
            os.kill(self.client, signal.SIGKILL)
        return super().answer(command, payload)


class KillsClientUponWrite(Peer):
    """The process of the client is killed as soon as its first MIG_DATA_WRITE arrives."""

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == MIG_WRITE:
            os.kill(self.client, signal.SIGKILL)
        return super().answer(command, payload)


class KillsClientUponJudgement(Peer):
    """The process of the client is killed at the first RESUMING -> STOP, which is not done."""

    asked = False

    def arc(self, to: int) -> None:
        if self.state == RESUMING and not self.asked:
            self.asked = True
            os.kill(self.client, signal.SIGKILL)
            raise ConnectionResetError
        super().arc(to)
