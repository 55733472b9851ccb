"""Reads the log of another program: each line as what the checker reads of a recording.

What a line looks like and what it states is a row of `model/field_logs.toml`. Here is only what one
line needs of those before it: a request that is about to be made, and the beginning of a call whose
end is another line.
"""

from __future__ import annotations

import errno as errno_module
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

from vfio_migration.model.conformance.observation import CAPABILITIES, Errno, Observation
from vfio_migration.model.field_logs.table import Line, Meaning, load_field_logs
from vfio_migration.model.spec import Spec
from vfio_migration.model.wire_load import load_wire

_MAX_OPEN: Final = 1000
"""How many requests and calls are remembered: the names in a log are its writer's."""

_Groups = dict[str, str]
_Value = TypeVar("_Value")


class Reader:
    """Reads the lines of one log.

    Args:
        name: Its format, as in the table.
        spec: The table of states.
    """

    def __init__(self, name: str, spec: Spec) -> None:
        table, wire = load_field_logs(), load_wire()
        self._kinds = table.lines_of(name)
        self._spellings = {row.spelling: table.spelling(row.spelling) for row in table.words}
        self._values = {row.value: row.name for row in spec.states}
        self._states = {row.name for row in spec.states}
        self._state_feature = next(row.name for row in wire.features if row.moves)
        self._feature = next(row.name for row in wire.commands if row.does == "feature")
        self._reset_command = next(row.name for row in wire.commands if row.does == "reset")
        self._asked: dict[str, str | int] = {}
        self._calls: dict[str, _Groups] = {}
        self._readers: dict[Meaning, Callable[[str, _Groups, Line], Iterator[Observation]]] = {
            "asked": self._ask,
            "arrived": self._arrive,
            "failed": self._fail,
            "arc": self._step,
            "step": self._step,
            "call": self._call,
            "requested": self._request,
            "state": self._return,
            "flags": self._return,
            "reset": self._reset,
            "ended": self._forget,
            "lost": self._forget,
        }

    def read(self, text: str) -> tuple[list[Observation], bool]:
        """Return what a line states.

        Returns:
            What it states of devices, and whether some row has such a line. One that no row has,
            and that has a text of a row, is damaged: what it stated is missing.
        """
        for kind in self._kinds:
            groups = kind.match(text)
            if groups is not None:
                if kind.means in ("known", "message"):
                    return [], True
                read = self._readers[kind.means]
                return list(read(groups.get("device", ""), groups, kind)), True
        damaged = any(
            has in text for kind in self._kinds if kind.means != "known" for has in kind.has
        )
        return [Observation(what="lost")] if damaged else [], False

    def _ask(self, device: str, groups: _Groups, kind: Line) -> Iterator[Observation]:
        if device in self._asked:
            # It was asked before, and what came of that nobody has written.
            yield Observation(what="lost", device=device)
        _remember(self._asked, device, self._state(groups["target"], kind))

    def _arrive(self, device: str, groups: _Groups, kind: Line) -> Iterator[Observation]:
        state = self._state(groups["state"], kind)
        target = self._asked.pop(device, state)
        if target != state:
            yield from self._answered(device, target, 0)
        yield Observation(what="arrived", device=device, state=state)

    def _fail(self, device: str, _groups: _Groups, _kind: Line) -> Iterator[Observation]:
        target = self._asked.pop(device, None)
        if target is None:
            yield Observation(what="step", device=device, errno=0)
        else:
            yield from self._answered(device, target, 0)

    def _call(self, device: str, groups: _Groups, _kind: Line) -> Iterator[Observation]:
        _remember(self._calls, groups["task"], groups | {"device": device})
        yield from ()

    def _step(self, device: str, groups: _Groups, kind: Line) -> Iterator[Observation]:
        if "task" in groups:
            groups = self._calls.pop(groups["task"], {}) | groups
            device = groups.get("device", device)
            if "at" not in groups:  # the log begins in the middle of it
                return
        at, state, target = (
            self._state(groups[name], kind) if name in groups else None
            for name in ("at", "state", "target")
        )
        errno = _errno(groups.get("errno", "0"))
        yield Observation(
            what="step", device=device, at=at, state=state, target=target, errno=errno
        )

    def _request(self, device: str, groups: _Groups, kind: Line) -> Iterator[Observation]:
        target = self._state(groups["target"], kind)
        yield from self._answered(device, target, _errno(groups["errno"]))

    def _answered(self, device: str, target: str | int, errno: Errno) -> Iterator[Observation]:
        about = Observation(
            what="command",
            device=device,
            command=self._feature,
            feature=self._state_feature,
            methods=("SET",),
            state=target,
        )
        yield about
        yield replace(about, what="reply", errno=errno)

    def _return(self, device: str, groups: _Groups, kind: Line) -> Iterator[Observation]:
        feature = CAPABILITIES if "flags" in groups else self._state_feature
        about = Observation(
            what="command",
            device=device,
            command=self._feature,
            feature=feature,
            methods=("GET",),
        )
        yield about
        flags = _number(groups["flags"]) if "flags" in groups else None
        state = self._state(groups["state"], kind) if "state" in groups else None
        yield replace(about, what="reply", state=state, flags=flags)

    def _reset(self, device: str, groups: _Groups, _kind: Line) -> Iterator[Observation]:
        self._asked.pop(device, None)
        about = Observation(what="command", device=device, command=self._reset_command)
        yield about
        yield replace(about, what="reply", errno=_errno(groups.get("errno", "0")))

    def _forget(self, device: str, _groups: _Groups, _kind: Line) -> Iterator[Observation]:
        self._asked.pop(device, None)
        if not device:
            self._asked.clear()
            self._calls.clear()
        yield Observation(what="lost", device=device)

    def _state(self, word: str, kind: Line) -> str | int:
        """Return the state that a word stands for; a number if no state has it."""
        word = word.strip()
        named = self._spellings[kind.spelling].get(word) if kind.spelling else word
        if named in self._states:
            return named
        if not (word.isdecimal() or word.startswith("0x")):
            return word
        return self._values.get(_number(word), _number(word))


def _remember(what: dict[str, _Value], name: str, value: _Value) -> None:
    if len(what) >= _MAX_OPEN and name not in what:
        del what[next(iter(what))]
    what[name] = value


def _errno(text: str) -> Errno:
    """Return an error of a log: its name, a number below zero, or None for 0 and above."""
    if not text.lstrip("-").isdecimal():
        return text
    number = int(text)
    return errno_module.errorcode.get(-number, -number) if number < 0 else None


def _number(text: str) -> int:
    return int(text, 16 if text.startswith("0x") else 10)
