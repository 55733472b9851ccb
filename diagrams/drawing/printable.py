"""Words from outside, made fit for a picture: what no page can show is escaped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_UNFIT = re.compile(
    # Control characters but tab and newline, what turns the direction of text, halves of
    # characters, and what XML forbids besides.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(picture: T) -> T:
    """Return a picture whose words are all fit to be shown; the same one if they are already."""
    return reworded(picture, _fit)


def reworded(picture: T, change: Callable[[str], str]) -> T:
    """Return a picture with each of its words changed; the same one if nothing differs."""
    made: T = _reworded(picture, change)
    return made


def _fit(text: str) -> str:
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _reworded(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        items = tuple(_reworded(item, change) for item in value)
        return items if items != value else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        parts = {name: getattr(value, name) for name in names}
        changed = {
            name: new for name, old in parts.items() if (new := _reworded(old, change)) != old
        }
        return dataclasses.replace(value, **changed) if changed else value
    return value
