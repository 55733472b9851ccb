"""A vfio-user server written from the specification, with nothing of ours in it, to give habits to.

One device with a blob of state, one connection at a time, one thread. Whatever a habit changes is a
method of its own. The stream is the length of the blob in eight bytes, then the blob.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
from pathlib import Path

from support.raw_client import (
    DMA_MAP,
    DMA_UNMAP,
    FEATURE,
    GET,
    GET_INFO,
    HEADER,
    IRQ_INFO,
    MIG_READ,
    MIG_WRITE,
    PROBE,
    REGION_INFO,
    REGION_READ,
    REGION_WRITE,
    RESET,
    SET,
    SET_IRQS,
    VERSION,
)

ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(8)
OFFERS_STOP_COPY, OFFERS_P2P, OFFERS_PRE_COPY = 1, 2, 4
MIGRATION, DEVICE_STATE, LOGGING_START, LOGGING_STOP, LOGGING_REPORT = 1, 2, 6, 7, 8
NO_REPLY, ERROR_REPLY, REPLY = 0x10, 0x21, 0x1

_METHODS = {
    MIGRATION: GET,
    DEVICE_STATE: GET | SET,
    LOGGING_START: SET,
    LOGGING_STOP: SET,
    LOGGING_REPORT: GET,
}
# The next step from a state towards a target. Without PRE_COPY no request leads to it.
_NEXT = {
    RUNNING: {STOP: STOP, STOP_COPY: STOP, RESUMING: STOP, PRE_COPY: PRE_COPY},
    STOP: {RUNNING: RUNNING, STOP_COPY: STOP_COPY, RESUMING: RESUMING, PRE_COPY: RUNNING},
    STOP_COPY: {STOP: STOP, RUNNING: STOP, RESUMING: STOP},
    RESUMING: {STOP: STOP, RUNNING: STOP, STOP_COPY: STOP, PRE_COPY: STOP},
    PRE_COPY: {RUNNING: RUNNING, STOP: RUNNING, STOP_COPY: STOP_COPY, RESUMING: RUNNING},
}


class RefusalError(Exception):
    """The command is answered with an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Peer:
    """The server.

    Args:
        held: What the device holds; region 0 shows it.

    Attributes:
        offers: The capabilities of the device (`struct vfio_device_feature_migration.flags`).
        max_transfer: How many bytes of data a message may carry.
        data_fd: What stands in the field of that name, which has no meaning here.
        state: The state of the device.
        client: The process of the client that is connected.
    """

    offers = OFFERS_STOP_COPY | OFFERS_PRE_COPY
    max_transfer = 3000
    data_fd = -1

    def __init__(self, held: bytes) -> None:
        self.held = bytearray(held)
        self.state = RUNNING
        self.client = 0
        self.logging = False
        self._left = b""  # what can be read now
        self._later = b""  # what can be read once the device is stopped
        self._written = bytearray()

    # --- what a habit may change: the connection ---

    def version_data(self) -> bytes:
        """Return the version data of the VERSION reply."""
        return json.dumps({"capabilities": {"max_data_xfer_size": self.max_transfer}}).encode()

    def receive_write(self, data: bytes) -> None:
        """Take the version data of the client; may refuse it."""

    def admits(self, command: int) -> None:
        """Refuse a command because of the state the device is in, or not."""

    def error_reply(self, number: int) -> tuple[int, int]:
        """Return the flags and the errno of an error reply."""
        return ERROR_REPLY, number

    def error_payload(self, _command: int, _payload: bytes) -> bytes:
        """Return what follows the header of an error reply."""
        return b""

    def keeps_back(self, _command: int) -> bool:
        """Whether a reply is sent behind the next one, if there is a next command already."""
        return False

    def hung_up(self, negotiated: bool) -> None:
        """The client has hung up; raise `SystemExit` to give up."""

    # --- what a habit may change: features ---

    def probe(self, feature: int, methods: int) -> None:
        """Refuse a PROBE, or not."""
        if feature not in _METHODS or methods & ~_METHODS[feature]:
            raise RefusalError(errno.ENOTTY)

    def start_logging(self) -> None:
        """DMA_LOGGING_START."""
        if self.logging:
            raise RefusalError(errno.EINVAL)
        self.logging = True

    # --- what a habit may change: states and streams ---

    def arc(self, to: int) -> None:
        """Take one arc; raise `RefusalError` if it fails, and then nothing has changed."""
        if self.state == RESUMING:
            self.judge(bytes(self._written))
        whole = len(self.held).to_bytes(8, "big") + bytes(self.held)
        half = len(whole) // 2
        if to == PRE_COPY:
            self._left, self._later = whole[:half], whole[half:]
        elif to == STOP_COPY:
            early = self.state == PRE_COPY
            self._left = self._left + self._later if early else whole
        elif to == RESUMING:
            self._written.clear()
        self.state = to

    def judge(self, stream: bytes) -> None:
        """Take over a stream that has ended, or refuse it."""
        if len(stream) < 8 or int.from_bytes(stream[:8], "big") != len(stream) - 8:
            raise RefusalError(errno.EBADMSG)
        self.held[:] = stream[8:]

    def read(self, size: int) -> bytes:
        """MIG_DATA_READ: return up to `size` bytes."""
        if self.state not in (PRE_COPY, STOP_COPY) or size > self.max_transfer:
            raise RefusalError(errno.EINVAL)
        data, self._left = self._left[:size], self._left[size:]
        return data

    def read_reply(self, _size: int, data: bytes) -> bytes:
        """Return the payload of the reply to MIG_DATA_READ."""
        return struct.pack("=II", 8 + len(data), len(data)) + data

    def write(self, data: bytes) -> None:
        """MIG_DATA_WRITE."""
        if self.state != RESUMING or len(data) > self.max_transfer:
            raise RefusalError(errno.EINVAL)
        self._written += data

    def reset(self) -> None:
        """DEVICE_RESET."""
        self.state, self._left, self._later, self.logging = RUNNING, b"", b"", False
        self.held[:] = bytes(len(self.held))

    # --- the commands ---

    def answer(self, command: int, payload: bytes) -> bytes:
        """Return the payload of the reply; raise `RefusalError` for an error."""
        if command == VERSION:
            self.receive_write(payload[4:])
            return struct.pack("=HH", 0, 0) + self.version_data() + b"\0"
        self.admits(command)
        if command == GET_INFO:
            return struct.pack("=IIII", 16, 3, 1, 1)
        if command == REGION_INFO:
            index = struct.unpack_from("=I", payload, 8)[0]
            if index:
                raise RefusalError(errno.EINVAL)
            return struct.pack("=IIIIQQ", 32, 3, index, 0, len(self.held), 0)
        if command == IRQ_INFO:
            return struct.pack("=IIII", 16, 1, struct.unpack_from("=I", payload, 8)[0], 1)
        if command == REGION_READ:
            offset, _region, count = struct.unpack_from("=QII", payload)
            return payload[:16] + self.held[offset : offset + count]
        if command == REGION_WRITE:
            offset, _region, count = struct.unpack_from("=QII", payload)
            self.held[offset : offset + count] = payload[16:]
            return payload[:16]
        if command == FEATURE:
            return self._feature(payload)
        if command == MIG_READ:
            size = struct.unpack_from("=I", payload, 4)[0]
            return self.read_reply(size, self.read(size))
        if command == MIG_WRITE:
            self.write(payload[8:])
            return b""
        if command == RESET:
            self.reset()
            return b""
        if command == DMA_UNMAP:
            return payload
        if command in (DMA_MAP, SET_IRQS):
            return b""
        raise RefusalError(errno.ENOSYS)

    def _feature(self, payload: bytes) -> bytes:
        _argsz, flags = struct.unpack_from("=II", payload)
        feature, methods = flags & 0xFFFF, flags & (GET | SET)
        if flags & PROBE:
            self.probe(feature, methods)
            return payload
        if methods not in (GET, SET) or not methods & _METHODS.get(feature, 0):
            raise RefusalError(errno.ENOTTY)
        if feature == MIGRATION:
            data = struct.pack("=Q", self.offers)
        elif feature == DEVICE_STATE and methods == GET:
            data = struct.pack("=Ii", self.state, self.data_fd)
        elif feature == DEVICE_STATE:
            self._request(struct.unpack_from("=I", payload, 8)[0])
            return payload
        elif feature == LOGGING_REPORT:
            _iova, length, page_size = struct.unpack_from("=QQQ", payload, 8)
            words = -(-length // page_size // 64) or 1
            data = payload[8:32] + bytes(8 * words)
        else:
            if feature == LOGGING_START:
                self.start_logging()
            self.logging = feature == LOGGING_START
            return payload
        return struct.pack("=II", 8 + len(data), flags) + data

    def _request(self, target: int) -> None:
        if target == PRE_COPY and not self.offers & OFFERS_PRE_COPY:
            raise RefusalError(errno.EINVAL)
        while self.state != target:
            step = _NEXT.get(self.state, {}).get(target)
            if step is None:
                raise RefusalError(errno.EINVAL)
            self.arc(step)


def serve(path: Path, peer: Peer) -> None:
    """Serve one client after the other, and note beside the socket what each has sent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(8)
        with path.with_suffix(".seen").open("a", buffering=1) as seen:
            while True:
                sock, _ = listener.accept()
                credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                peer.client = struct.unpack("=3i", credentials)[0]
                with sock:
                    print("connect", file=seen)
                    negotiated = False
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        negotiated = _serve(sock, peer, seen)
                    print("hang-up", file=seen)
                peer.hung_up(negotiated)


def _serve(sock: socket.socket, peer: Peer, seen: object) -> bool:
    """Serve a client until it hangs up; return whether it has negotiated a version."""
    negotiated = False
    kept = b""  # what is sent behind the next reply
    while len(head := sock.recv(HEADER.size, socket.MSG_WAITALL)) == HEADER.size:
        ident, command, size, flags, _ = HEADER.unpack(head)
        print(command, peer.state, file=seen)  # type: ignore[call-overload]
        rest = size - HEADER.size
        asked = sock.recv(rest, socket.MSG_WAITALL) if rest else b""
        try:
            payload, kind, number = peer.answer(command, asked), REPLY, 0
            negotiated |= command == VERSION
        except RefusalError as refusal:
            payload = peer.error_payload(command, asked)
            kind, number = peer.error_reply(refusal.number)
        if flags & NO_REPLY:
            continue
        reply = HEADER.pack(ident, command, 16 + len(payload), kind, number) + payload
        if peer.keeps_back(command) and not kept and select.select([sock], [], [], 0.05)[0]:
            kept = reply
        else:
            sock.sendall(reply + kept)
            kept = b""
    return negotiated
