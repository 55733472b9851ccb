"""A relay in front of a server that adds a descriptor to each reply that has none.

    python -m support.hostile_relay PATH SERVER KIND MORE FOLDER

It listens at PATH until its standard input is closed, and prints how often it sent one. It is a
process of its own: one that has a FUSE file which is not answered for can start no other.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from support.blocking_descriptors import LingeringSockets, fuse_file


class Forget(Protocol):
    """What is done with a descriptor in this process once it was to be sent."""

    def __call__(self, fd: int, *, sent: bool) -> None: ...


@dataclass(frozen=True)
class Kind:
    """A kind of descriptor."""

    make: Callable[[], int]
    forget: Forget


class Relay:
    """Listens in the place of a server and adds a descriptor to what it states without one.

    Args:
        path: Where it listens.
        server: The path of the server.
        kind: What is sent.
        more: How many copies of this process's standard input go before each.
    """

    def __init__(self, path: Path, server: Path, kind: Kind, more: int = 0) -> None:
        self.sent = 0
        self._server, self._kind, self._spare = server, kind, [0] * more
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ended = sys.stdin

    def run(self) -> None:
        """Serve until standard input is closed."""
        while self._ended not in select.select([self._listener, self._ended], [], [])[0]:
            client, _ = self._listener.accept()
            with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
                server.connect(str(self._server))
                self._carry(client, server)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            ready = select.select([client, server, self._ended], [], [])[0]
            if self._ended in ready:
                return
            for one in ready:
                data, own, _, _ = socket.recv_fds(one, 1 << 16, 16)
                if not data:
                    return
                if one is client:
                    server.sendall(data)
                    continue
                if own:  # the twin socket, or a region
                    socket.send_fds(client, [data], own)
                    for fd in own:
                        os.close(fd)
                    continue
                fd, sent = self._kind.make(), 0
                try:
                    sent = socket.send_fds(client, [data], [*self._spare, fd])
                finally:
                    self._kind.forget(fd, sent=sent > 0)
                self.sent += 1
                client.sendall(data[sent:])


@contextlib.contextmanager
def fuse(folder: Path) -> Iterator[Kind]:
    """Nobody closes it, for that is never answered."""
    with fuse_file(folder / "fuse", "FLUSH", "GETATTR") as fd:
        yield Kind(lambda: fd, lambda fd, sent: None)


@contextlib.contextmanager
def lingering(_folder: Path) -> Iterator[Kind]:
    with LingeringSockets() as sockets:
        yield Kind(sockets.make, sockets.forget)


@contextlib.contextmanager
def lingering_inside(_folder: Path) -> Iterator[Kind]:
    with LingeringSockets() as sockets:
        yield Kind(sockets.make_inside, sockets.forget)


@contextlib.contextmanager
def zero(_folder: Path) -> Iterator[Kind]:
    yield Kind(lambda: os.open("/dev/zero", os.O_RDWR), lambda fd, sent: os.close(fd))


KINDS = {
    "a FUSE file": fuse,
    "a socket that lingers": lingering,
    "one inside of another": lingering_inside,
    "/dev/zero": zero,
}


def main() -> None:
    path, server, kind, more, folder = sys.argv[1:]
    with KINDS[kind](Path(folder)) as made:
        relay = Relay(Path(path), Path(server), made, int(more))
        print("ready", flush=True)
        relay.run()
    with contextlib.suppress(BrokenPipeError):
        print(relay.sent, flush=True)


if __name__ == "__main__":
    main()
