"""What can go wrong while a device runs, distinguished by whose fault it is.

`ANSWERS` is the one place that states which errno a peer is answered for which exception; a server
asks `answer_to`. An exception that carries an errno of its own (the row of the table that refused,
the code the device named) is answered with that, and the errno in `ANSWERS` is used when it has
none.
"""

from __future__ import annotations

import enum
import errno as errno_module
from dataclasses import dataclass, replace

from vfio_migration.model import Arc, Event, Route, SpecError
from vfio_migration.model.spec import Condition
from vfio_migration.runtime.engine.program import Situation


class Fault(enum.Enum):
    """Who has to mend something."""

    PEER = "the peer asked for what the specification does not allow"
    CALLER = "the program that embeds the engine misused it"
    DEVICE = "a callback of the device failed"
    BUG = "vfio-migration has a bug"


class ArcError(Exception):
    """Raised by a device whose arc failed.

    It is raised in `vfio_migration.runtime.engine.callbacks.Device.take`.

    Attributes:
        errno: The name of the error the client is answered, or None to leave it to the table.
        for_good: False if the device is back, session included, where the arc began; True if it
            could not be brought back to any legal state.
    """

    def __init__(
        self, message: str = "", *, errno: str | int | None = None, for_good: bool = False
    ) -> None:
        """Take `errno` by name ("EIO") or number; raise `ValueError` if this system has no such."""
        super().__init__(message)
        self.errno = None if errno is None else errno_name(errno)
        self.for_good = for_good


class EngineError(Exception):
    """What the engine raises. Every one has an errno.

    Attributes:
        errno: The name of the error a peer is answered.
    """

    errno: str

    @property
    def number(self) -> int:
        """The number of `errno` on this system."""
        return errno_number(self.errno)


class RequestRefusedError(EngineError):
    """A request that the table refuses. Nothing has changed, and the device was not called.

    Attributes:
        route: The decision, as `Machine.route` gave it.
        errno: The name of the error the client is answered.
        reason: Why, in words.
        when: The condition of the row of `[[requests]]` that refused.
        source: The place of the specification which that row is taken from.
        from_: The state in which the request was made.
        to: The state asked for: its name, or the number given if no state has it.
    """

    def __init__(self, route: Route) -> None:
        if route.refused is None:
            raise ValueError(f"{route}: is not refused")
        super().__init__(route)
        self.route = route
        self.errno = route.refused.errno
        self.reason: str = route.refused.reason
        self.when: Condition = route.refused.when
        self.source: str = route.refused.source
        self.from_: str = route.from_
        self.to: str | int = route.to

    def __str__(self) -> str:
        return f"{self.route}: {self.reason}"


class DeviceFailedError(EngineError):
    """A callback of the device failed; `__cause__` is what it raised.

    Attributes:
        situation: Where the device is now.
        event: The row of the table that states it.
        errno: The name of the error a peer is answered.
    """

    def __init__(self, situation: Situation, event: Event, errno: str, *more: object) -> None:
        super().__init__(situation, event, errno, *more)  # all of them, so that it can be pickled
        self.situation = situation
        self.event = event
        self.errno = errno

    def _describe(self, what: str) -> str:
        return f"{what} failed ({self.errno}); the device is in {self.situation.state}"

    def __str__(self) -> str:
        return self._describe("the device")


class RequestFailedError(DeviceFailedError):
    """An arc failed. The arcs before it have been taken.

    Attributes:
        arc: The arc that failed.
        from_: The state in which the request was made.
        to: The name of the state asked for.
    """

    def __init__(
        self, situation: Situation, event: Event, errno: str, arc: Arc, from_: str, to: str
    ) -> None:
        super().__init__(situation, event, errno, arc, from_, to)
        self.arc = arc
        self.from_ = from_
        self.to = to

    def __str__(self) -> str:
        return f"{self.from_} -> {self.to}: {self._describe(f'arc {self.arc}')}"


