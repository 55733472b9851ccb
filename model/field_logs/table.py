"""How lines of other programs' logs are recognised, in its typed form: `model/field_logs.toml`."""

from __future__ import annotations

import functools
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from vfio_migration.model.errors import Mistake, Named
from vfio_migration.model.load import parse, typed
from vfio_migration.model.spec import Row

TABLE: Final = "field_logs.toml"

Meaning = Literal[
    "asked",
    "arrived",
    "failed",
    "arc",
    "step",
    "call",
    "requested",
    "state",
    "flags",
    "reset",
    "ended",
    "lost",
    "message",
    "known",
]
"""What a line states; the head of the table has each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Row):
    """A kind of log.

    Attributes:
        name: What it is called.
        peer: Which kind of device it is about, by `conformance.toml`.
        summary: What writes it.
        log: What it is, in a heading.
        source: Where its lines are taken from.
        messages: There are messages of vfio-user in it.
    """

    name: str
    peer: str
    log: str
    summary: str
    source: str
    messages: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Row):
    """How one project spells the states.

    Attributes:
        spelling: What the spelling is called.
        source: Where it is from.
        words: Each word with the state it stands for.
    """

    spelling: str
    source: str
    words: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Line(Row):
    """A kind of line.

    Attributes:
        formats: In which logs it is found.
        has: Texts of which such a line has one; the first of them that it has is looked for.
        before: What stands in front of that text, as a regular expression; anything, if empty.
        pattern: What begins with that text, as a regular expression.
        means: What it states.
        spelling: How states are spelt in it.
        source: Where the project writes it.
    """

    formats: tuple[str, ...]
    has: tuple[str, ...]
    before: str = ""
    pattern: str
    means: Meaning
    spelling: str = ""
    source: str

    @functools.cached_property
    def _expressions(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return re.compile(self.before or ".*", re.ASCII), re.compile(self.pattern, re.ASCII)

    def match(self, text: str) -> dict[str, str] | None:
        """Return the groups of a line, or None if it is not of this kind."""
        # A text is looked for before an expression is tried: of a log, most lines are of no kind.
        at = next((at for at in map(text.find, self.has) if at >= 0), None)
        if at is None:
            return None
        before, pattern = self._expressions
        head, rest = before.fullmatch(text, 0, at), pattern.match(text, at)
        if head is None or rest is None:
            return None
        groups = head.groupdict() | rest.groupdict()
        return {name: value for name, value in groups.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class FieldLogs(Row):
    """The whole table."""

    name: str
    title: str
    formats: tuple[Format, ...]
    words: tuple[Words, ...]
    lines: tuple[Line, ...]

    @functools.cached_property
    def by_name(self) -> Named[Format]:
        """The formats by name."""
        return Named("format of logs", self.formats)

    def lines_of(self, name: str) -> tuple[Line, ...]:
        """Return the kinds of lines that a format has, in the order in which they are tried."""
        return tuple(row for row in self.lines if name in row.formats)

    def spelling(self, name: str) -> dict[str, str]:
        """Return the states that words of a spelling stand for."""
        return {
            word: state for row in self.words if row.spelling == name for word, state in row.words
        }

    def recognised(self, texts: list[str]) -> Format | None:
        """Return the format of which most of these lines state something, or None."""
        best, most = None, 0
        for row in self.formats:
            # What states nothing of a device does not show whose log it is.
            kinds = [line for line in self.lines_of(row.name) if line.means != "known"]
            count = sum(any(kind.match(text) is not None for kind in kinds) for text in texts)
            if count > most:
                best, most = row, count
        return best


@functools.cache
def load_field_logs() -> FieldLogs:
    """Read the table that comes with the package."""
    text = pkgutil.get_data("vfio_migration.model", TABLE)
    assert text is not None, "the package is installed without its table"
    return typed(FieldLogs, _mistakes, parse(text, TABLE), TABLE)


def _mistakes(data: Mapping[str, Any]) -> list[Mistake]:
    """Return what rows state that no other row has."""
    formats = {row.get("name") for row in data.get("formats", ())}
    spellings = {row.get("spelling") for row in data.get("words", ())} | {""}
    found: list[Mistake] = []
    for at, row in enumerate(data.get("lines", ())):
        found += [
            Mistake(f"lines[{at}].formats", name, "there is no such format", None)
            for name in row.get("formats", ())
            if name not in formats
        ]
        if row.get("spelling", "") not in spellings:
            found.append(
                Mistake(f"lines[{at}].spelling", row["spelling"], "there is no such spelling", None)
            )
    return found
