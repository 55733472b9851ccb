"""A migration as a transition system: a source, a client that carries the stream, a destination.

The state of a device has any number of pages and its stream any length. One page, of which nothing
is known, stands for all: what is proved of it is proved of each. Chunks of the stream are kept in
an unbounded array, in the order in which the source produced them.

Both devices move along arcs of the table in any order, may fail for good and be reset at any time,
and the client may open the two sessions in either order and write on what it has read after the
source closed its own: more than any client would do. What it does not do is keep chunks of a
session of the source once the next one is open. A client that writes anything but what it read, in
order, is no different from one whose bytes were damaged on the way.

The source puts a mark at the end of its stream once nothing is left to state and nothing can change
any more. A destination accepts a stream that has this mark, from its first chunk to its last and
undamaged; that it can observe by itself, from the bytes alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import z3

from vfio_migration.model import Step
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.obligation import Example
from vfio_migration.verifier.solver.system import Event, Lemma, Situation, System, Term, run_of
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.device import DeviceSystem

_DEVICES = ("source", "destination")

OTHER = -1
"""What a chunk that is not about the page under watch holds of it."""

_EVENT_NOTES = {
    "source_arc": "",
    "target_arc": "",
    "change": "the source changes the page",
    "stream_page": "the source streams the page",
    "stream_other": "the source streams something else",
    "read": "the client reads a chunk",
    "end_temporary": "the source answers: nothing to read for now",
    "end_final": "the source answers: this is the end of the stream",
    "write": "the client writes a chunk to the destination",
    "damage": "what has been written to the destination is damaged",
    "target_lost": "an arc of the destination fails for good",
    "target_reset": "the destination is reset",
    "source_lost": "an arc of the source fails for good",
    "source_reset": "the source is reset",
}


class MigrationSystem(System):
    """A source, a client and a destination.

    The variables:
        source, target: Where the two devices are.
        value: What the source holds in the page under watch.
        dirty: The page has changed since this session last streamed it; others: some other has.
        stream, produced: The chunks of this session and their number.
        last, sent: Which chunk spoke of the page last (OTHER: none did), and what it said.
        ended: The source has marked the end of the stream; final: what it held in the page then.
        got: How many chunks the client has read; put: how many it has written on.
        joined: All that the destination's session has taken in is of this session of the source.
        intact: Nothing that was written has been damaged.
        copy: What the destination holds in the page.
        whole: The destination's state is one that a device may run on.
    """

    events = tuple(_EVENT_NOTES)

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.device = DeviceSystem.of(encoding)
        self.target_flags = z3.BitVec("target_flags", encoding.flags.size())
        state, number, truth = encoding.state_sort, z3.IntSort(), z3.BoolSort()
        self.sorts = {
            "source": state,
            "target": state,
            "value": number,
            "dirty": truth,
            "others": truth,
            "stream": z3.ArraySort(number, number),
            "produced": number,
            "last": number,
            "sent": number,
            "ended": truth,
            "final": number,
            "got": number,
            "put": number,
            "joined": truth,
            "intact": truth,
            "copy": number,
            "whole": truth,
        }

    @classmethod
    def of(cls, encoding: Encoding) -> MigrationSystem:
        """The system of this encoding, made once."""
        return encoding.once(cls.__name__, lambda: cls(encoding))

    @functools.cached_property
    def facts(self) -> Formula:
        """Each of the two has a capability set of the profile: they need not be alike."""
        return z3.And(self.encoding.universe, self._of_target(self.encoding.universe))

    def _of_target(self, formula: Formula) -> Formula:
        """What a formula states of the source's capability set, said of the destination's."""
        return z3.substitute(formula, (self.encoding.flags, self.target_flags))

    def ends(self, state: Term, kind: str) -> Formula:
        """In this state the end of the stream is of this kind."""
        spec = self.encoding.spec
        names = [
            row.name
            for row in spec.states
            if (end := spec.stream_end(row.name)) is not None and end.kind == kind
        ]
        return self.encoding.one_of(state, names)

    def grows(self, state: Term) -> Formula:
        """In this state the device may change what is to be streamed."""
        # Whatever the table specifies a session grows by: a device that may change itself may do
        # so.
        return any_of([self.device.permits(state, name) for name in sorted(self.device.changing)])

    def acts(self, state: Term) -> Formula:
        """In this state the device may do anything at all."""
        return any_of([self.device.permits(state, name) for name in self.device.activities])

    def _judged(self, state: Term) -> Formula:
        spec = self.encoding.spec
        names = [row.name for row in spec.states if spec.session(row.session).judged]
        return self.encoding.one_of(state, names)

    def complete(self, now: Situation) -> Formula:
        """The destination was given the whole stream, undamaged."""
        everything = z3.And(now["got"] == now["produced"], now["put"] == now["got"])
        return z3.And(now["joined"], now["intact"], now["ended"], everything)

    def start(self, now: Situation) -> Formula:
        """Two devices in the initial state, neither with a session."""
        initial = self.encoding.state(self.encoding.spec.initial)
        numbers = [now[name] == 0 for name in ("value", "final", "produced", "got", "put")]
        return z3.And(
            now["source"] == initial,
            now["target"] == initial,
            *numbers,
            now["last"] == OTHER,
            now["whole"],
            now["intact"],
            z3.Not(now["joined"]),
            z3.Not(now["ended"]),
            now["dirty"],
            now["others"],
        )

    def transitions(self, now: Situation, choose: Callable[[str, z3.SortRef], Term]) -> list[Event]:
        """Everything that source, client and destination can do, and what can happen to them."""
        encoding, device = self.encoding, self.device
        source, target = now["source"], now["target"]
        onward = choose("onward", encoding.state_sort)
        left = choose("others_left", z3.BoolSort())
        damaged, fresh = choose("damaged", z3.IntSort()), choose("fresh", z3.IntSort())
        reading = device.streams(source, "read")
        one, none = z3.IntVal(1), z3.BoolVal(False)
        nothing_left = z3.And(reading, z3.Not(now["dirty"]), z3.Not(now["others"]))
        drained = z3.And(nothing_left, now["got"] == now["produced"])
        copied = z3.Select(now["stream"], now["put"])
        reset = encoding.spec.event("reset")
        lost = encoding.spec.event("arc_failed_for_good")
        return [
            Event("source_arc", encoding.arc(source, onward), self._source_arc(now, onward, left)),
            Event("target_arc", *self._target_arc(now, onward)),
            Event(
                "change",
                z3.And(self.grows(source), fresh != now["value"], fresh != OTHER),
                {"value": fresh, "dirty": z3.BoolVal(True), "others": left},
            ),
            Event(
                "stream_page",
                z3.And(reading, now["dirty"], z3.Not(now["ended"])),
                {
                    "stream": z3.Store(now["stream"], now["produced"], now["value"]),
                    "produced": now["produced"] + one,
                    "last": now["produced"],
                    "sent": now["value"],
                    "dirty": none,
                },
            ),
            Event(
                "stream_other",
                z3.And(reading, now["others"], z3.Not(now["ended"])),
                {
                    "stream": z3.Store(now["stream"], now["produced"], OTHER),
                    "produced": now["produced"] + one,
                    "others": left,
                },
            ),
            Event(
                "read",
                z3.And(reading, now["got"] < now["produced"]),
                {"got": now["got"] + one},
            ),
            Event("end_temporary", z3.And(drained, self.ends(source, "temporary"))),
            Event(
                "end_final",
                z3.And(nothing_left, self.ends(source, "final"), z3.Not(now["ended"])),
                {"ended": z3.BoolVal(True), "final": now["value"]},
            ),
            Event(
                "write",
                z3.And(device.streams(target, "write"), now["joined"], now["put"] < now["got"]),
                {
                    "put": now["put"] + one,
                    "copy": z3.If(copied == OTHER, now["copy"], copied),
                },
            ),
            Event(
                "damage",
                z3.And(device.streams(target, "write"), now["joined"]),
                {"intact": none, "copy": damaged},
            ),
            Event(
                "target_lost",
                self._of_target(self._leaves(target)),
                self._landing("target", lost.to) | {"joined": none},
            ),
            Event(
                "target_reset",
                z3.BoolVal(True),
                self._landing("target", reset.to) | ({"whole": z3.BoolVal(True), "joined": none}),
            ),
            Event(
                "source_lost",
                self._leaves(source),
                self._landing("source", lost.to),
            ),
            Event(
                "source_reset",
                fresh != OTHER,
                self._landing("source", reset.to) | {"value": fresh, "dirty": z3.BoolVal(True)},
            ),
        ]

    def _landing(self, device: str, to: str | None) -> dict[str, Term]:
        return {} if to is None else {device: self.encoding.state(to)}

    def _source_arc(self, now: Situation, onward: Term, more: Term) -> dict[str, Term]:
        opens = self.device.effect(now["source"], onward, "opens")
        anew = z3.And(opens, self.device.streams(onward, "read"))
        no, none_yet = z3.BoolVal(False), now["put"] == 0

        def begin(name: str, value: Term) -> Term:
            return z3.If(anew, value, now[name])

        return {
            "source": onward,
            "produced": begin("produced", z3.IntVal(0)),
            "got": begin("got", z3.IntVal(0)),
            "put": begin("put", z3.IntVal(0)),
            "last": begin("last", z3.IntVal(OTHER)),
            "dirty": begin("dirty", z3.BoolVal(True)),
            "others": begin("others", more),
            "ended": begin("ended", no),
            "joined": begin("joined", z3.And(now["joined"], none_yet)),
        }

    def _target_arc(self, now: Situation, onward: Term) -> tuple[Formula, dict[str, Term]]:
        target = now["target"]
        opens = z3.And(
            self.device.effect(target, onward, "opens"), self.device.streams(onward, "write")
        )
        closes = z3.And(
            self.device.effect(target, onward, "closes"), self.device.streams(target, "write")
        )
        complete = self.complete(now)
        yes, no = z3.BoolVal(True), z3.BoolVal(False)
        # Where the session is judged, an incomplete or damaged stream makes the arc fail instead.
        may = z3.Implies(z3.And(closes, self._judged(target)), complete)
        updates = {
            "target": onward,
            "whole": z3.If(opens, no, z3.If(closes, complete, now["whole"])),
            "joined": z3.If(opens, yes, z3.If(closes, no, now["joined"])),
            "put": z3.If(opens, z3.IntVal(0), now["put"]),
            "intact": z3.If(opens, yes, now["intact"]),
        }
        return z3.And(self._of_target(self.encoding.arc(target, onward)), may), updates

    def _leaves(self, state: Term) -> Formula:
        """Some arc leaves the state."""
        encoding = self.encoding
        return any_of([encoding.arc(state, encoding.state(name)) for name in encoding.names])

    # --- lemmas ---

    @functools.cached_property
    def lemmas(self) -> dict[str, Lemma]:
        """What proofs about the stream lean on, by name."""
        index = z3.Int("index")
        found = [
            Lemma(
                "counted",
                "no more is written than was read, and no more read than was produced",
                lambda now: z3.And(
                    now["put"] >= 0, now["put"] <= now["got"], now["got"] <= now["produced"]
                ),
            ),
            Lemma(
                "silent-since",
                "no chunk after the last that speaks of the page speaks of it",
                lambda now: z3.And(
                    now["last"] >= OTHER,
                    now["last"] < now["produced"],
                    z3.Implies(
                        now["last"] >= 0, z3.Select(now["stream"], now["last"]) == now["sent"]
                    ),
                    z3.Implies(now["last"] >= 0, now["sent"] != OTHER),
                    now["value"] != OTHER,
                    z3.ForAll(
                        [index],
                        z3.Implies(
                            z3.And(now["last"] < index, index < now["produced"]),
                            z3.Select(now["stream"], index) == OTHER,
                        ),
                    ),
                ),
            ),
            Lemma(
                "clean-is-sent",
                "a page that is not dirty was streamed as it is",
                lambda now: z3.Or(
                    now["dirty"], z3.And(now["last"] >= 0, now["sent"] == now["value"])
                ),
            ),
            Lemma(
                "ended-is-still",
                "while a session is open whose end was marked, the source changes no more",
                lambda now: z3.Implies(
                    z3.And(now["ended"], self.device.streams(now["source"], "read")),
                    z3.And(self.ends(now["source"], "final"), now["value"] == now["final"]),
                ),
            ),
            Lemma(
                "final-is-sent",
                "the stream had last for the page what the source held at the end",
                lambda now: z3.Implies(
                    now["ended"], z3.And(now["last"] >= 0, now["sent"] == now["final"])
                ),
            ),
            Lemma(
                "copy-follows",
                "what was written of the page is what the stream had for it last",
                lambda now: z3.Implies(
                    z3.And(
                        now["joined"], now["intact"], now["last"] >= 0, now["put"] > now["last"]
                    ),
                    now["copy"] == now["sent"],
                ),
            ),
            Lemma(
                "half-is-held",
                "a destination whose state is not whole is resuming or has failed",
                lambda now: z3.Or(
                    now["whole"],
                    self.device.streams(now["target"], "write"),
                    self.device.failed(now["target"]),
                ),
            ),
        ]
        return {lemma.name: lemma for lemma in found}

    def lemma(self, *names: str) -> list[Lemma]:
        """The lemmas of these names."""
        return [self.lemmas[name] for name in names]

    # --- back from z3 ---

    def example_of(
        self, model: z3.ModelRef, run: Sequence[Situation], events: Sequence[str]
    ) -> Example:
        """Return a run as a trace of two devices: 0 the source, 1 the destination."""
        encoding = self.encoding
        words = [
            int(model.eval(flags, model_completion=True).as_long())
            for flags in (encoding.flags, self.target_flags)
        ]
        steps: list[Step] = []
        for now, then, name in zip(run, run[1:], events, strict=False):
            which = "target" if name.startswith(("target", "write", "damage")) else "source"
            step = functools.partial(
                Step,
                device=1 if which == "target" else 0,
                state=encoding.read_state(model, then[which]) or "?",
            )
            if name in ("source_arc", "target_arc"):
                here = encoding.read_state(model, now[which])
                there = encoding.read_state(model, then[which])
                steps.append(step(kind="arc", from_=here, to=there))
            elif name in ("target_reset", "source_reset"):
                steps.append(step(kind="reset"))
            else:
                steps.append(step(kind="note", note=_EVENT_NOTES[name]))
        text = "; ".join(
            str(step) if step.kind == "note" else f"{_DEVICES[step.device]}: {step}"
            for step in steps
        )
        start = [encoding.read_state(model, run[0][name]) or "?" for name in ("source", "target")]
        return run_of(encoding, words, start, steps, text)
