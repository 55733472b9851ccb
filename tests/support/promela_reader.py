"""Reads a Promela model as far as `vfio-migration generate promela` writes it, and runs it.

What is run is the text: its macros, its guards and its assignments, and nothing the generator
knows. `spin` runs it too where it is there (`make spin`); this needs nothing.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

MACRO = re.compile(r"^#define (\w+)(?:\(([\w, ]*)\))? (.*)$")
COMMAND = re.compile(r"^ *:: atomic \{ (.*) -> arrive\((\w+)\) \}$")
PHASE = re.compile(r"^ *atomic \{ (.*) -> (phase = (\d+)|skip|assert\((.*)\)) \};?$")
CHOICE = re.compile(r"^ *:: (d < N && least .*) -> (.*)$")
MET = re.compile(r"^ *(!meets\(\d+, \d+\).*);$")

Where = tuple[tuple[int, str], ...]
"""The flags of each device, and where it is."""


@dataclass
class Seen:
    """What running a model came to."""

    situations: set[tuple[int, Where]] = field(default_factory=set)
    met: set[Where] = field(default_factory=set)
    """Where an assertion of `arrive` fails."""
    astray: set[Where] = field(default_factory=set)
    """Where the assertion of the manager fails."""
    stuck: set[tuple[int, Where]] = field(default_factory=set)
    """Where the manager waits for ever."""
    ends: set[Where] = field(default_factory=set)


class Model:
    def __init__(self, text: str) -> None:
        self.text = text
        lines = text.replace("\\\n", " ").splitlines()
        macros = [match.groups() for line in lines if (match := MACRO.match(line))]
        self.size = int(next(body for name, _, body in macros if name == "N"))
        self.macros = {
            name: ([p.strip() for p in params.split(",")], _python(body))
            for name, params, body in macros
            if params
        }
        (declared,) = re.findall(r"^mtype = \{ (.*) \}$", text, re.MULTILINE)
        self.states = declared.split(", ")
        self.commands = [match.groups() for line in lines if (match := COMMAND.match(line))]
        self.phases = [match.groups() for line in lines if (match := PHASE.match(line))]
        self.choices = [match.groups() for line in lines if (match := CHOICE.match(line))]
        self.nobody_meets = [match[1] for line in lines if (match := MET.match(line))]

    def steps(self) -> set[tuple[int, int, str, str]]:
        """Every (phase, flags, from, to) that a guarded command allows, for any device there."""
        found = set()
        flags = {int(word) for word in re.findall(r"flags\[d\] = (\d+)", self.text)}
        for guard, to in self.commands:
            for phase in range(len(self.phases)):
                for word in flags:
                    for state in self.states:
                        if self.holds(guard, phase, ((word, state),), d=0):
                            found.add((phase, word, state, to))
        return found

    def holds(self, text: str, phase: int, where: Where, **names: int) -> bool:
        scope = dict(self._scope, **names)
        scope["phase"] = phase
        scope["flags"] = [word for word, _ in where]
        scope["state"] = [state for _, state in where]
        return bool(eval(self._compiled(text), scope))

    def _compiled(self, text: str) -> Any:
        if text not in self._code:
            self._code[text] = compile(f"({self._expanded(_python(text))})", "<promela>", "eval")
        return self._code[text]

    @cached_property
    def _code(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _scope(self) -> dict[str, Any]:
        return {name: name for name in self.states} | {"N": self.size, "false": False}

    def _expanded(self, text: str) -> str:
        """Put in macros until there are none left."""
        for name, (params, body) in self.macros.items():
            for match in re.findall(rf"\b{name}\(([^()]*)\)", text):
                given = [part.strip() for part in match.split(",")]
                inner = body
                for param, value in zip(params, given, strict=True):
                    inner = re.sub(rf"\b{param}\b", value, inner)
                text = text.replace(f"{name}({match})", f"({self._expanded(inner)})")
        return text

    def begins(self) -> set[Where]:
        """Every group that `init` can make, with where its devices stand."""
        found = set()
        todo = [((), {"least": 0})]
        while todo:
            where, counts = todo.pop()
            if len(where) == self.size:
                if all(self.holds(text, 0, where) for text in self.nobody_meets):
                    found.add(where)
                continue
            for guard, then in self.choices:
                scope = dict(counts, N=self.size, d=len(where))
                names = re.findall(r"\b(without_\w+)\b", guard)
                scope |= {name: counts.get(name, 0) for name in names}
                if not eval(_python(guard), scope):
                    continue
                word = int(re.findall(r"flags\[d\] = (\d+)", then)[0])
                state = re.findall(r"state\[d\] = (\w+)", then)[0]
                grown = dict(counts, least=word)
                for name in re.findall(r"(\w+)\+\+", then):
                    if name != "d":
                        grown[name] = grown.get(name, 0) + 1
                todo.append(((*where, (word, state)), grown))
        return found

    def run(self) -> Seen:
        """Visit everything that can happen after `init`."""
        seen = Seen()
        queue = deque((0, where) for where in self.begins())
        seen.situations |= set(queue)
        while queue:
            phase, where = queue.popleft()
            after = []
            for guard, to in self.commands:
                for device in range(self.size):
                    if not self.holds(guard, phase, where, d=device):
                        continue
                    moved = (where[device][0], to)
                    then = (*where[:device], moved, *where[device + 1 :])
                    after.append((phase, then))
                    if self._meets(device, then):
                        seen.met.add(then)
            if phase < len(self.phases):
                guard, _, onward, asserted = self.phases[phase]
                if self.holds(guard, phase, where):
                    if onward is not None:
                        after.append((int(onward), where))
                    else:
                        seen.ends.add(where)
                        if asserted and not self.holds(asserted, phase, where):
                            seen.astray.add(where)
                elif not after:
                    seen.stuck.add((phase, where))
            for then in after:
                if then not in seen.situations:
                    seen.situations.add(then)
                    if then[1] not in seen.met:
                        queue.append(then)
        return seen

    def _meets(self, device: int, where: Where) -> bool:
        """As `arrive` asserts it does not."""
        assert "assert(!meets(d, peer) && !meets(peer, d))" in self.text
        return any(
            self.holds(f"meets({device}, {peer})", 0, where)
            or self.holds(f"meets({peer}, {device})", 0, where)
            for peer in range(self.size)
        )


def _python(text: str) -> str:
    text = text.replace("&&", " and ").replace("||", " or ")
    return re.sub(r"!(?!=)", " not ", text)
