"""What can become of a migration besides success, by what is left behind.

`CannotMigrateError`: nothing was begun, everything is as it was. `MigrationFailedError`: it was
begun, and `outcome` states who runs now. Both state in `hints` what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Outcome = Literal["destination", "source", "lost", "undecided"]
"""Who runs with the whole state: one side, nobody any more, or it is not known."""


class CoordinatorError(Exception):
    """What a coordinator raises.

    Attributes:
        why: What is wrong, naming the device and the value.
        hints: What to do, one sentence each.
    """

    def __init__(self, why: str, hints: Sequence[str] = ()) -> None:
        super().__init__(why, tuple(hints))
        self.why = why
        self.hints = tuple(hints)

    def __str__(self) -> str:
        return "\n".join((self.why, *(f"  {hint}" for hint in self.hints)))


class CannotMigrateError(CoordinatorError):
    """Nothing was begun, and nothing has changed.

    Attributes:
        refused: It was understood, and is not to be done; if not, it was asked for wrongly.
    """

    def __init__(self, why: str, hints: Sequence[str] = (), *, refused: bool = False) -> None:
        super().__init__(why, hints)
        self.refused = refused


class NotTrustedError(CannotMigrateError):
    """Another user may have left a claim or a journal: nothing is done that it asks for."""


class CancelledError(CoordinatorError):
    """Somebody wished that it be given up."""


class StepFailedError(CoordinatorError):
    """A step of the plan was not done.

    Attributes:
        peers: The labels of the devices that failed it.
    """

    def __init__(self, why: str, peers: Sequence[str] = (), hints: Sequence[str] = ()) -> None:
        super().__init__(why, hints)
        self.peers = tuple(peers)


class MigrationFailedError(CoordinatorError):
    """It was begun and did not succeed.

    Attributes:
        outcome: Who runs now.
        cancelled: It was given up because somebody wished so.
    """

    def __init__(
        self, why: str, outcome: Outcome, hints: Sequence[str] = (), *, cancelled: bool = False
    ) -> None:
        super().__init__(why, hints)
        self.outcome: Outcome = outcome
        self.cancelled = cancelled


def is_denied(error: BaseException | None) -> bool:
    """Return whether this user may not make the connection: the server may well be there."""
    return error is not None and isinstance(error.__cause__, PermissionError)
