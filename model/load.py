"""Reading a table from a file, and refusing a bad one with all its mistakes at once.

There are three kinds of mistake. The file is not valid TOML: then there is nothing else to state. A
row has the wrong shape: pydantic finds these, and they are put into the words of the format here.
The rows contradict each other: `vfio_migration.model.checks` finds these. The last two are reported
together.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pkgutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vfio_migration.model import bounds
from vfio_migration.model.checks import check
from vfio_migration.model.errors import (
    Mistake,
    SpecError,
    closest,
    cut,
    did_you_mean,
    escaped,
    why,
)
from vfio_migration.model.spec import Row, Spec

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

DEFAULT = "vfio_v2.toml"

Table = TypeVar("Table", bound=Row)
"""A kind of table: the state machine's, the wire's."""

Location = tuple[str | int, ...]
"""Keys and indexes that lead from the top of the data to a value."""


def load(path: str | Path | None = None) -> Spec:
    """Read a table; without a path, the one that comes with the package.

    Raises:
        SpecError: If the file cannot be read or the table is wrong, with every mistake in it.
    """
    if path is None:
        return _default()
    text = read_bytes(path)
    if not text.strip():  # what a shell leaves of `COMMAND > FILE` when the command fails
        hint = "if a command was to write it, that command failed"
        raise SpecError([Mistake("file", str(path), "is empty", hint)])
    return loads(text, origin=str(path))


def loads(text: str | bytes, origin: str | None = None) -> Spec:
    """Read a table from TOML text (UTF-8 if bytes); `origin` is the name it has in messages.

    Raises:
        SpecError: As `load`.
    """
    return from_data(parse(text, origin), origin)


def from_data(data: Mapping[str, object], origin: str | None = None) -> Spec:
    """Make a table of plain data, as `tomllib` gives it.

    Raises:
        SpecError: As `load`.
    """
    return typed(Spec, check, data, origin)


def to_data(spec: Spec) -> dict[str, Any]:
    """Return a table as plain data, as `from_data` reads it."""
    return {
        field.name: [_row(row) for row in value] if isinstance(value, tuple) else value
        for field in dataclasses.fields(spec)
        if (value := getattr(spec, field.name)) != ()
    }


def _row(row: Any) -> dict[str, Any]:
    return {
        field.name.rstrip("_"): list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(row)
        if field.name != "via"
        and (value := getattr(row, field.name)) is not None
        and value != field.default
    }


# --- What every kind of table is read with --------------------------------------------------------


def read_bytes(path: str | Path, kind: str = "table") -> bytes:
    """Return what is in a file that is of a kind; a `SpecError` states why it cannot be read."""
    try:
        # Bounded, for a device file may have no end.
        with Path(path).open("rb") as file:
            data = file.read(bounds.MAX_TABLE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {why(error)}"
        raise SpecError([Mistake("file", str(path), problem, None)]) from error
    if len(data) > bounds.MAX_TABLE_BYTES:
        problem = f"has more than {bounds.MAX_TABLE_BYTES} bytes, so this is not a {kind}"
        raise SpecError([Mistake("file", str(path), problem, None)])
    return data


def parse(text: str | bytes, origin: str | None = None) -> dict[str, object]:
    """Return the data of TOML text; a `SpecError` states why there is none."""
    try:
        # Bytes and text go the same way, so that neither may hold what UTF-8 cannot write.
        encoded = text.encode("utf-8") if isinstance(text, str) else text
        decoded = encoded.decode("utf-8-sig")
    except UnicodeError as error:
        raise SpecError([_not_utf8(error)], origin) from None
    if (mistake := bounds.long_key(decoded)) is not None:
        raise SpecError([mistake], origin)
    try:
        return tomllib.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise SpecError([_not_toml(error, decoded)], origin) from None


def typed(
    kind: type[Table],
    check: Callable[[Mapping[str, object]], list[Mistake]],
    data: Mapping[str, object],
    origin: str | None,
) -> Table:
    """Make a table of one kind of plain data.

    Args:
        kind: A frozen dataclass whose fields are texts and tuples of rows.
        check: Finds what the rows specify against each other.
        data: The data, as `tomllib` gives it.
        origin: The name the table has in messages.

    Raises:
        SpecError: With every mistake in it.
    """
    # pydantic is imported here and not above: importing the model must not cost what reading a
    # file costs.
    from pydantic import ValidationError

    if mistakes := bounds.too_large(data):
        raise SpecError(mistakes, origin)  # to look for more of them would take long
    table: Table | None = None
    shape: list[Mistake] = []
    try:
        # By way of JSON: pydantic's strict mode takes tables and lists only from there.
        table = _adapter(kind).validate_json(json.dumps(_for_pydantic(data)))
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        shape = list(_shape_mistakes(kind, details, data))
    # One mistake a place: what has the wrong type needs no second complaint about its value.
    badly_shaped = {mistake.place for mistake in shape}
    mistakes = shape + [found for found in check(data) if found.place not in badly_shaped]
    complained = {mistake.place for mistake in mistakes}
    mistakes += [found for found in bounds.unprintable(data) if found.place not in complained]
    if mistakes or table is None:
        raise SpecError(_in_file_order(mistakes, data), origin)
    return table


@functools.cache
def _default() -> Spec:
    text = pkgutil.get_data("vfio_migration.model", DEFAULT)
    assert text is not None, "the package is installed without its table"
    return loads(text, origin=DEFAULT)


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


# --- Data that pydantic reads ---------------------------------------------------------------------

# TOML says `from`, which Python keeps for itself. Swapping both ways makes a literal `from_` in a
# file an unknown key, as it should be.
_TO_PYTHON = {"from": "from_", "from_": "from"}
_TO_TOML = {"from_": "from", "from": "from_"}

_MISFIT = 0.5
"""Stands for any value that JSON cannot carry. No key of the format takes a fraction."""

_DEEPEST = 8
"""An item of a list of a move in a phase of a plan: the deepest a format goes."""

_HUGE = 1 << 64
"""No number of the format is this large; larger ones, which JSON libraries choke on, become it."""


def _for_pydantic(value: object, depth: int = 0) -> object:
    """Copy what the format knows; what it does not know becomes a misfit of the same place."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return max(-_HUGE, min(value, _HUGE))
    if isinstance(value, str):
        return value if _is_text(value) else _MISFIT
    if depth > _DEEPEST:
        return _MISFIT
    if isinstance(value, Mapping):
        return {
            # Not in JSON, so not for pydantic: `via` is a field of an arc, but no key of the format
            # (the checks refuse it).
            _TO_PYTHON.get(key, key): _for_pydantic(item, depth + 1)
            for key, item in ((_key(key), item) for key, item in value.items())
            if not (depth == 2 and key == "via")
        }
    if isinstance(value, list):
        return [_for_pydantic(item, depth + 1) for item in value]
    return _MISFIT


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(key: object) -> str:
    """Return a key as pydantic can read it; one that is not text is unknown in any case."""
    return key if isinstance(key, str) and _is_text(key) else ascii(key)


