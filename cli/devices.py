"""What `serve --device` names: a device of the package, or a class of one's own.

A class is imported as `python -m` would import it, from the current folder too. Whatever is wrong
with it (a module that does not import, a name that is not a device, an argument that is missing) is
wrong input: one message that names the place, and no traceback.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vfio_migration.cli import arguments as options

if TYPE_CHECKING:
    import argparse

    from vfio_migration.runtime.kit.contract import DeviceContract

OPTIONS: Final = {"edu": ("dma_mask",), "memory": ("size", "rate", "seed")}
"""What the devices of the package take behind a comma; all of it numbers."""

_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_NO_OPTIONS: Final = ("self", "spec", "capabilities", "clock")
"""Parameters of a device that are no options of it: --spec and --flags give the first two."""
_SWITCH: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def make(arguments: argparse.Namespace) -> DeviceContract:
    """Make the device that `--device`, `--flags` and `--spec` ask for.

    Raises:
        SpecError: It cannot be made; the message states why.
    """
    from vfio_migration.runtime.kit.devices import DEVICES

    name, *words = arguments.device.split(",")
    if ":" in name:
        return _own(arguments, name, words)
    from vfio_migration.model.errors import closest

    kind = DEVICES.get(name)
    if kind is None:
        near = closest(name, DEVICES)
        known = ", ".join(DEVICES)
        own = "of your own is named as package.module:Class"
        hint = f"did you mean {near}?" if near else f"there are {known}; one {own}"
        _refuse(name, "is not a device", hint)
    spec = options.read_spec(arguments.spec)
    chosen = _chosen(name, words, dict.fromkeys(OPTIONS[name], _number))
    given = {"spec": spec, "capabilities": options.read_flags(arguments.flags)}
    return _made(arguments.device, kind, given | chosen)


def summary(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return what the device is called, and the first sentence of what is written about it."""
    from vfio_migration.runtime.kit.devices import DEVICES

    name = arguments.device.partition(",")[0]
    kind = _class(name) if ":" in name else DEVICES.get(name)
    if kind is None:
        make(arguments).close()  # states what is wrong
    called = str(getattr(kind, "name", "") or name.rpartition(":")[2])
    text = inspect.getdoc(kind) or called
    return called, " ".join(text.split("\n\n")[0].split())


# --- classes of one's own ---


def _own(arguments: argparse.Namespace, name: str, words: list[str]) -> DeviceContract:
    kind = _class(name)
    parameters = _parameters(kind, name)
    given: dict[str, Any] = {}
    for option, key, value in (
        ("--spec", "spec", arguments.spec),
        ("--flags", "capabilities", arguments.flags),
    ):
        if value is None:
            continue
        if key not in parameters:
            _refuse(value, f"{name} takes no {key}", f"leave {option} out", place=option)
        read = options.read_spec if key == "spec" else options.read_flags
        given[key] = read(value)
    readers = {key: _reader(row) for key, row in parameters.items() if key not in _NO_OPTIONS}
    given |= _chosen(name, words, readers)
    for key, row in parameters.items():
        if row.default is row.empty and key not in given:
            _refuse(name, f"needs {key}", f"give it: --device {name},{key}=VALUE")
    device = _made(arguments.device, kind, given)
    lacking = [key for key in _members() if not hasattr(device, key)]
    if lacking:
        _refuse(name, f"is not a device: it has no {', '.join(lacking)}", _DERIVE)
    return device


_DERIVE: Final = "derive it from vfio_migration.runtime.kit.pci_device.PciDevice"


def _class(name: str) -> Callable[..., Any]:
    """Import a class, or a function that makes a device."""
    from vfio_migration.model.errors import closest

    where, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*where.split("."), *attribute.split("."))):
        _refuse(name, "is not a package.module:Class", "mypackage.nic:Nic is")
    found: Any = _module(where, name)
    for part in attribute.split("."):
        inside, found = found, getattr(found, part, None)
        if found is None:
            fitting = [key for key, value in vars(inside).items() if _fits(value)]
            near = closest(part, fitting)
            own = ", ".join(key for key in fitting if vars(inside)[key].__module__ == where)
            hint = f"did you mean {near}?" if near else f"it has {own}" if own else None
            _refuse(name, f"{where} has no {attribute}", hint)
    if not callable(found):
        _refuse(name, f"is not a device but {type(found).__name__}", "name a class of devices")
    if isinstance(found, type) and not _fits(found):
        lacking = [key for key in _methods() if not hasattr(found, key)]
        _refuse(name, f"is not a device: it has no {', '.join(lacking)}", _DERIVE)
    made: Callable[..., Any] = found
    return made


