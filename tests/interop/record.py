"""Stands between a vfio-user client and a server, and writes down what each states.

    python tests/interop/record.py LISTEN SERVER OUT.jsonl

connects a client of the socket LISTEN with the socket SERVER, passes every message and every
descriptor on as it came, and writes one line per message: who sent it, its command, how many
descriptors came with it, and its bytes; and at the end one that states who closed. One connection,
until a side closes. `vfio-migration check-trace` reads what it writes. It knows the header
of a message and nothing else, so it can be wrong about nothing else.
"""

import array
import contextlib
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

HEADER = struct.Struct("=HHIII")
MAX_DESCRIPTORS = 64
COMMANDS = {
    1: "VERSION",
    2: "DMA_MAP",
    3: "DMA_UNMAP",
    4: "DEVICE_GET_INFO",
    5: "DEVICE_GET_REGION_INFO",
    6: "DEVICE_GET_REGION_IO_FDS",
    7: "DEVICE_GET_IRQ_INFO",
    8: "DEVICE_SET_IRQS",
    9: "REGION_READ",
    10: "REGION_WRITE",
    11: "DMA_READ",
    12: "DMA_WRITE",
    13: "DEVICE_RESET",
    15: "REGION_WRITE_MULTI",
    16: "DEVICE_FEATURE",
    17: "MIG_DATA_READ",
    18: "MIG_DATA_WRITE",
}


def receive(peer: socket.socket) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it; nothing if the peer has gone."""
    message = bytearray()
    descriptors: list[int] = []
    size = HEADER.size
    while len(message) < size:
        part, taken, _, _ = socket.recv_fds(peer, size - len(message), MAX_DESCRIPTORS)
        if not part:
            return b"", descriptors
        message += part
        descriptors += taken
        if len(message) == HEADER.size:
            size = HEADER.unpack(message)[2]
    return bytes(message), descriptors


def send(peer: socket.socket, message: bytes, descriptors: list[int]) -> None:
    """The whole message; the descriptors go with its first byte."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sent = peer.sendmsg([message], rights if descriptors else [])
    peer.sendall(message[sent:])


class Recorder:
    """Writes the messages of both sides into one file, in the order they passed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def note(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._out.write(json.dumps(line) + "\n")
            self._out.flush()

    def carry(self, sender: str, source: socket.socket, sink: socket.socket) -> None:
        """Everything from one side to the other, until there is no more."""
        try:
            while True:
                message, descriptors = receive(source)
                if not message:
                    self.note({"from": sender, "what": "gone"})
                    break
                _, command, _, flags, _ = HEADER.unpack_from(message)
                what = COMMANDS.get(command, f"command {command}")
                self.note(
                    {
                        "from": sender,
                        "what": ("reply to " if flags & 0xF else "") + what,
                        "descriptors": len(descriptors),
                        "message": message.hex(),
                    }
                )
                send(sink, message, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
        except OSError as error:
            self.note({"from": sender, "what": f"gone: {error}"})
        for peer in (source, sink):
            with contextlib.suppress(OSError):  # the other direction may have been here first
                peer.shutdown(socket.SHUT_RDWR)


def main(listen: str, server: str, out: str) -> None:
    with socket.socket(socket.AF_UNIX) as door, Path(out).open("w") as file:
        door.bind(listen)
        door.listen(1)
        client, _ = door.accept()
        device = socket.socket(socket.AF_UNIX)
        device.connect(server)
        recorder = Recorder(file)
        with client, device:
            back = threading.Thread(target=recorder.carry, args=("server", device, client))
            back.start()
            recorder.carry("client", client, device)
            back.join()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
