"""A run of one or more devices, step by step: what prover, engine, diagrams and replay share.

The prover writes a counterexample as a `Trace`, the engine's recorder writes a live run as one,
diagrams draw it and `replay` takes it up again. It holds plain values only and goes to JSON and
back unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from vfio_migration.model import json_text
from vfio_migration.model.errors import Mistake, SpecError, closest, did_you_mean, escaped

FORMAT = 1
"""The version of the JSON form; a reader refuses a higher one."""

LONGEST_HEADING = 72
"""How many characters a line above a picture, or in a list, has room for."""

StepKind = Literal[
    "request", "arc", "refused", "arc_failed", "arc_failed_for_good", "reset", "disconnect", "note"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened to a device, and where the device is after it.

    Attributes:
        kind: What happened. A "request" is the client's wish; the arcs it takes, its refusal or
            its failure follow as steps of their own.
        device: Which device, counted from 0. A note that is about none of them has 0.
        from_: For an arc, taken or failed, where it begins.
        to: For an arc its end; for a request its target, as a name or, if no state has it, a value.
        state: The state of the device after this step.
        session: The number of its open data session, or None. Numbers are never used twice.
        errno: For a refusal or a failure, what the client is answered.
        note: A sentence for the reader, or None.
    """

    kind: StepKind
    device: int = 0
    from_: str | None = None
    to: str | int | None = None
    state: str
    session: int | None = None
    errno: str | None = None
    note: str | None = None

    def __str__(self) -> str:
        """Return it in one line."""
        arc = f"{self.from_} -> {self.to}"
        text = {
            "request": f"SET_STATE {self.to}",
            "arc": f"arc {arc}",
            "refused": f"refused ({self.errno})",
            "arc_failed": f"arc {arc} fails ({self.errno})",
            "arc_failed_for_good": f"arc {arc} fails for good ({self.errno})",
            "reset": "reset",
            "disconnect": "the client disconnects",
            "note": "",
        }[self.kind]
        if self.note:
            text += f"{': ' if text else ''}{self.note}"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A run: under which table and capabilities, from where, and its steps.

    Attributes:
        spec: The name of the table.
        capabilities: The capabilities of each device, by name.
        start: The state in which each device begins.
        steps: What happens, in order.
        title: What the run shows, in one sentence.
        heading: The same in a few words, for a picture or a list.
        names: What each device is called, or nothing. Where devices have names, a note states
            itself
            whom it is about: a device, or nobody but their coordinator.
    """

    spec: str
    capabilities: tuple[tuple[str, ...], ...]
    start: tuple[str, ...]
    steps: tuple[Step, ...]
    title: str = ""
    heading: str = ""
    names: tuple[str, ...] = ()

    def name(self, device: int) -> str:
        """What a device is called: by its number, where the run does not state."""
        return self.names[device] if self.names else f"device {device}"

    def called(self, otherwise: str) -> str:
        """What the run is called in a few words: its heading, or a title that a line holds.

        Args:
            otherwise: What it is called if it has neither.
        """
        if self.heading:
            return self.heading
        return self.title if 0 < len(self.title) <= LONGEST_HEADING else otherwise

    def describe(self, step: Step) -> str:
        """Return a step in one line, and of which device it is if there are several."""
        alone = len(self.start) == 1 or (step.kind == "note" and self.names)
        return str(step) if alone else f"{self.name(step.device)}: {step}"

    def changes(self) -> Iterator[tuple[Step, tuple[str, ...]]]:
        """Yield each step, with what it changed in words: the state, the data session."""
        state = list(self.start)
        session: dict[int, int | None] = {}
        for step in self.steps:
            changed = []
            if step.state != state[step.device]:
                changed.append(f"state {state[step.device]} => {step.state}")
            before = session.get(step.device)
            if step.session != before and not (step.kind == "request" and before is None):
                changed.append(
                    f"session {step.session} open" if step.session else f"session {before} closed"
                )
            state[step.device] = step.state
            session[step.device] = step.session
            yield step, tuple(changed)

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON; what is None is left out."""
        return {
            "format": FORMAT,
            "spec": self.spec,
            "title": self.title,
            **({"heading": self.heading} if self.heading else {}),
            **({"names": list(self.names)} if self.names else {}),
            "capabilities": [list(names) for names in self.capabilities],
            "start": list(self.start),
            "steps": [
                {key.rstrip("_"): value for key, value in asdict(step).items() if value is not None}
                for step in self.steps
            ],
        }

    def to_json(self) -> str:
        """Return the JSON text, one key a line."""
        return json.dumps(self.to_data(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Trace:
        """Read the JSON text of a trace. Raises `SpecError` that names the place of the mistake."""
        try:
            data = json_text.parse(text)
        except json_text.JsonError as error:
            deep = " to be a trace" if error.problem.endswith("deeply") else ""
            raise _wrong(error.place or "trace", None, error.problem + deep) from None
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: object) -> Trace:
        """Read plain data, as `to_data` gives it. Raises `SpecError`."""
        top = _Object("trace", data)
        version = top.take("format")
        if type(version) is not int or version != FORMAT:
            hint = f"this version reads {FORMAT}"
            raise _wrong("format", version, "is not a trace format that is known", hint)
        spec, title = top.text("spec"), top.text("title", "")
        heading = top.text("heading", "")
        capabilities = tuple(
            tuple(_texts(f"capabilities[{device}]", names))
            for device, names in enumerate(top.list("capabilities"))
        )
        start = tuple(_texts("start", top.list("start")))
        steps = top.list("steps")
        names = tuple(_texts("names", _list("names", top.take("names", []))))
        top.done()
        if len(start) != len(capabilities):
            problem = f"has {len(start)} devices where capabilities has {len(capabilities)}"
            raise _wrong("start", None, problem)
        if names and len(names) != len(start):
            raise _wrong("names", None, f"has {len(names)} names for {len(start)} devices")
        return cls(
            spec=spec,
            title=title,
            heading=heading,
            capabilities=capabilities,
            start=start,
            names=names,
            steps=tuple(
                _step(f"steps[{index}]", step, len(start)) for index, step in enumerate(steps)
            ),
        )


def _step(place: str, data: object, devices: int) -> Step:
    row = _Object(place, data)
    kind = row.text("kind")
    kinds = get_args(StepKind)
    if kind not in kinds:
        hint = did_you_mean(closest(kind, kinds)) or f"take one of {', '.join(kinds)}"
        raise _wrong(f"{place}.kind", kind, "is not a kind of step", hint)
    to = row.take("to", None)
    if to is not None and (isinstance(to, bool) or not isinstance(to, str | int)):
        raise _wrong(f"{place}.to", to, "is neither a state nor a number")
    step = Step(
        kind=kind,  # type: ignore[arg-type]  # checked against the literal's members above
        device=row.number("device", 0),
        from_=row.optional_text("from"),
        to=to,
        state=row.text("state"),
        session=row.optional_number("session"),
        errno=row.optional_text("errno"),
        note=row.optional_text("note"),
    )
    row.done()
    if not 0 <= step.device < devices:
        hint = f"the trace has {devices}, counted from 0"
        raise _wrong(f"{place}.device", step.device, "is not a device of this trace", hint)
    return step


_MISSING = object()


class _Object:
    """An object of the JSON text: its keys are taken one by one, and none may be left over."""

    def __init__(self, place: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(place, value, "is not an object")
        self._prefix = "" if place == "trace" else f"{place}."
        self._left = dict(value)
        self._known: list[str] = []

    def take(self, key: str, default: object = _MISSING) -> object:
        self._known.append(key)
        value = self._left.pop(key, default)
        if value is _MISSING:
            raise _wrong(self._prefix + key, None, "is missing", self._misspelt(key))
        return value

    def text(self, key: str, default: object = _MISSING) -> str:
        return _text(self._prefix + key, self.take(key, default))

    def optional_text(self, key: str) -> str | None:
        value = self.take(key, None)
        return None if value is None else _text(self._prefix + key, value)

    def number(self, key: str, default: object = _MISSING) -> int:
        return _number(self._prefix + key, self.take(key, default))

    def optional_number(self, key: str) -> int | None:
        value = self.take(key, None)
        return None if value is None else _number(self._prefix + key, value)

    def list(self, key: str) -> Sequence[object]:
        return _list(self._prefix + key, self.take(key))

    def done(self) -> None:
        for key in self._left:
            place = f"{self._prefix}{escaped(str(key), quotes=False)}"
            hint = did_you_mean(closest(str(key), self._known))
            raise _wrong(place, None, "is a key that nothing reads", hint)

    def _misspelt(self, key: str) -> str | None:
        near = closest(key, [other for other in self._left if isinstance(other, str)])
        return None if near is None else f'is "{escaped(near)}" meant to be it?'


def _text(place: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(place, value, "is not a string")
    return value


def _number(place: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(place, value, "is not a whole number")
    return value


def _list(place: str, value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise _wrong(place, value, "is not a list")
    return value


def _texts(place: str, value: object) -> list[str]:
    return [_text(f"{place}[{index}]", item) for index, item in enumerate(_list(place, value))]


def _wrong(place: str, value: object, problem: str, hint: str | None = None) -> SpecError:
    return SpecError([Mistake(place, value, problem, hint)])
