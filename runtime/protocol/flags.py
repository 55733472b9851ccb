"""Which flags words a command may have: `[[words]]`, `[[flags]]` and `[[choices]]` of the table.

Flags are compared as numbers. An `enum.IntFlag` is of use for the name of a bit and not for the
bits of a word that have no name: what `~` makes of one differs between versions of Python.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vfio_migration.model.wire import FlagChoice
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import WIRE


class _Choice(NamedTuple):
    """A row of `[[choices]]` with the bits that its names stand for."""

    row: FlagChoice
    masks: tuple[int, ...]

    def count(self, value: int) -> int:
        """Return how many of the bits are set."""
        return sum(1 for mask in self.masks if value & mask)


class FlagRule:
    """What a server holds the flags word of a command against.

    Args:
        word: A row of `[[words]]`.

    Attributes:
        unknown: The bits that no command may have; none, if the word is not looked at.
        choices: Between which of its bits a command has to choose.
    """

    def __init__(self, word: str) -> None:
        looks = WIRE.word(word).unknown == "refused"
        self._word = word
        self.unknown: Final = ~WIRE.known_bits(word) if looks else 0
        self.choices: Final = tuple(
            _Choice(row, tuple(WIRE.bits(word, name).mask for name in row.among))
            for row in WIRE.choices
            if looks and row.word == word
        )

    def check(self, value: int) -> None:
        """Raise `MalformedError` if no command can have this word."""
        if unknown := value & self.unknown:
            raise self._malformed(value, f"no flag has the value {unknown:#x}")
        for choice in self.choices:
            row, count = choice.row, choice.count(value)
            if not row.least <= count <= row.most:
                wanted = f"{row.least}" if row.least == row.most else f"{row.least} to {row.most}"
                names = ", ".join(row.among)
                raise self._malformed(value, f"{wanted} of {names} can be set, not {count}")

    def _malformed(self, value: int, why: str) -> MalformedError:
        return MalformedError("flags_unknown", f"{self._word} flags {value:#x}: {why}")
