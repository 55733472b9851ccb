"""What is wrong with a device as it is written: found when its class is defined, or it is made.

A mistake in a class would otherwise show when the kit first needs what is wrong, which may be in
the middle of a migration. What a class itself declares is looked at when the class statement ends;
what its objects declare, and what takes the table, when one is made.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Collection, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, Final

from vfio_migration.model import Spec
from vfio_migration.model.errors import closest, did_you_mean
from vfio_migration.runtime.kit.config_space import Identity

CALLBACKS: Final[Mapping[str, tuple[str, ...]]] = {
    "bar_read": ("bar", "offset", "size"),
    "bar_write": ("bar", "offset", "value", "size"),
    "save": (),
    "load": ("state", "version"),
    "reset_device": (),
    "quiesce": (),
    "resume": (),
    "stop": (),
    "start": (),
    "config_written": ("offset", "size"),
}
"""What the kit calls of a device, and what with."""

_BARS: Final = 6
_MIN_BAR: Final = 16
_MAX_BAR_32: Final = 1 << 31
_MAX_BAR_64: Final = 1 << 40
_MAX_VERSION: Final = (1 << 32) - 1
_MAX_NAME: Final = 200
_MSI: Final = (0, 1, 2, 4, 8, 16, 32)
_MAX_MSIX: Final = 2048
_IDENTITY_BITS: Final = {
    "vendor": 16,
    "device": 16,
    "revision": 8,
    "class_code": 24,
    "subsystem_vendor": 16,
    "subsystem": 16,
}


class DeviceDefinitionError(ValueError):
    """A device is written in a way that cannot work. Says where, what is there, and what to do."""


def check_declared(who: type, declared: Mapping[str, Any]) -> None:
    """Look at what a class, or an object of it, declares.

    Args:
        who: The class.
        declared: What it declares, by attribute; others than those of the kit are passed over.

    Raises:
        DeviceDefinitionError: Something of it cannot be.
    """
    for attribute, check in _CHECKS.items():
        if attribute in declared:
            for place, value, way_out in check(declared[attribute]):
                raise DeviceDefinitionError(
                    f"{who.__name__}.{attribute}{place}: {value}; {way_out}"
                )


def check_callbacks(who: type, kit: type) -> None:
    """Look at what a class gives the kit to call.

    Raises:
        DeviceDefinitionError: One of them cannot be called, or nobody would wait for it.
    """
    for name, arguments in CALLBACKS.items():
        found = inspect.getattr_static(who, name)
        if not isinstance(found, FunctionType):
            continue  # whatever it is, it is on purpose
        place = f"{who.__name__}.{name} ({_where(found.__code__)})"
        line = f"`def {name}({', '.join(('self', *arguments))})`"
        if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
            raise DeviceDefinitionError(
                f"{place} is `async def`, and the kit does not wait for it; write {line}, and put "
                "off with `later` what takes time"
            )
        if inspect.isgeneratorfunction(found):
            raise DeviceDefinitionError(
                f"{place} has a `yield`, so a call does nothing; write {line}"
            )
        try:
            inspect.signature(found).bind(None, *arguments)
        except TypeError as error:
            raise DeviceDefinitionError(f"{place}: {error}; write {line}") from error
    if _own(who, kit, "save") and not _own(who, kit, "load"):
        raise DeviceDefinitionError(
            f"{who.__name__} has `save` and no `load`, so what it saves is never taken over; write "
            "`def load(self, state, version)`"
        )


def check_activities(who: type, kit: type, spec: Spec) -> None:
    """Look at the activities that a class asks `may` about, as far as they are in it as text.

    Raises:
        DeviceDefinitionError: The table has no such activity.
    """
    known = [row.name for row in spec.activities]
    for place, activity in _asked_by(who, kit):
        if activity not in known:
            raise unknown_activity(place, activity, spec)


def unknown_activity(place: str, activity: object, spec: Spec) -> DeviceDefinitionError:
    """Return what is raised for an activity that the table does not have."""
    known = [row.name for row in spec.activities]
    near = did_you_mean(closest(activity, known)) if isinstance(activity, str) else None
    return DeviceDefinitionError(
        f"{place} asks `may` about {activity!r:.80}, which the table does not have; "
        + (f"{near} " if near else "")
        + f"it has {', '.join(known)}"
    )


def _own(who: type, kit: type, name: str) -> bool:
    return inspect.getattr_static(who, name) is not inspect.getattr_static(kit, name)


def _where(code: CodeType) -> str:
    return f"{code.co_filename}:{code.co_firstlineno}"


@functools.lru_cache(maxsize=64)
def _asked_by(who: type, kit: type) -> tuple[tuple[str, str], ...]:
    """Return what a class asks `may` about, each with where that is."""
    found = []
    for one in who.__mro__[: who.__mro__.index(kit)]:
        for function in vars(one).values():
            if isinstance(function, FunctionType):
                place = f"{one.__name__}.{function.__name__}"
                for code, activity in _asked(function.__code__, function.__globals__):
                    found.append((f"{place} ({_where(code)})", activity))
    return tuple(found)


def _asked(code: CodeType, names: Mapping[str, Any]) -> Iterator[tuple[CodeType, str]]:
    """Yield what `may` is called with in some code, if it is there or is a global of it."""
    before = None
    for step in dis.get_instructions(code):
        if before is not None and before.argval == "may" and step.opname != "PUSH_NULL":
            value = None
            if step.opname == "LOAD_CONST":
                value = step.argval
            elif step.opname == "LOAD_GLOBAL":
                value = names.get(step.argval)
            if isinstance(value, str):
                yield code, value
        before = step if step.opname in ("LOAD_METHOD", "LOAD_ATTR") else None
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _asked(inner, names)


# --- what is declared: each yields where, what is wrong, and the way out ---

_Complaint = tuple[str, str, str]


def _number(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _name(value: object) -> Iterator[_Complaint]:
    if not isinstance(value, str) or not value.strip():
        yield "", f"{value!r:.80} is not a name", "give the name of the device, or leave it out"
    elif len(value) > _MAX_NAME:
        yield "", f"a name of {len(value)} characters", f"at most {_MAX_NAME} can be saved"


def _identity(value: object) -> Iterator[_Complaint]:
    if not isinstance(value, Identity):
        yield "", f"{value!r:.80} is not an Identity", "write `Identity(vendor=..., device=...)`"
        return
    for part, bits in _IDENTITY_BITS.items():
        number = getattr(value, part)
        if not _number(number, 0, (1 << bits) - 1):
            shown = f"{number:#x}" if isinstance(number, int) else f"{number!r:.80}"
            way_out = f"it is a number of {bits} bits, 0 to {(1 << bits) - 1:#x}"
            yield f".{part}", f"{shown} is out of range", way_out


def _bars(value: object) -> Iterator[_Complaint]:
    if not isinstance(value, Mapping):
        yield "", f"{type(value).__name__} is not a mapping", "write `{0: Bar(4096)}`"
        return
    for number, bar in value.items():
        place = f"[{number!r:.20}]"
        if not _number(number, 0, _BARS - 1):
            yield place, "there is no such BAR", f"a device has BARs 0 to {_BARS - 1}"
        elif not all(hasattr(bar, name) for name in ("size", "areas", "is64")):
            yield place, f"{bar!r:.80} is not a Bar", "write `Bar(4096)`"
        elif not _number(bar.size, _MIN_BAR, _MAX_BAR_64) or bar.size & (bar.size - 1):
            way_out = f"it is a power of two of at least {_MIN_BAR} and at most {_MAX_BAR_64:#x}"
            yield place, f"size {bar.size!r:.40} is out of range", way_out
        elif not bar.is64 and bar.size > _MAX_BAR_32:
            way_out = f"more than {_MAX_BAR_32:#x} bytes need `is64=True`"
            yield place, f"size {bar.size:#x} is out of range", way_out
        elif bar.is64 and number == _BARS - 1:
            yield place, "it takes the next number too, which does not exist", "give it a lower one"


def _private(value: object) -> Iterator[_Complaint]:
    if not isinstance(value, Mapping):
        yield "", f"{type(value).__name__} is not a mapping", "write `{'name': size}`"
        return
    for name, size in value.items():
        place = f"[{name!r:.80}]"
        if not isinstance(name, str) or not name.strip() or "\0" in name or len(name) > _MAX_NAME:
            yield place, "this is not a name", f"it is text of 1 to {_MAX_NAME} characters"
        elif not _number(size, 1, _MAX_BAR_64):
            yield place, f"size {size!r:.40} is out of range", f"it is 1 to {_MAX_BAR_64:#x} bytes"


def _msi(value: object) -> Iterator[_Complaint]:
    if not _number(value, 0, max(_MSI)) or value not in _MSI:
        yield "", f"{value!r:.40} vectors", f"it can be {', '.join(map(str, _MSI))}"


def _msix(value: object) -> Iterator[_Complaint]:
    if not _number(value, 0, _MAX_MSIX):
        yield "", f"{value!r:.40} vectors", f"it can be 0 to {_MAX_MSIX}"


def _msix_bar(value: object) -> Iterator[_Complaint]:
    if not _number(value, 0, _BARS - 1):
        yield "", f"there is no BAR {value!r:.20}", f"a device has BARs 0 to {_BARS - 1}"


def _version(value: object) -> Iterator[_Complaint]:
    if not _number(value, 0, _MAX_VERSION):
        yield "", f"{value!r:.40} is out of range", f"it is a number, 0 to {_MAX_VERSION}"


def _loads(value: object) -> Iterator[_Complaint]:
    if not isinstance(value, Collection) or isinstance(value, str | bytes):
        yield "", f"{value!r:.40} is not a collection of versions", "write `(1, 2)`"
        return
    for one in value:
        for _, wrong, way_out in _version(one):
            yield "", wrong, way_out


def _deferrable(value: object) -> Iterator[_Complaint]:
    if value is None:
        return
    if not isinstance(value, Collection) or isinstance(value, str | bytes):
        yield "", f"{value!r:.40} is not a collection of names", 'write `("finish",)`'


_CHECKS: Final = {
    "name": _name,
    "identity": _identity,
    "bars": _bars,
    "private": _private,
    "msi": _msi,
    "msix": _msix,
    "msix_bar": _msix_bar,
    "version": _version,
    "loads": _loads,
    "deferrable": _deferrable,
}
