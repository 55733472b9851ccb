"""The definitions of compatibility, as data. docs/compatibility.md states them for users.

Each speaks of a device that follows NEW and of somebody who knows only OLD: a client, or the author
of a driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from vfio_migration.model import Mistake, SpecError

Client = Literal["every", "flags", "polite"]
"""What a client asks for: "every" value; values of the states that the "flags" it knows stand for;
of these only what OLD accepts in that situation ("polite")."""

Failures = Literal["none", "included", "tolerated"]
"""Whether arcs, resets and disconnects fail, and what of that a client puts up with."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One definition of compatibility.

    Attributes:
        id: The name that verdicts give.
        title: A few words.
        statement: What holds if the verdict is "holds": one sentence.
        client: What the client asks for; None if it is a driver that is asked about.
        failures: What of failures is compared.
        decides: Whether it decides the exit status of `diff`, unless somebody asks for others.
    """

    id: str
    title: str
    statement: str
    client: Client | None
    failures: Failures
    decides: bool = False


DEFINITIONS: Final = (
    Definition(
        "1",
        "the same for every client",
        "Whatever a client asks for, NEW answers as OLD does; nothing fails.",
        "every",
        "none",
    ),
    Definition(
        "2",
        "a client that reads the flags",
        "A client that asks only for states that the flags it knows stand for is answered as by "
        "OLD; nothing fails.",
        "flags",
        "none",
    ),
    Definition(
        "3",
        "a polite client",
        "A client that besides never asks for what OLD refuses is answered as by OLD; nothing "
        "fails.",
        "polite",
        "none",
        decides=True,
    ),
    Definition(
        "4",
        "failures included",
        "A client that reads the flags sees nothing that OLD could not do, whatever fails.",
        "flags",
        "included",
    ),
    Definition(
        "5",
        "failures tolerated",
        "As 4; but after a failure the device may be in ERROR, and in a state that the client does "
        "not know if it simulates a known state with the same session.",
        "flags",
        "tolerated",
        decides=True,
    ),
    Definition(
        "6",
        "no new arcs for drivers",
        "A driver written for OLD is never asked for an arc that OLD does not have.",
        None,
        "included",
    ),
)


def definition(name: str) -> Definition:
    """Return the definition called `name`, as "3" or "(3)".

    Raises:
        SpecError: There is none.
    """
    for row in DEFINITIONS:
        if name.strip("()") == row.id:
            return row
    known = ", ".join(row.id for row in DEFINITIONS)
    raise SpecError([Mistake("--require", name, "is not a definition", f"there are {known}")])


__all__ = ["DEFINITIONS", "Client", "Definition", "Failures", "definition"]
