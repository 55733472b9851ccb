"""The process that receives the descriptors of peers; `descriptor_kinds` states why there is one.

It is started when the first descriptor comes, and serves one peer after the other. One that has
got a descriptor which must not be closed is left behind with it when its peer goes away, and the
next peer gets another. Those left behind end by themselves as soon as the descriptor lets them.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import sys
from typing import Final

from vfio_migration.runtime.files import descriptor_kinds
from vfio_migration.runtime.files.descriptor_kinds import REPLY, REQUEST

TIMEOUT_S: Final = 4.0
"""How long the receiver may take to answer. It waits for nobody, so it takes no time but to start.
Below the 5 s in which SIGTERM ends a server."""

MAX_LEFT: Final = 16
"""How many receivers may be left behind before no more descriptors are received. TasksMax= and
MemoryMax= of contrib/systemd have room for them, and for the one that is used."""

MIB_EACH: Final = 5
"""How much memory one takes at most, in MiB; 4.3 were measured (Python 3.11)."""

_DRAINED: Final = 1 << 16
"""How many bytes are forgotten at a time."""
_INT: Final = array.array("i").itemsize
_left: Final[list[int]] = []
"""The processes that were left behind and have not ended yet, of all receivers."""


class DescriptorReceiver:
    """Receives descriptors in a process of its own.

    Attributes:
        devices: Memory of real devices is handed on too.
        sockets: UNIX sockets are handed on too. They are to be closed before `peer_disconnected` is
        called.
    """

    def __init__(self, *, devices: bool = False, sockets: bool = False) -> None:
        self.devices, self.sockets = devices, sockets
        self._control = -1
        self._process = 0
        self._tainted = self._stuck = False
        self._owner = os.getpid()

    def receive(self, sock: socket.socket, size: int, room: int) -> list[int]:
        """Return copies of the descriptors that come with what is next to be read from a socket.

        What is not safe to have is replaced by /dev/null. The bytes are still to be read; their
        reader is to give the system no room for descriptors, so that it forgets them.

        Args:
            sock: The socket.
            size: How much will be read.
            room: For how many descriptors there is room.

        Raises:
            OSError: They cannot be received.
        """
        request = REQUEST.pack(size, room, self.devices, self.sockets)
        whole, came = self._ask(request, sock, room)
        fds = received(came)
        if not whole:
            for fd in fds:
                os.close(fd)
            self._leave()
            raise OSError("the process that receives descriptors has room for no more")
        return fds

    def hang_up(self, sock: socket.socket) -> None:
        """Close a connection without waiting for what is on its way in it.

        What was not read is read and forgotten. Never raises. In a child that a fork made only its
        copy is closed: the connection is the parent's.
        """
        if os.getpid() != self._owner:
            sock.close()
            return
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)  # from here on nothing more comes
        with contextlib.suppress(OSError):
            while True:
                data, _, found, _ = sock.recvmsg(_DRAINED, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                if found & socket.MSG_CTRUNC:
                    self._hold(sock)
                    break
                if not data:
                    break
                sock.recv(len(data), socket.MSG_DONTWAIT)
        sock.close()

    def _hold(self, sock: socket.socket) -> None:
        """Have the process have the socket too, until it ends. Raises `OSError` if it cannot."""
        sock.shutdown(socket.SHUT_RDWR)  # the other end sees this one close
        self._ask(REQUEST.pack(0, 0, False, False), sock, 0, limited=False)

    def peer_disconnected(self) -> None:
        """Handle the end of a peer: a process that may have to wait for it is left behind."""
        if self._tainted:
            self._leave()

    @property
    def process(self) -> int:
        """The process that receives them now, or 0."""
        return self._process

    def close(self) -> None:
        """Let the process end."""
        self._leave()

    def __del__(self) -> None:
        self.close()

    def _ask(
        self, request: bytes, sock: socket.socket, room: int, *, limited: bool = True
    ) -> tuple[bool, list[tuple[int, int, bytes]]]:
        try:
            if self._control < 0:
                self._start(limited=limited)
            control = socket.socket(fileno=self._control)
            try:
                reply, came = _answer(control, request, sock, room)
            finally:
                control.detach()
        except OSError:
            self._stuck = True  # for all that is known
            self._leave()
            raise
        whole, self._tainted, self._stuck = REPLY.unpack(reply)
        return whole, came

    def _start(self, *, limited: bool) -> None:
        """Start the process; one that only holds a socket ends when it is left."""
        _reap()
        if limited and len(_left) >= MAX_LEFT:
            raise OSError(f"{MAX_LEFT} processes wait for descriptors of peers to be closed")
        if not sys.executable:
            raise OSError("there is no Python to start")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            null, program = os.devnull, descriptor_kinds.__file__
            self._process = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", program],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
                ],
                setsigmask=[],
            )
            self._control = ours.detach()

    def _leave(self) -> None:
        """End the process, or leave it behind if its end may have to wait for somebody."""
        control, process, stuck = self._control, self._process, self._stuck
        self._control, self._process = -1, 0
        self._tainted = self._stuck = False
        if control < 0:
            return
        if os.getpid() != self._owner:
            os.close(control)  # in a child that a fork made: the process is the parent's
            return
        if stuck:
            _left.append(process)
        else:
            with contextlib.suppress(OSError):  # somebody else has waited for it
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
        os.close(control)
        _reap()


def _answer(
    control: socket.socket, request: bytes, sock: socket.socket, room: int
) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))]
    control.sendmsg([request], rights)
    waits = select.poll()
    waits.register(control, select.POLLIN)
    if not waits.poll(TIMEOUT_S * 1000):
        raise TimeoutError("the process that receives descriptors does not answer")
    space = socket.CMSG_SPACE(room * _INT)
    reply, came, _, _ = control.recvmsg(REPLY.size, space, socket.MSG_CMSG_CLOEXEC)
    if not reply:
        raise ConnectionResetError("the process that receives descriptors has ended")
    return reply, came


def _reap() -> None:
    for process in _left[:]:
        try:
            ended, _ = os.waitpid(process, os.WNOHANG)
        except ChildProcessError:
            ended = process  # somebody else has waited for it
        if ended and process in _left:
            _left.remove(process)


def received(control: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came; each of them is now ours to close."""
    found = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % _INT])
    return found.tolist()