# --- Mistakes of shape ----------------------------------------------------------------------------

_WANTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dataclass_type": "a table",
    "dataclass_exact_type": "a table",
}


def _shape_mistakes(
    kind: type, details: list[ErrorDetails], data: Mapping[str, object]
) -> Iterator[Mistake]:
    """Put what pydantic found into the words of the format.

    A misspelt key is one mistake, though pydantic finds two: a key too many and one too few.
    """
    found = [
        (detail, tuple(_TO_TOML.get(str(part), part) for part in detail["loc"]))
        for detail in details
    ]
    meant: dict[Location, str] = {}
    for detail, location in found:
        if detail["type"] in _UNKNOWN_KEY:
            suggestion = closest(str(location[-1]), _fields(kind, location[:-1]))
            if suggestion is not None:
                meant[location] = suggestion
    misspelt = {(*location[:-1], suggestion) for location, suggestion in meant.items()}
    for detail, location in found:
        if detail["type"] in _UNKNOWN_KEY:
            keys = ", ".join(_fields(kind, location[:-1]))
            hint = did_you_mean(meant.get(location)) or f"the keys here are {keys}"
            yield Mistake(_place(location), None, "is a key that nothing reads", hint)
        elif detail["type"] != "missing":
            yield _wrong_value(kind, detail, location, _value_at(data, location))
        elif location not in misspelt:
            yield Mistake(_place(location), None, "is missing", f"add {_example(kind, location)}")


_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")


def _wrong_value(kind: type, detail: ErrorDetails, location: Location, value: object) -> Mistake:
    place = _place(location)
    if detail["type"] == "literal_error":
        wanted = f"one of {_choices(kind, location)}"
        if isinstance(value, str):
            return Mistake(place, value, "is not allowed here", f"take {wanted}")
    else:
        wanted = _WANTED.get(detail["type"], "something else")
    hint = None
    if len(location) == 1 and wanted == "a list":
        wanted, hint = "a list of tables", f"begin each row with [[{location[0]}]]"
    return Mistake(place, value, f"is {_kind_of(value)} where {wanted} is expected", hint)


def _kind_of(value: object) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "a truth value"),
        (str, "a string"),
        (int, "a whole number"),
        (float, "a fraction"),
        (Mapping, "a table"),
        (list, "a list"),
        (date, "a date"),
        (time, "a time"),
    )
    for types, name in kinds:
        if isinstance(value, types):
            return f"{name} that UTF-8 cannot write" if types is str and not _text(value) else name
    return "nothing TOML can write"


def _text(value: object) -> bool:
    return isinstance(value, str) and _is_text(value)