class ResetFailedError(DeviceFailedError):
    """The reset of the device failed: where it is, is unknown, as after a failure for good."""

    def __str__(self) -> str:
        return self._describe("reset")


class DisconnectFailedError(DeviceFailedError):
    """The device failed when it was notified that its client had disconnected.

    What the client had is gone all the same.
    """

    def __str__(self) -> str:
        return self._describe("disconnect")


class ReenteredError(EngineError, RuntimeError):
    """A callback of a device or an observer asked its own engine to act. Nothing has been done.

    Attributes:
        method: The method of the engine that was called.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method
        self.errno = _default(ReenteredError)

    def __str__(self) -> str:
        return (
            f"{self.method}() was called by a callback of the engine it would act on; in the "
            "middle of a request only reading is allowed"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One row of `ANSWERS`: for which exception, whose fault it is, what a peer is answered.

    Attributes:
        error: The exception, subclasses included.
        fault: Whose fault it is.
        errno: The name of the errno that is in when the exception carries none.
        summary: When this happens, in words.
    """

    error: type[BaseException]
    fault: Fault
    errno: str
    summary: str

    @property
    def number(self) -> int:
        """The number of `errno` on this system."""
        return errno_number(self.errno)


ANSWERS: tuple[Answer, ...] = (
    Answer(
        error=RequestRefusedError,
        fault=Fault.PEER,
        errno="EINVAL",
        summary="The table refuses the request; the row that does so names the errno.",
    ),
    Answer(
        error=DeviceFailedError,
        fault=Fault.DEVICE,
        errno="EIO",
        summary="An arc, a reset or a disconnect failed; the errno is the one the device named, "
        "else that of the row of [[events]].",
    ),
    Answer(
        error=ArcError,
        fault=Fault.DEVICE,
        errno="EIO",
        summary="The device failed outside of any arc, reset or disconnect.",
    ),
    Answer(
        error=ReenteredError,
        fault=Fault.CALLER,
        errno="EDEADLK",
        summary="A callback asked its own engine to act; waiting for it would never have ended.",
    ),
    Answer(
        error=SpecError,
        fault=Fault.CALLER,
        errno="EINVAL",
        summary="A name of a state, or a table, that the embedding program gave is wrong. A peer "
        "sends numbers, so this is never its doing.",
    ),
    Answer(
        error=BaseException,
        fault=Fault.BUG,
        errno="EREMOTEIO",
        summary="Anything else: it should not have got out of here.",
    ),
)
"""Which errno a peer is answered for which exception. The first row that fits is taken."""


def answer_to(error: BaseException) -> Answer:
    """Return the row of `ANSWERS` for an exception, with the errno it carries if it carries one."""
    row = next(row for row in ANSWERS if isinstance(error, row.error))
    own = error.errno if isinstance(error, EngineError | ArcError) else None
    return row if own is None else replace(row, errno=own)


def words(error: BaseException | None) -> str:
    """Return what an exception says, or else what it is; never raises, whatever a device wrote."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - one that cannot even say what is wrong
        return type(error).__name__


def _default(error: type[BaseException]) -> str:
    return next(row.errno for row in ANSWERS if issubclass(error, row.error))


def default_errno() -> str:
    """Return what a failure is answered when neither the device nor the table names an errno."""
    return _default(DeviceFailedError)


# Not `errorcode`, which has one name per number: EDEADLK would be none, because EDEADLOCK is.
_NUMBERS = {name: code for name, code in vars(errno_module).items() if isinstance(code, int)}


def errno_name(code: str | int) -> str:
    """Return the name of an errno given by name or number; raise `ValueError` if there is none."""
    name = errno_module.errorcode.get(code) if isinstance(code, int) else code
    if name not in _NUMBERS:
        raise ValueError(f"{code!r} is not an errno of this system")
    return name


def errno_number(name: str) -> int:
    """Return the number of an errno on this system; raise `ValueError` if it has no such."""
    return _NUMBERS[errno_name(name)]