def _module(where: str, name: str) -> Any:
    # As `python -m` does it, unless Python was asked to import from safe places only.
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{where}.".startswith(f"{missing}."):
            hint = "it is looked for in the current folder and where Python has its packages"
            _refuse(name, f"there is no module {missing}", hint)
        _refuse(name, f"cannot be imported: {_described(error)}", None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any of them is stated
        _refuse(name, f"cannot be imported: {_described(error)}", None)


def _members() -> list[str]:
    """Return the names of what a server uses of a device."""
    from vfio_migration.runtime.kit.contract import DeviceContract

    return sorted(
        {
            key
            for kind in DeviceContract.__mro__
            if kind.__module__.startswith("vfio_migration.")
            for key in vars(kind)
            if not key.startswith("_")
        }
    )


def _methods() -> list[str]:
    from vfio_migration.runtime.kit.contract import DeviceContract

    return [key for key in _members() if inspect.isfunction(getattr(DeviceContract, key, None))]


def _fits(value: object) -> bool:
    return isinstance(value, type) and all(hasattr(value, key) for key in _methods())


def _parameters(kind: Callable[..., Any], name: str) -> Mapping[str, inspect.Parameter]:
    """Return what can be given by name, in the classes that it is derived from too."""
    found: dict[str, inspect.Parameter] = {}
    if isinstance(kind, type):
        makers = [vars(one)["__init__"] for one in kind.__mro__ if "__init__" in vars(one)]
    else:
        makers = [kind]
    for maker in makers:
        try:
            rows = list(inspect.signature(maker).parameters.values())
        except (TypeError, ValueError):
            break
        passes_on = False
        for row in rows:
            if row.kind is row.POSITIONAL_ONLY and row.default is row.empty and row.name != "self":
                _refuse(name, f"takes {row.name} by position only", "let it be given by name")
            passes_on |= row.kind is row.VAR_KEYWORD
            if row.kind in (row.POSITIONAL_OR_KEYWORD, row.KEYWORD_ONLY) and row.name != "self":
                found.setdefault(row.name, row)
        if not passes_on:
            break
    return found


def _reader(row: inspect.Parameter) -> Callable[[str, str], Any]:
    """Return what reads a parameter from its text: as it is annotated, or as its default is."""
    kind = row.annotation
    if kind is row.empty and row.default is not row.empty:
        kind = type(row.default)
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return {"str": _text, "int": _number, "float": _float, "bool": _switch}.get(name, _any)


# --- what is behind a comma ---


def _chosen(
    device: str, words: Iterable[str], readers: Mapping[str, Callable[[str, str], Any]]
) -> dict[str, Any]:
    """Read what was stated of a device: keys and values."""
    from vfio_migration.model.errors import closest

    chosen: dict[str, Any] = {}
    for word in words:
        key, given, text = word.partition("=")
        if key not in readers:
            near = closest(key, readers)
            there = f"there are {', '.join(readers)}" if readers else "it takes nothing"
            _refuse(
                key, f"is not an option of {device}", f"did you mean {near}?" if near else there
            )
        if key in chosen:
            _refuse(key, "is given twice", "give it once")
        chosen[key] = readers[key](key, text if given else "")
    return chosen


def _number(key: str, text: str) -> int:
    value = _integer(text)
    if value is None:
        _refuse(text, "is not a number", "64M and 0x1000 are", place=f"--device {key}")
    return value


def _integer(text: str) -> int | None:
    unit = _UNITS.get(text[-1:], 1)
    try:
        value = int(text[:-1] if unit > 1 else text, 0) * unit
    except ValueError:
        return None
    return value if 0 <= value < 1 << 64 else None


def _float(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        _refuse(text, "is not a number", "0.5 is", place=f"--device {key}")


def _switch(key: str, text: str) -> bool:
    value = _SWITCH.get(text.casefold())
    if value is None:
        _refuse(text, "is neither yes nor no", None, place=f"--device {key}")
    return value


def _text(_key: str, text: str) -> str:
    return text


def _any(_key: str, text: str) -> int | str:
    value = _integer(text)
    return text if value is None else value


# --- making it ---


def _made(device: str, kind: Callable[..., Any], given: Mapping[str, Any]) -> DeviceContract:
    from vfio_migration.model import SpecError

    try:
        made: DeviceContract = kind(**given)
    except SpecError:
        raise  # the table or the flags, and no option of the device
    except ValueError as error:
        _refuse(
            device,
            str(error) if ":" not in device else f"cannot be made: {_described(error)}",
            None,
        )
    except OSError as error:  # of the memory that it asks for
        _refuse(device, f"cannot be made: {error.strerror or _described(error)}", None)
    except Exception as error:
        if ":" not in device:
            raise
        _refuse(device, f"cannot be made: {_described(error)}", None)
    return made


def _described(error: BaseException) -> str:
    """Return what an exception is, what it states, and which line raised it."""
    from vfio_migration.runtime.engine.errors import words

    text, name = words(error), type(error).__name__
    text = name if text == name else f"{name}: {text}"
    if isinstance(error, SyntaxError) and error.filename:
        return text  # which states where
    place, trace = "", error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in ("vfio_migration", "importlib"):
            place = f" ({frame.f_code.co_filename} line {trace.tb_lineno})"
        trace = trace.tb_next
    return text + place


def _refuse(value: str, problem: str, hint: str | None, *, place: str = "--device") -> NoReturn:
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake

    raise SpecError([Mistake(place, value, problem, hint)]) from None
