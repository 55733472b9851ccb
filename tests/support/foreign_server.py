"""A vfio-user server that shares nothing with ours: written from the specification, by hand.

One device with a blob of state, one connection at a time, one thread. It does what the
specification asks of a server that can be migrated and not a thing more: no twin socket, no
capabilities in VERSION but a small max_data_xfer_size, no MIG_DATA_SIZE, no descriptors, no DMA,
`data_fd` zero, its own stream, its own errno. Its state machine is a table of its own.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import sys

HEADER = struct.Struct("=HHIII")
ERROR, STOP, RUNNING, STOP_COPY, RESUMING, _, PRE_COPY = range(7)
SMALL = 3000

# Next step from a state towards a target, as this server's author understood the diagram.
PLAIN = {
    RUNNING: {STOP: STOP, STOP_COPY: STOP, RESUMING: STOP},
    STOP: {RUNNING: RUNNING, STOP_COPY: STOP_COPY, RESUMING: RESUMING},
    STOP_COPY: {STOP: STOP, RUNNING: STOP, RESUMING: STOP},
    RESUMING: {STOP: STOP, RUNNING: STOP, STOP_COPY: STOP},
}
WITH_PRE_COPY = {
    RUNNING: {**PLAIN[RUNNING], PRE_COPY: PRE_COPY},
    STOP: {**PLAIN[STOP], PRE_COPY: RUNNING},
    STOP_COPY: PLAIN[STOP_COPY],
    RESUMING: {**PLAIN[RESUMING], PRE_COPY: STOP},
    PRE_COPY: {RUNNING: RUNNING, STOP: RUNNING, STOP_COPY: STOP_COPY, RESUMING: RUNNING},
}


class No(Exception):  # noqa: N818 - reads as what it says
    """An error reply."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Device:
    def __init__(self, blob: bytes, flags: int, refuses: str) -> None:
        self.flags, self.refuses = flags, refuses
        self.table = WITH_PRE_COPY if flags & 4 else PLAIN
        self.state, self.blob = RUNNING, bytearray(blob)
        self.out, self.taken = b"", bytearray()

    def take(self, to: int) -> None:
        """One step."""
        if self.state == RESUMING:
            size, rest = int.from_bytes(self.taken[:8], "big"), self.taken[8:]
            if len(self.taken) < 8 or size != len(rest) or self.refuses == "stream":
                raise No(errno.EBADMSG)
            self.blob = bytearray(rest)
        if self.refuses == "start" and to == RUNNING:
            raise No(errno.EIO)
        whole = len(self.blob).to_bytes(8, "big") + bytes(self.blob)
        if to == PRE_COPY:
            self.out = whole[: len(whole) // 2]
            self.sent_early = len(self.out)
        elif to == STOP_COPY:
            self.out = self.out + whole[self.sent_early :] if self.state == PRE_COPY else whole
        elif to == RESUMING:
            self.taken = bytearray()
        self.state = to

    def go(self, target: int) -> None:
        while self.state != target:
            step = self.table.get(self.state, {}).get(target)
            if step is None:
                raise No(errno.EINVAL)
            self.take(step)


def feature(device: Device, payload: bytes) -> bytes:
    _argsz, flags = struct.unpack_from("=II", payload)
    index, get, set_, probe = flags & 0xFFFF, flags >> 16 & 1, flags >> 17 & 1, flags >> 18 & 1
    if index not in (1, 2) or (index == 1 and set_):
        raise No(errno.ENOTTY)
    if probe:
        return payload
    if get:
        state = struct.pack("=II", device.state, 0)
        data = struct.pack("=Q", device.flags) if index == 1 else state
        return struct.pack("=II", 8 + len(data), flags) + data
    device.go(struct.unpack_from("=I", payload, 8)[0])
    return payload


def answer(device: Device, command: int, payload: bytes) -> bytes:
    if command == 1:
        said = {"capabilities": {"max_data_xfer_size": SMALL}}
        return struct.pack("=HH", 0, 0) + json.dumps(said).encode() + b"\0"
    if command == 4:
        return struct.pack("=IIII", 16, 3, 1, 1)
    if command == 5:
        index = struct.unpack_from("=I", payload, 8)[0]
        if index:
            raise No(errno.EINVAL)
        return struct.pack("=IIIIQQ", 32, 3, index, 0, len(device.blob), 0)
    if command == 7:
        return struct.pack("=IIII", 16, 1, struct.unpack_from("=I", payload, 8)[0], 1)
    if command == 9:
        offset, region, count = struct.unpack_from("=QII", payload)
        return struct.pack("=QII", offset, region, count) + device.blob[offset : offset + count]
    if command == 10:
        offset, region, count = struct.unpack_from("=QII", payload)
        device.blob[offset : offset + count] = payload[16:]
        return payload[:16]
    if command == 13:
        device.state, device.out, device.blob[:] = RUNNING, b"", bytes(len(device.blob))
        return b""
    if command == 16:
        return feature(device, payload)
    if command == 17:
        size = struct.unpack_from("=I", payload, 4)[0]
        if device.state not in (PRE_COPY, STOP_COPY) or size > SMALL:
            raise No(errno.EINVAL)
        data, device.out = device.out[:size], device.out[size:]
        return struct.pack("=II", 8 + len(data), len(data)) + data
    if command == 18:
        if device.state != RESUMING or len(payload) > 8 + SMALL:
            raise No(errno.EINVAL)
        device.taken += payload[8:]
        return b""
    raise No(errno.ENOSYS)


def serve(sock: socket.socket, device: Device) -> None:
    file = sock.makefile("rb")
    while head := file.read(16):
        ident, command, size, flags, _ = HEADER.unpack(head)
        try:
            payload, code = answer(device, command, file.read(size - 16)), 0
        except No as no:
            payload, code = b"", no.number
        if not flags & 0x10:
            kind = 0x21 if code else 1
            sock.sendall(HEADER.pack(ident, command, 16 + len(payload), kind, code) + payload)


def main(path: str, size: str, flags: str, refuses: str) -> None:
    device = Device(bytes(int(size)), int(flags), refuses)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(8)
        os.write(1, b"ready\n")
        while True:
            sock, _ = listener.accept()
            with sock:
                serve(sock, device)


if __name__ == "__main__":
    main(*sys.argv[1:])
