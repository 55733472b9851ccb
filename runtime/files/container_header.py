"""The header of a saved migration: what is known of its devices, as JSON (docs/save-format.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from vfio_migration.model import json_text
from vfio_migration.runtime.files.compression import NAMES

MAX_HEADER: Final = 1 << 20
"""How many bytes the JSON text has at most."""
MAX_DEVICES: Final = 256
"""How many devices one file holds at most. A writer keeps up to a block for each in memory."""

MAX_DEPTH: Final = 100
"""How deep objects and lists are nested in it at most, the whole counted. Without this bound it
would be that of anybody who reads, and of how much stack is left there."""


class BadHeaderError(ValueError):
    """What is in a header is not what should be; the message begins with the place."""


@dataclass(frozen=True, slots=True)
class DeviceHeader:
    """What is known of one device.

    Attributes:
        name: How its people call it. Bytes of a path that are not text are written escaped.
        identity: What its destination must be like: PCI ids, sizes of regions, migration flags.
            Anything JSON can hold; its meaning is between who saves and who restores.
        more: Anything else JSON can hold.
    """

    name: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a whole file.

    Attributes:
        devices: Its devices; they are numbered from 0.
        codec: What its blocks are compressed with; a block that gains nothing is stored as it is.
        created: When it was saved, in words of the one who saved it, or None.
        more: Anything else JSON can hold.
    """

    devices: tuple[DeviceHeader, ...]
    codec: str = "none"
    created: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the JSON text, the same for equal headers.

        Raises:
            BadHeaderError: `from_json` would refuse it.
            TypeError: There is something in it that JSON cannot hold.
        """
        data: dict[str, object] = {
            "codec": self.codec,
            "devices": [
                {"name": _unicode(one.name), "identity": dict(one.identity), "more": dict(one.more)}
                for one in self.devices
            ],
            "more": dict(self.more),
        }
        if self.created is not None:
            data["created"] = self.created
        try:
            text = _dumped(data)
        except RecursionError:
            raise BadHeaderError("header: is nested too deeply") from None
        except ValueError as error:
            raise BadHeaderError(f"header: {error}") from None
        self.from_json(text)
        return text

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read the JSON text. Keys that are not known are passed over.

        Raises:
            BadHeaderError: It is none.
        """
        if len(text) > MAX_HEADER:
            raise BadHeaderError(f"header: has {len(text)} bytes; {MAX_HEADER} is the most")
        try:
            data: object = json_text.parse(text.decode("utf-8"))
            _dumped(data)  # no text that cannot be printed
        except json_text.JsonError as error:
            raise BadHeaderError(f"header: {error.problem}") from None
        except RecursionError:
            raise BadHeaderError("header: is nested too deeply") from None
        except ValueError as error:
            raise BadHeaderError(f"header: {error}") from None
        if _depth(data) > MAX_DEPTH:
            raise BadHeaderError("header: is nested too deeply")
        top = _object("header", data)
        name = _text("codec", top.get("codec"))
        if name not in NAMES:
            raise BadHeaderError(f"codec: {name!r} is none that is known: {', '.join(NAMES)}")
        rows = top.get("devices")
        if not isinstance(rows, list):
            raise BadHeaderError("devices: is not a list")
        if not 1 <= len(rows) <= MAX_DEVICES:
            raise BadHeaderError(f"devices: are {len(rows)}; from 1 to {MAX_DEVICES} may be")
        return cls(
            devices=tuple(_device(f"devices[{at}]", row) for at, row in enumerate(rows)),
            codec=name,
            created=_text("created", top["created"]) if "created" in top else None,
            more=_object("more", top.get("more", {})),
        )


def _unicode(name: str) -> str:
    # A socket may be called anything, and JSON holds text.
    return name.encode("utf-8", "backslashreplace").decode()


def _device(place: str, data: object) -> DeviceHeader:
    row = _object(place, data)
    return DeviceHeader(
        name=_text(f"{place}.name", row.get("name")),
        identity=_object(f"{place}.identity", row.get("identity", {})),
        more=_object(f"{place}.more", row.get("more", {})),
    )


def _dumped(data: object) -> bytes:
    text = json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def _depth(data: object) -> int:
    depth, level = 0, [data]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [one for outer in level for one in _inside(outer)]
    return depth


def _inside(outer: Any) -> Iterable[object]:
    inside: Iterable[object] = outer.values() if isinstance(outer, dict) else outer
    return inside


def _object(place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadHeaderError(f"{place}: is not an object")
    return value


def _text(place: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadHeaderError(f"{place}: is not text")
    return value
