"""Reading a table from a file, and refusing a bad one with all its mistakes at once.

Three kinds of mistake, found in this order and reported together: the file is no TOML (then there is
nothing else to say), a row has the wrong shape (pydantic finds these), the rows contradict each other
(`vfio_migration.model.checks`).
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Mapping
from datetime import date, time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.model.checks import check
from vfio_migration.model.errors import Mistake, SpecError, closest, did_you_mean
from vfio_migration.model.spec import Spec

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

DEFAULT = "vfio_v2.toml"


def load(path: str | Path | None = None) -> Spec:
    """Read a table; without a path, the one that comes with the package.

    Raises:
        SpecError: If the file cannot be read or the table is wrong, with every mistake in it.
    """
    if path is None:
        return _default()
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SpecError(
            [Mistake("file", str(path), f"cannot be read: {error.strerror}", None)]
        ) from error
    return loads(text, origin=str(path))


def loads(text: str | bytes, origin: str | None = None) -> Spec:
    """Read a table from TOML text (UTF-8 if bytes); `origin` is the name it has in messages.

    Raises:
        SpecError: As `load`.
    """
    try:
        data = tomllib.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        mistake = Mistake(f"byte {error.start}", None, "is not UTF-8, so this is no TOML", None)
        raise SpecError([mistake], origin) from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError([Mistake("not TOML", None, str(error), None)], origin) from None
    return from_data(data, origin)


def from_data(data: Mapping[str, object], origin: str | None = None) -> Spec:
    """Make a table of plain data, as `tomllib` gives it.

    Raises:
        SpecError: As `load`.
    """
    # pydantic is imported here and not above: importing the model must not cost what reading a
    # file costs.
    from pydantic import ValidationError

    mistakes: list[Mistake] = []
    spec: Spec | None = None
    try:
        # By way of JSON: pydantic's strict mode takes tables and lists only from there.
        spec = _adapter().validate_json(json.dumps(_to_python(data)))
    except ValidationError as error:
        mistakes += [
            _shape_mistake(detail)
            for detail in error.errors(include_url=False, include_context=True)
        ]
    mistakes += check(data)
    if mistakes or spec is None:
        raise SpecError(_in_file_order(mistakes, data), origin)
    return spec


@functools.cache
def _default() -> Spec:
    text = (resources.files("vfio_migration.model") / DEFAULT).read_text("utf-8")
    return loads(text, origin=DEFAULT)


@functools.cache
def _adapter() -> TypeAdapter[Spec]:
    from pydantic import TypeAdapter

    return TypeAdapter(Spec)


# TOML says `from`, which Python keeps for itself. Swapping both ways makes a literal `from_` in a
# file an unknown key, as it should be.
_TO_PYTHON = {"from": "from_", "from_": "from"}
_TO_TOML = {"from_": "from", "from": "from_"}


def _to_python(value: object) -> object:
    if isinstance(value, Mapping):
        return {_TO_PYTHON.get(key, key): _to_python(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_python(item) for item in value]
    return {_DATE: str(value)} if isinstance(value, date | time) else value


# JSON knows no dates. No key of a file can be this one: a TOML key has no such character unescaped,
# and an escaped one is refused as unknown all the same.
_DATE = "\x00date"


_WANTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dataclass_type": "a table",
    "dataclass_exact_type": "a table",
}


def _shape_mistake(detail: ErrorDetails) -> Mistake:
    location = tuple(_TO_TOML.get(str(part), part) for part in detail["loc"])
    place = _place(location)
    kind = detail["type"]
    if kind == "missing":
        return Mistake(place, None, "is missing", _example(location))
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        hint = did_you_mean(closest(str(location[-1]), _known_keys(location)))
        return Mistake(place, None, "is a key that nothing reads", hint)
    if kind == "literal_error":
        expected = str(detail["ctx"]["expected"]).replace("'", '"')
        return Mistake(place, detail["input"], "is not allowed here", f"it is one of {expected}")
    wanted = _WANTED.get(kind)
    value = detail["input"]
    if wanted is None:
        return Mistake(place, value, detail["msg"], None)
    if isinstance(value, Mapping) and _DATE in value:
        return Mistake(place, value[_DATE], f"is a date or time where {wanted} is expected", None)
    return Mistake(place, value, f"is {_kind_of(value)} where {wanted} is expected", None)


def _kind_of(value: object) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "a truth value"),
        (str, "a string"),
        (int, "a whole number"),
        (float, "a fraction"),
        (Mapping, "a table"),
        (list, "a list"),
    )
    for types, name in kinds:
        if isinstance(value, types):
            return name
    return f"of type {type(value).__name__}"


def _place(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Return the keys that may stand where an unknown one was found."""
    from typing import get_args, get_type_hints

    fields: dict[str, Any] = get_type_hints(Spec)
    if len(location) > 1:
        fields = get_type_hints(get_args(fields[str(location[0])])[0])
    return [_TO_TOML.get(name, name) for name in fields if not name.startswith("_")]


def _example(location: tuple[str | int, ...]) -> str | None:
    """Say how a missing key is written, where a word or two can."""
    if len(location) == 1:
        name = location[0]
        return f'add {name} = "..."' if name in ("name", "title", "initial") else f"add [[{name}]]"
    return None


def _in_file_order(mistakes: list[Mistake], data: Mapping[str, object]) -> list[Mistake]:
    """Sort by section as the file has them, then by row; what is missing altogether comes first."""
    import re

    order = {key: index for index, key in enumerate(data)}

    def key(mistake: Mistake) -> tuple[int, int]:
        found = re.match(r"(\w+)(?:\[(\d+)\])?", mistake.place)
        section, row = (found[1], found[2]) if found else ("", None)
        return order.get(section, -1), int(row or 0)

    return sorted(mistakes, key=key)
