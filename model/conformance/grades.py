"""What a device is held to when a run is checked, in its typed form: `model/conformance.toml`.

A check is named where it is made. Whether a kind of device is held to it, and what a breach of it
is called, is read from the table: from its own row, or from the row of vfio_v2.toml or wire.toml
that is broken.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from vfio_migration.model.errors import Mistake, Named
from vfio_migration.model.load import parse, typed
from vfio_migration.model.spec import Row

TABLE: Final = "conformance.toml"

Grade = Literal["violation", "suspicious", "house rule"]

GRADES: Final[tuple[Grade, ...]] = get_args(Grade)
"""The worst first."""

VFIO_USER: Final = "vfio-user"
"""The kind of device that a recording shows: anybody's server."""

LINUX: Final = "linux"
"""The kind of device that Linux serves: its drivers."""

HOUSE: Final = "house"
"""Our own server, which keeps to every row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKind(Row):
    """A kind of device.

    Attributes:
        name: What it is called.
        bound_by: How a source begins that it is bound by.
        summary: What it is.
    """

    name: str
    bound_by: tuple[str, ...]
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Row):
    """Something that a device is held to.

    Attributes:
        name: What it is called where it is made.
        summary: What has to hold.
        text: What the text of the specification has of it, in short.
        source: Where the text has it; None if the row that is broken names that.
        sign_of: What a breach is the sign of, if it is allowed.
        times: How often it has to happen before anybody learns of it.
    """

    name: str
    summary: str
    text: str = ""
    source: str | None = None
    sign_of: str = ""
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Grades(Row):
    """The whole table."""

    name: str
    title: str
    peers: tuple[PeerKind, ...]
    checks: tuple[Check, ...]

    def peer(self, name: str) -> PeerKind:
        """Return a kind of device; raise `UnknownNameError` if there is none."""
        return Named("kind of device", self.peers)[name]

    @functools.cached_property
    def by_name(self) -> Named[Check]:
        """The checks by name."""
        return Named("check", self.checks)

    def check(self, name: str) -> Check:
        """Return a check; raise `UnknownNameError` if there is none."""
        return self.by_name[name]

    def source(self, check: str, row_source: str = "") -> str:
        """Return where it is specified: in the row of the check, or in the row that is broken."""
        own = self.check(check).source
        return row_source if own is None else own

    def holds(self, peer: PeerKind, check: str, row_source: str = "") -> bool:
        """Return whether a kind of device is held to a check, whose broken row has this source."""
        source = self.source(check, row_source)
        return any(place.startswith(peer.bound_by) for place in source.split("; "))

    def grade(self, check: str, row_source: str = "") -> Grade:
        """Return what a breach is called where anybody's server has committed it."""
        if self.holds(self.peer(VFIO_USER), check, row_source):
            return "violation"
        return "suspicious" if self.check(check).sign_of else "house rule"


@functools.cache
def load_grades() -> Grades:
    """Read the table that comes with the package."""
    text = pkgutil.get_data("vfio_migration.model", TABLE)
    assert text is not None, "the package is installed without its table"
    return typed(Grades, _mistakes, parse(text, TABLE), TABLE)


def _mistakes(data: Mapping[str, Any]) -> list[Mistake]:
    found: list[Mistake] = []
    for section in ("peers", "checks"):
        names = [row.get("name") for row in data.get(section, ())]
        found += [
            Mistake(f"{section}[{at}].name", name, "is the name of an earlier row", None)
            for at, name in enumerate(names)
            if name in names[:at]
        ]
    return found
