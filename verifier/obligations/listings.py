"""Independent statements of specifications about the machine, for obligation T8."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.load import parse, read_bytes
from vfio_migration.model.spec import Role, Spec

LISTED: Final = "T8"
"""The obligation that compares a table with listings, and proves nothing of what is safe."""


@dataclass(frozen=True, slots=True)
class Group:
    """Arcs that a device with all of `with_` and none of `without` must have."""

    with_: tuple[str, ...]
    without: tuple[str, ...]
    arcs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Conduct:
    """What a device in any of these states must not do, and what it may, as roles of activities."""

    states: tuple[str, ...]
    forbids: tuple[Role, ...]
    permits: tuple[Role, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """A capability set there can be, and the states that a device with it has."""

    capabilities: tuple[str, ...]
    states: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Numbers:
    """The values of states and capabilities on the wire."""

    states: dict[str, int]
    capabilities: dict[str, int]
    source: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What one specification lists.

    Attributes:
        name: A short name.
        title: What is listed, by whom.
        source: File and symbol.
        without: Capabilities the listing does not speak of; it is held only against sets without.
        reading: How an ambiguous sentence is read, or the empty string.
        groups: The arcs.
        paths: Combination transitions, each with the capability set it is listed for.
        conduct: What a device does in which states.
        profile: The profile of the table that stands for this specification.
        sets: The capability sets there can be.
        numbers: What stands for states and capabilities on the wire.
    """

    name: str
    title: str
    source: str
    without: tuple[str, ...]
    reading: str
    groups: tuple[Group, ...]
    paths: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    conduct: tuple[Conduct, ...]
    profile: str
    sets: tuple[Allowed, ...]
    numbers: Numbers

    @property
    def states(self) -> frozenset[str]:
        """The states the listing names: on others it is silent."""
        ends = {state for group in self.groups for arc in group.arcs for state in arc}
        return frozenset(ends | {state for _, path in self.paths for state in path})


_own: tuple[Listing, ...] | None = None


def use(path: str | None) -> None:
    """Hold tables against the listings of a file; None stands for those of the verifier.

    Raises:
        SpecError: The file cannot be read, or holds no listings.
    """
    global _own
    if path is None:
        _own = None
        return
    data = parse(read_bytes(path), path)
    try:
        _own = tuple(_listing(row) for row in data["listings"])  # type: ignore[attr-defined]
    except (KeyError, TypeError, ValueError) as error:
        problem = f"is not a file of listings: {type(error).__name__}: {error}"
        hint = "verifier/listings.toml shows the form"
        raise SpecError([Mistake("--listings", path, problem, hint)]) from None


def unlisted(spec: Spec) -> tuple[str, ...]:
    """Return the states and capabilities of a table that no listing knows: T8 is silent on them."""
    states = {name for listing in listings() for name in listing.numbers.states}
    capabilities = {name for listing in listings() for name in listing.numbers.capabilities}
    return (
        *(f"state {row.name}" for row in spec.states if row.name not in states),
        *(f"capability {row.name}" for row in spec.capabilities if row.name not in capabilities),
    )


def listings() -> tuple[Listing, ...]:
    """Return the listings in use: those that come with the verifier, or those of `use`."""
    return _packaged() if _own is None else _own


@functools.cache
def _packaged() -> tuple[Listing, ...]:
    text = (resources.files("vfio_migration.verifier") / "listings.toml").read_text("utf-8")
    return tuple(_listing(row) for row in tomllib.loads(text)["listings"])


def _listing(row: dict[str, Any]) -> Listing:
    return Listing(
        name=row["name"],
        title=row["title"],
        source=row["source"],
        without=tuple(row["without"]),
        reading=row["reading"],
        groups=tuple(
            Group(
                with_=tuple(group["with"]),
                without=tuple(group["without"]),
                arcs=tuple((from_, to) for from_, to in group["arcs"]),
            )
            for group in row["groups"]
        ),
        paths=tuple(
            (tuple(combination["capabilities"]), tuple(path))
            for combination in row.get("combinations", ())
            for path in combination["paths"]
        ),
        conduct=tuple(
            Conduct(
                states=tuple(conduct["states"]),
                forbids=tuple(conduct["forbids"]),
                permits=tuple(conduct["permits"]),
                source=conduct["source"],
            )
            for conduct in row.get("conduct", ())
        ),
        profile=row["profile"],
        sets=tuple(
            Allowed(
                capabilities=tuple(allowed["capabilities"]),
                states=tuple(allowed["states"]),
                source=allowed["source"],
            )
            for allowed in row["sets"]
        ),
        numbers=Numbers(**row["numbers"]),
    )
