"""Work that a device has put off, as data: named, checked when it is put off, saved and loaded.

A piece of work is a method of the device and plain data to call it with, so a stream can carry it
to another host and the device there can go on with it. What has no name there, such as a lambda,
and what is no plain data, is refused when it is put off, where the mistake is, and not in the
middle of a migration.

The section of a stream that holds it: its layout and how many pieces there are (`_HEAD`), and then
each in the order in which they were put off: the seconds that are left of its delay and three
lengths (`_ROW`), the name of the method, the name of the method that states whether it may be done
now, empty if there is none, and the arguments as JSON: a list, in which `{"bytes": "6869"}` is
bytes and a list is a tuple. Numbers are little-endian.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, Final, TypeAlias

Plain: TypeAlias = "bool | int | float | str | bytes | tuple[Plain, ...] | None"
"""What work can be called with."""

MAX_WORK_BYTES: Final = 1 << 20
"""How many bytes all work that is put off at one time may take in a stream."""

_HEAD: Final = struct.Struct("<HI")
_ROW: Final = struct.Struct("<dHHI")
_LAYOUT: Final = 1
_MAX_INT_BITS: Final = 1024
_MAX_DEPTH: Final = 8
_KIT_METHODS: Final = frozenset({"interrupt"})
"""The methods of the kit itself that can be put off."""
_PLAIN: Final = "None, True, False, numbers, str, bytes, and tuples of these"


class UnsavableWorkError(TypeError):
    """Work was to be put off that no stream could carry. Nothing has been put off."""


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work.

    Attributes:
        method: The name of the method of the device.
        arguments: What it is called with, and so is `needs`.
        needs: The name of the method that states whether it may be done now, or None.
        packed: The arguments as they are in a stream.
        size: How many bytes it takes in a stream.
    """

    method: str
    arguments: tuple[Plain, ...]
    needs: str | None
    packed: bytes
    size: int


def describe(
    device: object,
    kit: type,
    work: Callable[..., object],
    arguments: tuple[object, ...],
    needs: Callable[..., object] | None,
) -> Work:
    """Return a piece of work as data.

    Args:
        device: The device.
        kit: The class of the kit: its own methods are no work.
        work: A bound method of the device.
        arguments: What it is called with.
        needs: Another bound method of the device, or None.

    Raises:
        UnsavableWorkError: It has no name, or is not called with plain data.
    """
    who = type(device).__name__
    method = _name(device, work, who, "the work")
    condition = None if needs is None else _name(device, needs, who, "`needs`")
    plain = tuple(
        _plain(value, f"{who}: argument {number} of {method}, put off with `later`")
        for number, value in enumerate(arguments, 1)
    )
    for name, role in ((method, "put off with `later`"), (condition, "`needs` of `later`")):
        if name is not None and (why := _unfit(type(device), kit, name, len(plain))) is not None:
            raise UnsavableWorkError(f"{who}.{name} cannot be {role}: {why}")
    return _work(method, plain, condition)


def pack(rows: list[tuple[float, Work]]) -> bytes:
    """Return the section of a stream: each piece of work with the seconds that are left of it."""
    parts = [_HEAD.pack(_LAYOUT, len(rows))]
    for left, work in rows:
        names = [name.encode() for name in (work.method, work.needs or "")]
        parts += [_ROW.pack(left, *map(len, names), len(work.packed)), *names, work.packed]
    return b"".join(parts)


