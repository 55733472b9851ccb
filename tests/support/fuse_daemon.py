"""A file system of a client's own: one file, and operations that are never answered.

    unshare -rm python fuse_daemon.py SOCKET FOLDER SIZE [OPERATION...]

mounts it on FOLDER, in a mount namespace of its own, opens its file, sends the descriptor over the
socket with the number SOCKET, and from then on leaves the operations that are named unanswered.
It ends when the other end of the socket is closed; what waited for it then goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Final

OPERATIONS: Final = {
    "LOOKUP": 1,
    "GETATTR": 3,
    "SETATTR": 4,
    "OPEN": 14,
    "READ": 15,
    "WRITE": 16,
    "STATFS": 17,
    "RELEASE": 18,
    "FLUSH": 25,
    "INIT": 26,
}
_NO_REPLY: Final = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
_ENOSYS: Final = -38
_FILE: Final = 2
_PF_EXITING: Final = 4
_BLOCK: Final = 1 << 20
"""What the file system reports that its blocks are: as large as those of hugetlbfs, and larger."""


class FileSystem:
    """The one file.

    Attributes:
        size: How long the file is reported to be.
        silent: Which operations are not answered.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.silent: set[int] = set()
        self._unanswered: list[int] = []
        self._fuse = os.open("/dev/fuse", os.O_RDWR)

    def mount(self, folder: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        data = f"fd={self._fuse},rootmode=40755,user_id=0,group_id=0".encode()
        if libc.mount(b"hostile", folder.encode(), b"fuse", 6, data):  # nosuid, nodev
            raise OSError(ctypes.get_errno(), "mount")
        threading.Thread(target=self._serve, daemon=True).start()

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o100777, self.size) if node == _FILE else (0o40777, 0)
        numbers = (node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, _BLOCK, 0)
        return struct.pack("=6Q10I", *numbers)

    def _serve(self) -> None:
        while True:
            request = os.read(self._fuse, _BLOCK + 4096)
            _, operation, unique, node = struct.unpack_from("=IIQQ", request)
            if operation in _NO_REPLY:
                continue
            if operation in self.silent:
                self._unanswered.append(unique)
                continue
            error, payload = self._answer(operation, node, request[40:])
            self._reply(unique, error, payload)

    def _reply(self, unique: int, error: int, payload: bytes = b"") -> None:
        head = struct.pack("=IiQ", 16 + len(payload), error, unique)
        with contextlib.suppress(OSError):  # who asked has gone away
            os.write(self._fuse, head + payload)

    def give_up(self) -> None:
        """Answer all that waits, and leave nothing unanswered any more."""
        self.silent = set()
        for unique in self._unanswered:
            self._reply(unique, _ENOSYS)

    def _answer(self, operation: int, node: int, payload: bytes) -> tuple[int, bytes]:
        names = {number: name for name, number in OPERATIONS.items()}
        match names.get(operation):
            case "INIT":
                return 0, struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 8, 8, _BLOCK, 1, 0, *[0] * 9)
            case "LOOKUP":
                return 0, struct.pack("=4Q2I", _FILE, 0, 0, 0, 0, 0) + self._attributes(_FILE)
            case "GETATTR" | "SETATTR":
                return 0, struct.pack("=QII", 0, 0, 0) + self._attributes(node)
            case "OPEN":
                return 0, struct.pack("=QII", 1, 0, 0)
            case "READ":
                _, offset, size = struct.unpack_from("=QQI", payload)
                return 0, bytes(max(0, min(size, self.size - offset)))
            case "WRITE":
                return 0, struct.pack("=II", struct.unpack_from("=QQI", payload)[2], 0)
            case "STATFS":
                return 0, struct.pack("=5Q10I", 0, 0, 0, 0, 0, _BLOCK, 255, _BLOCK, *[0] * 7)
            case "RELEASE" | "FLUSH":
                return 0, b""
        return _ENOSYS, b""


def exiting(pid: int) -> bool:
    """Return whether a process is about to end.

    One that was killed waits for its files of this system to be closed before its sockets are.
    """
    try:
        about = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return True
    return bool(int(about.rpartition(")")[2].split()[6]) & _PF_EXITING)


def main() -> None:
    number, folder, size, *silent = sys.argv[1:]
    there = socket.socket(fileno=int(number))
    system = FileSystem(int(size))
    system.mount(folder)
    fd = os.open(Path(folder, "memory"), os.O_RDWR)
    socket.send_fds(there, [b"."], [fd])
    # Closed while this is still answered: a process that is killed and has a descriptor of its own
    # file system waits for itself for ever.
    os.close(fd)
    system.silent = {OPERATIONS[name] for name in silent}
    while not select.select([there], [], [], 1)[0] and not exiting(os.getppid()):
        pass
    system.give_up()
    os._exit(0)


if __name__ == "__main__":
    main()
