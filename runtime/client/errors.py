"""What goes wrong for a client, by whose doing it is.

`RefusedError` is the server's answer, and the connection goes on. After any of the others it is
over: what was asked for may have been done or not.
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """What a client raises.

    Attributes:
        peer: Whom the client was talking to: a path, or what its owner calls it.
    """

    def __init__(self, peer: str, why: str) -> None:
        super().__init__(peer, why)
        self.peer = peer
        self.why = why

    def __str__(self) -> str:
        return f"{self.peer}: {self.why}"


class RefusedError(ClientError):
    """An error reply.

    Attributes:
        command: The command, as the specification calls it.
        errno: The name of the error; None if the server sent none, or a number unknown here.
        code: The number of the error as the server sent it; 0 if it sent none.
        about: What was asked of it: for DEVICE_FEATURE the method, the feature and the state.
    """

    def __init__(
        self, peer: str, command: str, errno: str | None, code: int = 0, about: str = ""
    ) -> None:
        self.command = command
        self.errno = errno
        self.code = code
        self.about = about
        super().__init__(peer, f"{asked(command, about)} is refused ({self.reason})")

    @property
    def reason(self) -> str:
        """The error in words: its name, its number, or that there is none."""
        if self.errno is not None:
            return self.errno
        return f"errno {self.code}" if self.code else "without an errno"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.peer, self.command, self.errno, self.code, self.about)


def asked(command: str, about: str) -> str:
    """Return what was asked for in words."""
    return f"{command} {about}" if about else command


class PeerDisconnectedError(ClientError):
    """The connection could not be made, has ended, or was closed by this side."""


class PeerProtocolError(ClientError):
    """The server sent what the protocol does not allow."""


class TimedOutError(ClientError):
    """The server did not answer in time."""