def _place(location: Location) -> str:
    """Write a location as a path into the table, as in `arcs[3].to`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.replace("_", "").replace("-", "").isalnum() and part.isascii()
            key = cut(part if bare else f'"{escaped(part)}"')
            text += f".{key}" if text else key
    return text


def _value_at(data: object, location: Location) -> object:
    """Return what is at a location, as the file has it."""
    for part in location:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
    return data


def _fields(kind: type, location: Location) -> dict[str, Any]:
    """Return the keys that a table at this location may have, each with its type."""
    from typing import get_args, get_type_hints

    fields: dict[str, Any] = get_type_hints(kind)
    for section in location:
        if isinstance(section, str):
            fields = get_type_hints(get_args(fields[section])[0])
    return {
        _TO_TOML.get(name, name): hint
        for name, hint in fields.items()
        if not name.startswith("_") and name != "via"
    }


def _choices(kind: type, location: Location) -> str:
    from typing import Literal, get_args, get_origin

    key = max(index for index, part in enumerate(location) if isinstance(part, str))
    wanted = _fields(kind, location[:key])[str(location[key])]
    # The words are inside what may be left out, and inside what is a list.
    while get_origin(wanted) is not Literal:
        wanted = get_args(wanted)[0]
    return ", ".join(f'"{choice}"' for choice in get_args(wanted))


def _example(kind: type, location: Location) -> str:
    """Write down what a missing key may look like."""
    from typing import get_origin

    key = str(location[-1])
    wanted = _fields(kind, location[:-1])[key]
    if len(location) == 1:
        return f'{key} = "..."' if wanted is str else f"[[{key}]]"
    if wanted is str:
        return f'{key} = "..."'
    if wanted is int:
        return f"{key} = NUMBER"
    if wanted is bool:
        return f"{key} = true or {key} = false"
    if get_origin(wanted) is tuple:
        return f"{key} = [...]"
    return f"{key} = one of {_choices(kind, location)}"


def _in_file_order(mistakes: list[Mistake], data: Mapping[str, object]) -> list[Mistake]:
    """Sort by section as the file has them, then by row; what is missing comes first."""
    import re

    order = {key: index for index, key in enumerate(data)}

    def key(mistake: Mistake) -> tuple[int, int]:
        found = re.match(r"([\w-]+)(?:\[(\d+)\])?", mistake.place)
        section, row = (found[1], found[2]) if found else ("", None)
        return order.get(section, -1), int(row or -1)

    return sorted(mistakes, key=key)


# --- Files that are no TOML -----------------------------------------------------------------------

# What `tomllib` says, said in the words of someone who writes a table. What is not listed is passed
# on as it is.
_TOML_WORDS = {
    "Invalid value": "there is no value here; a string needs quotes",
    "Invalid statement": "a line is a key = value, a [table] or a [[table]]",
    "Expected '=' after a key in a key/value pair": "a key without = and a value",
    "Expected newline or end of document after a statement": "something follows the value",
    "Cannot overwrite a value": "this key or table is there already",
    "Unterminated string": "a string that does not end",
    "Illegal character '\\n'": "a string that does not end on its line",
    "Unescaped '\\' in a string": "a \\ that escapes nothing; write \\\\ or use single quotes",
    "Unclosed array": "a list that does not end, or lacks a comma",
    "Unclosed inline table": "a table that does not end, or lacks a comma",
}


_AT = r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)"


def _not_toml(error: Exception, text: str) -> Mistake:
    import re

    if isinstance(error, RecursionError):
        return Mistake("file", None, "is nested too deeply to be a table", None)
    if not isinstance(error, tomllib.TOMLDecodeError):
        # What is left is a decimal number of thousands of digits, which int() refuses to read.
        long = re.search(r"[\d_]{4000}", text)
        place = f"line {text.count(chr(10), 0, long.start()) + 1}" if long else "file"
        return Mistake(place, None, "has a number that is too long to read", None)
    # Before Python 3.14 the position is in the message only.
    found = re.fullmatch(_AT, str(error), re.DOTALL)
    if found is None:
        return Mistake("file", None, f"is not valid TOML: {error}", None)
    words, line, column = found.groups()
    if line is None:
        problem = "is not valid TOML: something is not closed or not complete"
        return Mistake("end of file", None, problem, "look for a missing ], }, quote or value")
    problem = f"is not valid TOML: {_TOML_WORDS.get(words) or _dotted(words)}"
    wrong = text.replace("\r\n", "\n").split("\n")[int(line) - 1].strip()
    hint = f"the line reads: {cut(escaped(wrong, quotes=False))}" if wrong else None
    return Mistake(f"line {line}, column {column}", None, problem, hint)


def _dotted(words: str) -> str:
    """Write the keys that `tomllib` shows as tuples the way TOML does."""
    import re

    keys = re.compile(r"\((?:'[^']*',? ?)+\)")
    text = keys.sub(lambda found: ".".join(re.findall(r"'([^']*)'", found[0])), words)
    return escaped(text[:1].lower() + text[1:], quotes=False)


def _not_utf8(error: UnicodeError) -> Mistake:
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        return Mistake(
            f"line {line}",
            None,
            f"is not valid TOML: byte 0x{byte:02X} at offset {error.start} is not UTF-8",
            "save the file as UTF-8",
        )
    return Mistake(
        "file", None, "is not valid TOML: it holds characters that UTF-8 cannot write", None
    )