def unpack(device: object, kit: type, section: bytes) -> list[tuple[float, Work]]:
    """Return what `pack` was given, as far as this device can do it.

    Raises:
        ValueError: It is not readable, or names what the device does not have.
    """
    if len(section) < _HEAD.size:
        raise ValueError("pending work: it is cut off")
    layout, count = _HEAD.unpack_from(section)
    if layout != _LAYOUT:
        raise ValueError(f"pending work of layout {layout}; this is read: {_LAYOUT}")
    rows, at = [], _HEAD.size
    for number in range(1, count + 1):
        if at + _ROW.size > len(section):
            raise ValueError(f"pending work {number} of {count}: it is cut off")
        left, *lengths = _ROW.unpack_from(section, at)
        at += _ROW.size
        if at + sum(lengths) > len(section):
            raise ValueError(f"pending work {number} of {count}: it is cut off")
        parts = []
        for length in lengths:
            parts.append(section[at : at + length])
            at += length
        try:
            rows.append((left, _row(device, kit, left, *parts)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"pending work {number} of {count}: {error}") from error
    if at != len(section):
        raise ValueError(f"pending work: {len(section) - at} bytes too many")
    return rows


def _row(device: object, kit: type, left: float, name: bytes, needs: bytes, packed: bytes) -> Work:
    if not 0 <= left < math.inf:
        raise ValueError(f"it is due in {left} seconds")
    arguments: object = json.loads(packed)
    if not isinstance(arguments, list):
        raise ValueError("its arguments are not a list")  # noqa: TRY004 - it is a stream that is wrong
    plain = tuple(_from_json(one) for one in arguments)
    method, condition = name.decode(), needs.decode() or None
    for one in (method, condition):
        why = None if one is None else _unfit(type(device), kit, one, len(plain))
        if why is not None:
            raise ValueError(f"{one!r:.80}: {why}")
    return _work(method, plain, condition)


def _work(method: str, arguments: tuple[Plain, ...], needs: str | None) -> Work:
    packed = json.dumps(_to_json(arguments), separators=(",", ":")).encode() if arguments else b"[]"
    size = _ROW.size + len(method.encode()) + len((needs or "").encode()) + len(packed)
    return Work(method, arguments, needs, packed, size)


def _name(device: object, work: object, who: str, role: str) -> str:
    """Return under which name a bound method of the device is found again on another host."""
    if isinstance(work, MethodType) and work.__self__ is device:
        function, name = work.__func__, work.__name__
        for one in (
            name,
            *(f"_{kind.__name__.lstrip('_')}{name}" for kind in type(device).__mro__),
        ):
            if inspect.getattr_static(type(device), one, None) is function:
                return one
    what = getattr(work, "__qualname__", None) or type(work).__name__
    raise UnsavableWorkError(
        f"{who}: {role} put off with `later` is {what}, which a stream cannot name, so a migration "
        f"would lose it; write a method of {who} and call `self.later(seconds, self.method, ...)`, "
        "with what it needs to know as arguments"
    )


def unfit(device: type, kit: type, name: str) -> str | None:
    """Return why no method of this name can be work; None if one can."""
    found = inspect.getattr_static(device, name, None)
    if not isinstance(found, FunctionType):
        return f"{device.__name__} has no such method"
    if name not in _KIT_METHODS and (name.startswith("__") or hasattr(kit, name)):
        return "it is for the kit to call"
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        return "it is `async`, and nobody would wait for it; write a plain `def`"
    if inspect.isgeneratorfunction(found):
        return "it has a `yield`, so a call does nothing; write a plain `def`"
    return None


def _unfit(device: type, kit: type, name: str, count: int) -> str | None:
    """Return why a method cannot be work that is called with so many arguments; None if it can."""
    if (why := unfit(device, kit, name)) is not None:
        return why
    allowed = getattr(device, "deferrable", None)
    if allowed is not None and name not in allowed:
        return f"`deferrable` of {device.__name__} does not name it; add {name!r} to it"
    return _uncallable(inspect.getattr_static(device, name), count)


@functools.lru_cache(maxsize=1024)
def _uncallable(function: FunctionType, count: int) -> str | None:
    try:
        inspect.signature(function).bind(None, *(None for _ in range(count)))
    except TypeError:
        return f"it cannot be called with {count} argument{'' if count == 1 else 's'}"
    return None


def _plain(value: object, place: str, depth: int = 0) -> Plain:
    """Return a value as it will arrive on another host; an `IntEnum` is a plain number there."""
    if value is None or isinstance(value, bool | bytes):
        return bytes(value) if isinstance(value, bytes) else value
    if isinstance(value, int):
        if int(value).bit_length() > _MAX_INT_BITS:
            raise UnsavableWorkError(f"{place}: a number of more than {_MAX_INT_BITS} bits")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, tuple) and depth < _MAX_DEPTH:
        return tuple(_plain(one, place, depth + 1) for one in value)
    out = "keep it in the device, and pass what finds it there"
    if isinstance(value, list):
        out = "use `tuple(...)`"
    elif isinstance(value, bytearray | memoryview):
        out = "use `bytes(...)`"
    elif callable(value):
        out = "what decides whether it may be done is given as `needs=self.method`"
    raise UnsavableWorkError(f"{place} is {type(value).__name__}; a stream carries {_PLAIN}: {out}")


def _to_json(value: Plain) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, tuple):
        return [_to_json(one) for one in value]
    return value


def _from_json(value: Any) -> Plain:
    if isinstance(value, dict):
        if list(value) != ["bytes"] or not isinstance(value["bytes"], str):
            raise ValueError("an argument of pending work is not readable")
        return bytes.fromhex(value["bytes"])
    if isinstance(value, list):
        return tuple(_from_json(one) for one in value)
    plain: Plain = value  # JSON has nothing else
    return plain
