"""One device as a transition system, built from the table.

A client asks for states, the device takes one arc at a time, any arc may fail back or for good, the
device is reset, the client disconnects and comes back, data is read and written, and the device
itself acts as its operation permits. Nothing here knows a state by name: what each event does is
read from the rows of the table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Final

import z3

from vfio_migration.model import Event as EventRow
from vfio_migration.model import Step
from vfio_migration.model.spec import EventName, Role
from vfio_migration.verifier.solver.encoding import Encoding, Formula, refusal_half_way
from vfio_migration.verifier.solver.obligation import Example
from vfio_migration.verifier.solver.system import Event, Lemma, Situation, System, Term, run_of
from vfio_migration.verifier.solver.terms import any_of

CHANGE: Final[Role] = "state_change"
"""What specifications forbid a stopped device: to change its own state (see listings.toml)."""

_FAILURES: tuple[EventName, ...] = ("arc_failed", "arc_failed_for_good")
_AT_REST: tuple[EventName, ...] = ("reset", "disconnect")


class DeviceSystem(System):
    """A device and its client.

    The variables:
        state: Where the device is.
        busy, target, origin: A request under way, what it asks for, and where it set out.
        open: How many data sessions are open.
        session, sessions: The number of the open one (0 for none), and how many there ever were.
        set_out: The number of the session that was open when the request set out.
        changes: How often the device has changed its own state.
        connected: A client is there.
    """

    events = (
        "request",
        "refused",
        "nothing",
        "arc",
        "arc_failed",
        "arc_failed_for_good",
        "stuck",
        "reset",
        "reset_failed",
        "disconnect",
        "disconnect_failed",
        "connect",
        "read",
        "write",
        "act",
    )

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        state = encoding.state_sort
        self.sorts = {
            "state": state,
            "busy": z3.BoolSort(),
            "target": state,
            "origin": state,
            "open": z3.IntSort(),
            "session": z3.IntSort(),
            "sessions": z3.IntSort(),
            "set_out": z3.IntSort(),
            "changes": z3.IntSort(),
            "connected": z3.BoolSort(),
        }
        self.activities = [row.name for row in encoding.spec.activities]
        self._activity_sort = z3.BitVecSort(max(1, len(self.activities).bit_length()))

    @classmethod
    def of(cls, encoding: Encoding) -> DeviceSystem:
        """The system of this encoding, made once."""
        return encoding.once(cls.__name__, lambda: cls(encoding))

    @functools.cached_property
    def facts(self) -> Formula:
        """The capability set is one of the profile, next steps are as the table has them."""
        return z3.And(self.encoding.universe, self.encoding.next_facts)

    # --- facts of the table about a state that is a term ---

    def streams(self, state: Term, *transfers: str) -> Formula:
        """The state is one in which data is streamed, in one of these directions or in any."""
        spec = self.encoding.spec
        wanted = transfers or ("read", "write")
        return self.encoding.one_of(
            state,
            [row.name for row in spec.states if spec.session(row.session).transfer in wanted],
        )

    def permits(self, state: Term, activity: str) -> Formula:
        """The table lets a device do this in this state."""
        spec = self.encoding.spec
        names = [row.name for row in spec.states if spec.permits(row.name, activity)]
        return self.encoding.one_of(state, names)

    def effect(self, from_: Term, to: Term, effect: str) -> Formula:
        """Stepping between these states does this to the session."""
        spec = self.encoding.spec
        rows = [row for row in spec.session_effects if row.effect == effect]
        return any_of(
            [
                z3.And(self._in_session(from_, row.from_), self._in_session(to, row.to))
                for row in rows
            ]
        )

    def _in_session(self, state: Term, session: str) -> Formula:
        spec = self.encoding.spec
        return self.encoding.one_of(state, [r.name for r in spec.states if r.session == session])

    def failed(self, state: Term) -> Formula:
        """The state is where a device lands that cannot be brought back."""
        landing = self.encoding.spec.event("arc_failed_for_good").to
        return self.encoding.one_of(state, [landing] if landing is not None else [])

    def on_path(self, origin: Term, target: Term, state: Term) -> Formula:
        """The state is one of those the request passes through."""
        return any_of([state == term for term in self.encoding.follow(origin, target)])

    # --- the system ---

    def start(self, now: Situation) -> Formula:
        """A client is connected to a device in the initial state that never streamed anything."""
        spec = self.encoding.spec
        return z3.And(
            now["state"] == self.encoding.state(spec.initial),
            z3.Not(now["busy"]),
            now["connected"],
            *(now[name] == 0 for name in ("open", "session", "sessions", "set_out", "changes")),
            now["target"] == now["state"],
            now["origin"] == now["state"],
        )

    def transitions(self, now: Situation, choose: Callable[[str, z3.SortRef], Term]) -> list[Event]:
        """Everything that can happen to the device or be done by it."""
        encoding = self.encoding
        state, target = now["state"], now["target"]
        asked = choose("asked", encoding.state_sort)
        activity = choose("activity", self._activity_sort)
        idle = z3.And(z3.Not(now["busy"]), now["connected"])
        answers = self._answers(state, asked)
        onward = encoding.next_step(state, target)
        moving = z3.And(now["busy"], onward != encoding.none)
        lost = self._landing(encoding.spec.event("arc_failed_for_good"))
        return [
            Event(
                "request",
                z3.And(idle, answers["sets out"]),
                {
                    "busy": z3.BoolVal(True),
                    "target": asked,
                    "origin": state,
                    "set_out": now["session"],
                },
            ),
            Event("refused", z3.And(idle, answers["refused"]), self._refused(now)),
            Event("nothing", z3.And(idle, answers["nothing"])),
            Event("arc", moving, self._arc(now, onward)),
            *(self._failing(name, moving) for name in _FAILURES),
            Event(
                "stuck",
                z3.And(now["busy"], onward == encoding.none),
                {"busy": z3.BoolVal(False)},
            ),
            Event("reset", idle, self._landing(encoding.spec.event("reset"))),
            Event(
                "disconnect",
                idle,
                {
                    **self._landing(encoding.spec.event("disconnect")),
                    "connected": z3.BoolVal(False),
                },
            ),
            # A device that cannot even do these is where one does that failed for good.
            Event("reset_failed", idle, lost),
            Event("disconnect_failed", idle, {**lost, "connected": z3.BoolVal(False)}),
            Event("connect", z3.Not(now["connected"]), {"connected": z3.BoolVal(True)}),
            Event("read", z3.And(idle, self.streams(state, "read"), self._readable(now))),
            Event("write", z3.And(idle, self.streams(state, "write"), now["open"] > 0)),
            Event(
                "act",
                any_of(
                    [
                        z3.And(activity == self.activity(name), self.permits(state, name))
                        for name in self.activities
                    ]
                ),
                {
                    "changes": now["changes"]
                    + z3.If(self._changes_state(activity), z3.IntVal(1), z3.IntVal(0))
                },
            ),
        ]

    def _refused(self, now: Situation) -> dict[str, Term]:
        """What a refusal changes: nothing, unless a fault is asked for."""
        if "refusal-renews-session" not in self.encoding.faults:
            return {}
        fresh = now["sessions"] + z3.If(now["open"] > 0, z3.IntVal(1), z3.IntVal(0))
        return {"session": z3.If(now["open"] > 0, fresh, now["session"]), "sessions": fresh}

    def _readable(self, now: Situation) -> Formula:
        """The open session can be read."""
        readable = now["open"] > 0
        if "second-stream-unread" in self.encoding.faults:
            return z3.And(readable, now["session"] <= 1)
        return readable

    @functools.cached_property
    def changing(self) -> set[str]:
        """The activities by which a device changes its own state.

        By their role, not by what the table specifies a session grows by: that is what is to be
            proved.
        """
        return self.with_role([CHANGE])

    def with_role(self, roles: Collection[Role]) -> set[str]:
        """The activities with one of these roles, by name."""
        return {row.name for row in self.encoding.spec.activities if row.role in roles}

    def _answers(self, state: Term, asked: Term) -> dict[str, Formula]:
        """How a request is decided: the rows of [[requests]], the first that holds.

        But for "no_path": like Linux, the device asks for the next step before each arc, and so
        finds out half-way ("stuck").
        """
        encoding = self.encoding
        answers: dict[str, list[Formula]] = {"refused": [], "nothing": []}
        undecided: list[Formula] = []
        for row in encoding.spec.requests:
            if row.when != "no_path":
                holds = encoding.holds(row.when, state, asked)
                answers[row.outcome].append(z3.And(*undecided, holds))
                undecided.append(z3.Not(holds))
        return {
            "refused": any_of(answers["refused"]),
            "nothing": any_of(answers["nothing"]),
            "sets out": z3.And(undecided),
        }

    def activity(self, name: str) -> Term:
        """The value that stands for an activity."""
        return z3.BitVecVal(self.activities.index(name), self._activity_sort.size())

    def chosen_activity(self, moment: int | str) -> Term:
        """What the device does, if it acts at this moment."""
        return z3.Const(f"activity@{moment}", self._activity_sort)

    def _changes_state(self, activity: Term) -> Formula:
        return any_of([activity == self.activity(name) for name in sorted(self.changing)])

    def _arc(self, now: Situation, onward: Term) -> dict[str, Term]:
        opens = self.effect(now["state"], onward, "opens")
        closes = self.effect(now["state"], onward, "closes")
        fresh = now["sessions"] + 1
        return {
            "state": onward,
            "busy": onward != now["target"],
            "open": now["open"]
            + z3.If(opens, z3.IntVal(1), z3.If(closes, z3.IntVal(-1), z3.IntVal(0))),
            "session": z3.If(opens, fresh, z3.If(closes, z3.IntVal(0), now["session"])),
            "sessions": z3.If(opens, fresh, now["sessions"]),
        }

    def _failing(self, name: EventName, moving: Formula) -> Event:
        row = self.encoding.spec.event(name)
        return Event(name, moving, {**self._landing(row), "busy": z3.BoolVal(False)})

    def _landing(self, row: EventRow) -> dict[str, Term]:
        updates: dict[str, Term] = {}
        if row.to is not None:
            updates["state"] = self.encoding.state(row.to)
        if row.session == "ended":
            updates |= {"open": z3.IntVal(0), "session": z3.IntVal(0)}
        return updates

    # --- lemmas ---

    @functools.cached_property
    def lemmas(self) -> dict[str, Lemma]:
        """What proofs about the device lean on, by name."""
        encoding = self.encoding
        found = [
            Lemma(
                "supported",
                "the device is in a state its capability set has",
                lambda now: encoding.supported(now["state"]),
            ),
            Lemma(
                "under-way",
                "a request under way was accepted; the device is on its path and not at its end",
                lambda now: z3.Implies(
                    now["busy"],
                    z3.And(
                        encoding.accepted(now["origin"], now["target"]),
                        self.on_path(now["origin"], now["target"], now["state"]),
                        now["state"] != now["target"],
                        now["state"] != encoding.none,
                    ),
                ),
            ),
            Lemma(
                "setting-out",
                "where a request set out, the session is still the one that was open then",
                lambda now: z3.Implies(
                    z3.And(now["busy"], now["state"] == now["origin"]),
                    now["session"] == now["set_out"],
                ),
            ),
            Lemma(
                "one-session",
                "one session is open in a state that streams, and none in any other",
                lambda now: (
                    now["open"] == z3.If(self.streams(now["state"]), z3.IntVal(1), z3.IntVal(0))
                ),
            ),
            Lemma(
                "numbered",
                "the open session has a number that was given out, and no session has none",
                lambda now: z3.And(
                    now["sessions"] >= 0,
                    now["session"] >= 0,
                    now["session"] <= now["sessions"],
                    (now["session"] == 0) == (now["open"] == 0),
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
        """Return a run as a trace."""
        encoding = self.encoding
        word = encoding.read_flags(model)

        values = {row.value for row in encoding.spec.states}
        unknown = next(value for value in range(len(values) + 1) if value not in values)

        def number(term: Term) -> int:
            return int(model.eval(term, model_completion=True).as_long())

        def state(term: Term) -> str:
            return encoding.read_state(model, term) or "?"

        steps: list[Step] = []
        for moment, name in enumerate(events):
            now, then = run[moment], run[moment + 1]
            step = functools.partial(
                Step, state=state(then["state"]), session=number(then["session"]) or None
            )
            here, target = state(now["state"]), state(now["target"])
            if name in ("request", "refused", "nothing"):
                term = z3.Const(f"asked@{moment}", encoding.state_sort)
                asked: str | int = encoding.read_state(model, term) or unknown
                steps.append(step(kind="request", to=asked))
                if name == "refused":
                    refused = encoding.machines[word].route(here, asked).refused
                    steps.append(
                        step(kind="refused", to=asked, errno=refused.errno if refused else None)
                    )
            elif name == "arc":
                steps.append(step(kind="arc", from_=here, to=state(then["state"])))
            elif name in _FAILURES:
                onward = state(encoding.next_step(now["state"], now["target"]))
                kind = _FAILURES[_FAILURES.index(name)]
                errno = encoding.spec.event(kind).errno
                steps.append(step(kind=kind, from_=here, to=onward, errno=errno))
            elif name in _AT_REST:
                steps.append(step(kind=_AT_REST[_AT_REST.index(name)]))
            elif name in ("reset_failed", "disconnect_failed"):
                errno = encoding.spec.event("arc_failed_for_good").errno
                note = f"no arc, but a {name.removesuffix('_failed')} that fails"
                landed = state(then["state"])
                failed = functools.partial(step, kind="arc_failed_for_good", errno=errno)
                steps.append(failed(from_=here, to=landed, note=note))
            elif name == "stuck":
                note = (
                    f"half-way, SET_STATE {target} is refused: Linux decides on each step when it "
                    "is due, the live engine on all of them before the first"
                )
                errno = refusal_half_way(encoding.spec)
                steps.append(step(kind="refused", to=target, errno=errno, note=note))
            elif name == "act":
                done = self.activities[number(self.chosen_activity(moment))]
                steps.append(step(kind="note", note=f"the device: {done}"))
            else:
                notes = {"connect": "a client connects", "read": "MIG_DATA_READ"}
                steps.append(step(kind="note", note=notes.get(name, "MIG_DATA_WRITE")))
        start = state(run[0]["state"])
        text = f"{len(events)} events from {start}: {'; '.join(str(step) for step in steps)}"
        return run_of(encoding, [word], [start], steps, text)
