"""Every single change of a recorded run that could matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Line = dict[str, Any]
Mutant = tuple[str, list[Line]]

ERRNOS = ("EINVAL", "EIO", "EREMOTEIO")


def values(lines: list[Line], states: list[str], sets: list[list[str]]) -> Iterator[Mutant]:
    """Yield runs in which one line states something else."""
    for index, line in enumerate(lines):
        for what, other in _others(line, states, sets):
            yield f"line {index}: {what}", [*lines[:index], other, *lines[index + 1 :]]


def _others(line: Line, states: list[str], sets: list[list[str]]) -> Iterator[tuple[str, Line]]:
    if line["what"] == "command":
        if "state" in line:
            for state in (*states, 99):
                if state != line["state"]:
                    yield f"asks for {state}", line | {"state": state}
        return
    if line["what"] != "reply" or line["command"] == "VERSION":
        return
    errno = line.get("errno")
    for other in ERRNOS:
        if other != errno:
            yield f"answered with {other}", line | {"errno": other}
    if errno is not None:
        plain = {key: value for key, value in line.items() if key != "errno"}
        if line["command"] == "MIG_DATA_READ":
            yield "answered with no data", plain | {"size": 0}
            yield "answered with data", plain | {"size": 64}
        else:
            yield "answered with success", plain
        return
    if line.get("method") == "GET":
        for size in (0, 4, 16):
            yield f"{size} bytes long", line | {"size": size}
        for state in (*states, 99) if "state" in line else ():
            if state != line["state"]:
                yield f"tells {state}", line | {"state": state}
        for flags in sets if "flags" in line else ():
            if flags != line["flags"]:
                yield f"tells {flags}", line | {"flags": flags}
    elif line["command"] == "MIG_DATA_READ":
        for size in (0, line["size"] + 1, 1 << 20):
            if size != line["size"]:
                yield f"{size} bytes", line | {"size": size}


def without(lines: list[Line]) -> Iterator[Mutant]:
    """Yield runs in which one exchange, command and reply, is missing."""
    for index, line in enumerate(lines):
        if line["what"] == "command" and lines[index + 1]["what"] == "reply":
            yield f"without exchange {index}", [*lines[:index], *lines[index + 2 :]]
