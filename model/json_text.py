"""Reads JSON that a stranger may have written: it states one thing, or it is refused.

Python's own reader takes more than JSON has: NaN and Infinity, numbers that overflow to infinity,
and a key that occurs twice in one object, of which only the last counts. Two readers of such a text
need not agree on what it states, and a time that is not a number passes every comparison. So each
reader of this package (recordings, logs, traces, journals, headers, status answers) reads by this
one.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_MAX_SHOWN: Final = 60
"""How many characters of a key or a number a message shows."""


class JsonError(ValueError):
    """A text is not valid JSON, or is JSON that cannot be taken at its word.

    Attributes:
        problem: What is wrong, to be read after the place.
        place: Where: "line 3, column 7", "byte 12"; empty if it is not known.
        is_json: It has the form of JSON, and what it states is refused.
    """

    def __init__(self, problem: str, place: str = "", *, is_json: bool = False) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)
        self.problem = problem
        self.place = place
        self.is_json = is_json


class _RefusedValueError(ValueError):
    """What a hook of the reader refuses; its place is not known there."""


def parse(text: str | bytes, *, finite: bool = True) -> Any:
    """Read JSON text.

    Args:
        text: The text.
        finite: Refuse a number that is too large for a double. It is JSON all the same: VERSION
            passes over capabilities that it does not know, whatever they are.

    Raises:
        JsonError: It is none, names a key twice in one object, has a number that is not finite or
            too long to read, or is nested too deeply.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_constant,
            parse_float=_finite if finite else None,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise JsonError(f"is not valid JSON: {error.msg}", place) from None
    except UnicodeDecodeError as error:
        raise JsonError("is not valid JSON: it is not UTF-8", f"byte {error.start}") from None
    except RecursionError:
        raise JsonError("is nested too deeply") from None
    except _RefusedValueError as error:
        raise JsonError(str(error), _place(text), is_json=True) from None
    except ValueError:
        # What is left is a number of thousands of digits, which int() refuses to read.
        raise JsonError("has a number that is too long to read", is_json=True) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedValueError(f"the key {key[:_MAX_SHOWN]!r} occurs twice")
            seen.add(key)
    return found


def _constant(name: str) -> None:
    raise _RefusedValueError(f"{name} is not a number that JSON has")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedValueError(f"{text[:_MAX_SHOWN]} is too large a number")
    return value


def _place(text: str | bytes) -> str:
    """Return where a text that has the form of JSON first states what is refused."""
    # Of bytes json.loads detects the encoding by their beginning.
    text = (
        text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
    )
    keys: list[set[str] | None] = []  # of each object that is open; None is a list
    tokens = list(_TOKEN.finditer(text))
    for token, behind in zip(tokens, [*tokens[1:], None], strict=True):
        word = token[0]
        if word in "{[":
            keys.append(set() if word == "{" else None)
        elif word in "}]":
            keys.pop()
        elif word[0] == '"':
            open_keys = keys[-1] if keys else None
            if open_keys is not None and behind is not None and behind[0] == ":":
                key = json.loads(word, strict=False)
                if key in open_keys:
                    return _line(text, token.start())
                open_keys.add(key)
        elif word.lstrip("-")[0] in "NI" or (word[-1].isdigit() and math.isinf(float(word))):
            return _line(text, token.start())
    return ""


def _line(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"
