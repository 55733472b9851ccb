"""Words from outside, made fit for a picture: what no page can show is escaped."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

T = TypeVar("T")

_UNFIT = re.compile(
    # Control characters but tab and newline, what turns the direction of text, halves of
    # characters, and what XML forbids besides.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(picture: T) -> T:
    """Return a picture whose words are all fit to be shown; the same one if they are already."""
    made: T = _clean(picture)
    return made


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    if isinstance(value, tuple):
        items = tuple(map(_clean, value))
        return items if items != value else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        parts = {name: getattr(value, name) for name in names}
        changed = {name: new for name, old in parts.items() if (new := _clean(old)) != old}
        return dataclasses.replace(value, **changed) if changed else value
    return value
