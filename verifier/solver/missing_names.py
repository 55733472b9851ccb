"""Names that an obligation speaks of and a table lacks, in one sentence.

An obligation about specifications, or about the plans for groups, needs the names that those use. A
table with names of its own is not wrong; but nothing can be stated of it, and its author must learn
why.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from vfio_migration.model import Spec, SpecError
from vfio_migration.model.errors import Mistake

_SECTIONS = {
    "state": ("states", "states", "name"),
    "capability": ("capabilities", "capabilities", "name"),
    "activity": ("activities", "activities", "name"),
    "role": ("roles", "activities", "role"),
}
"""Per kind of name: its plural, the section that declares it, and the key it is under."""
_NO_SUCH = re.compile(r"there is no such (state|capability|activity|role) in this table")


def lacking(spec: Spec, speaker: str, names: Mapping[str, Iterable[str]]) -> str:
    """Return which names a table lacks, and where to declare them; nothing if it has them all.

    Args:
        spec: The table.
        speaker: Who speaks of them.
        names: Per kind ("state", "capability", "activity", "role"), the names that are spoken of.
    """
    parts, sections = [], []
    for kind, wanted in names.items():
        plural, section, key = _SECTIONS[kind]
        known = {getattr(row, key) for row in getattr(spec, section)}
        missing = [name for name in dict.fromkeys(wanted) if name not in known]
        if missing:
            listed = ", ".join(f'"{name}"' for name in missing)
            parts.append(f"the {kind if len(missing) == 1 else plural} {listed}")
            sections.append(f"[[{section}]]")
    if not parts:
        return ""
    return (
        f"{speaker} of {' and '.join(parts)}, which this table lacks: declare what is meant by "
        f"that name in {' and '.join(sections)}"
    )


def why_not(spec: Spec, error: SpecError) -> str:
    """Return why an obligation cannot be asked of a table."""
    source = f"{error.origin}: " if error.origin else ""
    first, *more = error.mistakes
    found = [(_NO_SUCH.fullmatch(one.problem), one) for one in error.mistakes]
    if not all(match for match, _ in found):
        rest = f" and {len(more)} more" if more else ""
        return f"{source}{first}{rest}"
    names: dict[str, list[str]] = {}
    for match, one in found:
        assert match is not None
        names.setdefault(match[1], []).append(str(one.value))
    return lacking(spec, f"{source}{_places(error.mistakes)}", names)


def _places(mistakes: Sequence[Mistake]) -> str:
    first, *more = mistakes
    if not more:
        return f"{first.place} speaks"
    return f"{first.place} and {len(more)} more place{'' if len(more) == 1 else 's'} speak"


def renamed(numbers: Mapping[str, int], rows: Collection[tuple[str, int]]) -> dict[str, str]:
    """Names with a number on the wire that no row has, and which unlisted row has the number."""
    names = {name for name, _ in rows}
    holders = {value: name for name, value in rows if name not in numbers}
    return {
        name: holders[value]
        for name, value in numbers.items()
        if name not in names and value in holders
    }
