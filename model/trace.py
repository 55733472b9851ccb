"""A run of one or more devices, step by step: what prover, engine, diagrams and replay share.

The prover writes a counterexample as a `Trace`, the engine's recorder writes a live run as one,
diagrams draw it and `replay` takes it up again. It holds plain values only and goes to JSON and back
unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from vfio_migration.model.errors import Mistake, SpecError, closest, did_you_mean

FORMAT = 1
"""The version of the JSON form; a reader refuses a higher one."""

StepKind = Literal[
    "request", "arc", "refused", "arc_failed", "arc_failed_for_good", "reset", "disconnect", "note"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened to a device, and where the device stands after it.

    Attributes:
        kind: What happened. A "request" is the client's wish; the arcs it takes, its refusal or
            its failure follow as steps of their own.
        device: Which device, counted from 0.
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
        """Say it in one line."""
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
    """

    spec: str
    capabilities: tuple[tuple[str, ...], ...]
    start: tuple[str, ...]
    steps: tuple[Step, ...]
    title: str = ""

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON; what is None is left out."""
        return {
            "format": FORMAT,
            "spec": self.spec,
            "title": self.title,
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
    def from_json(cls, text: str) -> Trace:
        """Read the JSON text of a trace. Raises `SpecError` that names the place of the mistake."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError([Mistake("trace", None, f"is not JSON: {error}", None)]) from None
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: object) -> Trace:
        """Read plain data, as `to_data` gives it. Raises `SpecError`."""
        top = _mapping("trace", data)
        version = top.get("format")
        if version != FORMAT:
            hint = f"this version reads {FORMAT}"
            raise SpecError([Mistake("format", version, "is not a known trace format", hint)])
        steps = _sequence("steps", top.get("steps"))
        return cls(
            spec=_text("spec", top.get("spec")),
            title=_text("title", top.get("title", "")),
            capabilities=tuple(
                tuple(
                    _text(f"capabilities[{device}][{index}]", name)
                    for index, name in enumerate(_sequence(f"capabilities[{device}]", names))
                )
                for device, names in enumerate(_sequence("capabilities", top.get("capabilities")))
            ),
            start=tuple(
                _text(f"start[{index}]", name)
                for index, name in enumerate(_sequence("start", top.get("start")))
            ),
            steps=tuple(_step(f"steps[{index}]", step) for index, step in enumerate(steps)),
        )


def _step(place: str, data: object) -> Step:
    row = dict(_mapping(place, data))
    kinds = get_args(StepKind)
    kind = _text(f"{place}.kind", row.pop("kind", None))
    if kind not in kinds:
        raise SpecError(
            [
                Mistake(
                    f"{place}.kind", kind, "is no kind of step", did_you_mean(closest(kind, kinds))
                )
            ]
        )
    state = _text(f"{place}.state", row.pop("state", None))
    device, session, to = row.pop("device", 0), row.pop("session", None), row.pop("to", None)
    optional = {key: row.pop(key, None) for key in ("from", "errno", "note")}
    for key, value in {"device": device, "session": session}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise SpecError([Mistake(f"{place}.{key}", value, "is not a whole number", None)])
    if isinstance(to, bool) or not isinstance(to, str | int | None):
        raise SpecError([Mistake(f"{place}.to", to, "is neither a state nor a number", None)])
    for key, value in optional.items():
        if value is not None:
            _text(f"{place}.{key}", value)
    if row:
        raise SpecError(
            [Mistake(f"{place}.{next(iter(row))}", None, "is a key that nothing reads", None)]
        )
    return Step(
        kind=kind,  # type: ignore[arg-type]  # checked against the literal's members above
        device=device,
        from_=optional["from"],
        to=to,
        state=state,
        session=session,
        errno=optional["errno"],
        note=optional["note"],
    )


def _mapping(place: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError([Mistake(place, value, "is not an object", None)])
    return value


def _sequence(place: str, value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise SpecError([Mistake(place, value, "is not a list", None)])
    return value


def _text(place: str, value: object) -> str:
    if not isinstance(value, str):
        raise SpecError([Mistake(place, value, "is not a string", None)])
    return value
