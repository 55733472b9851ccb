"""Family G: groups of any size, moved by the plans of `model/group_plan.toml`.

G1, G4 and G5 are proved by induction over the steps of a plan, quantified over devices: once, for
groups of every size and every mixture of capabilities the plan admits, whichever profiles they come
from. The bad disciplines are refuted with two devices, by a shortest run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import z3

from vfio_migration.model.plan import Phase, Plan, standing
from vfio_migration.verifier.encoding import Encoding, Formula, any_of
from vfio_migration.verifier.examples import Model
from vfio_migration.verifier.group import (
    ACCEPTS,
    STARTS,
    Discipline,
    FiniteGroup,
    QuantifiedGroup,
    may,
    meets,
    shortest_meeting,
)
from vfio_migration.verifier.obligation import Example, Obligation, Query
from vfio_migration.verifier.system import Situation, Term

DEPTH = 9
"""How many events a search for a run that breaks a plan goes."""

PREMISE = 6
"""How many events it takes until one of two devices stops: quiesce both, three phases, stop."""


def _plans(encoding: Encoding, *, sound: bool, after: bool) -> list[Plan]:
    rows = Discipline.plans(encoding).plans
    return [plan for plan in rows if plan.sound == sound and bool(plan.after) == after]


def _safe_by_induction(encoding: Encoding, plan: Plan, *, failing: bool) -> Iterator[Query]:
    """The invariant of each phase holds when it begins and survives every step of every device."""
    discipline = Discipline(encoding, plan, failing=failing)
    group = QuantifiedGroup(discipline)
    now, then = group.where("0"), group.where("1")
    one = group.one
    says = _says(f"the invariant of plan {plan.name} breaks")
    tag = f"{plan.name}{'-failing' if failing else ''}"
    if plan.before:
        begins = {
            word: frozenset(filter(None, [standing(plan, machine)]))
            for word, machine in encoding.machines.items()
        }
        start = z3.ForAll([one], group.stands(now, one, begins))
        yield Query(
            f"{tag}-begins", "step", (group.facts, start, group.broken(now, 0)), "unsat", says
        )
    for index, phase in enumerate(plan.phases):
        yield Query(
            f"{tag}-{phase.name}-kept",
            "step",
            (
                group.facts,
                group.holds(now, index),
                group.moves(now, then, index),
                group.broken(then, index),
            ),
            "unsat",
            says,
        )
        if index + 1 < len(plan.phases):
            yield Query(
                f"{tag}-{phase.name}-over",
                "step",
                (
                    group.facts,
                    group.holds(now, index),
                    group.over(now, index),
                    group.broken(now, index + 1),
                ),
                "unsat",
                says,
            )


def _says(text: str) -> Callable[[Model], Example]:
    return lambda _model: Example(text)


def _search(encoding: Encoding, plans: list[Plan], *, failing: bool) -> Iterator[Query]:
    for plan in plans:
        group = FiniteGroup(encoding, plan, 2, failing=failing)
        yield from group.bounded(group.unsafe, DEPTH)


# --- G1: the good discipline ---


def _g1(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    plans = _plans(encoding, sound=True, after=False)
    for plan in plans:
        yield from _safe_by_induction(encoding, plan, failing=False)
    group = FiniteGroup(encoding, plans[0], 2)

    def one_stops(now: Situation, _event: Term, then: Situation) -> Formula:
        """A device stops while its peer still runs, and they do not meet."""
        return any_of(
            [
                z3.And(
                    may(encoding, now[f"state{one}"], ACCEPTS),
                    z3.Not(may(encoding, then[f"state{one}"], ACCEPTS)),
                    may(encoding, then[f"state{1 - one}"], ACCEPTS),
                )
                for one in range(2)
            ]
        )

    # Quiesce both, next phases, stop one: the first run in which this can happen has few events.
    yield group.happens("one-stops", one_stops, PREMISE)


def _g1_search(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    yield from _search(encoding, _plans(encoding, sound=True, after=False), failing=False)


# --- G2: the bad ones ---


def _g2(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    for plan in _plans(encoding, sound=False, after=False):
        yield from _refuted(encoding, plan)


def _refuted(encoding: Encoding, plan: Plan, *, failing: bool = False) -> Iterator[Query]:
    """Two devices that follow a plan come to grief in some run; no shorter one does."""
    group = FiniteGroup(encoding, plan, 2, failing=failing)
    length = shortest_meeting(group.discipline, 2)
    if length is None:
        text = f"no run of two devices under plan {plan.name} goes wrong"
        yield Query(f"{plan.name}-refuted", "claim", (z3.BoolVal(False),), "sat", _says(text))
        return
    last = length - 1
    wrong = group.unsafe(group.situation(last), group.event(last), group.situation(length))
    yield group.happens(f"{plan.name}-refuted", group.unsafe, length)
    # What a search found is checked by the solver, both that it happens and that nothing shorter
    # does; a claim, so that a plan that does no harm is not passed over as vacuous.
    yield Query(
        f"{plan.name}-goes-wrong",
        "claim",
        group.run(length, wrong),
        "sat",
        _says(f"the run of {length} events that breaks plan {plan.name} does not exist"),
    )
    yield from group.bounded(group.unsafe, last)


# --- G3: devices that cannot be quiesced ---


def _g3(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    lacking = sorted(
        {limit.lacks for plan in _plans(encoding, sound=True, after=False) for limit in plan.limits}
    )
    here, there, peer = (encoding.variable(name) for name in ("here", "there", "peer"))
    for name in lacking:
        bit = encoding.spec.capability(name).value
        without = z3.And(encoding.universe, encoding.flags & bit == 0)
        both_start = z3.And(
            encoding.supported(here),
            encoding.supported(peer),
            may(encoding, here, STARTS),
            may(encoding, peer, STARTS),
        )
        stops = z3.And(encoding.arc(here, there), z3.Not(may(encoding, there, STARTS)))

        def explain(model: Model, name: str = name) -> Example:
            assert model is not None
            names = [encoding.read_state(model, term) or "?" for term in (here, there, peer)]
            return Example(
                f"without {name}, {names[0]} -> {names[1]} beside a device in {names[2]} is safe"
            )

        yield Query(
            f"two-without-{name}",
            "claim",
            (without, both_start, stops, z3.Not(meets(encoding, peer, there))),
            "unsat",
            explain,
        )

        def one_of_two(model: Model, name: str = name) -> Example:
            assert model is not None
            names = [encoding.read_state(model, term) or "?" for term in (here, there, peer)]
            return Example(
                f"without {name}, {names[0]} -> {names[1]} stops a device that the one in "
                f"{names[2]} may still start DMA to; a single device without {name} among others "
                f"that have it is safe, if it is stopped before them and started after (G1)"
            )

        yield Query(
            f"one-of-two-without-{name}",
            "witness",
            (without, both_start, stops),
            "sat",
            one_of_two,
        )


# --- G4, G5: failures, and the way back ---


def _g4(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    for plan in _plans(encoding, sound=False, after=True):
        yield from _refuted(encoding, plan, failing=True)
    for after in (False, True):
        for plan in _plans(encoding, sound=True, after=after):
            yield from _safe_by_induction(encoding, plan, failing=True)


def _g4_search(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    plans = _plans(encoding, sound=True, after=False) + _plans(encoding, sound=True, after=True)
    yield from _search(encoding, plans, failing=True)


def _g5(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    plans = _plans(encoding, sound=True, after=True) + _plans(encoding, sound=True, after=False)
    for plan in plans:
        yield from _arrives(encoding, plan)
    for plan in plans[:1]:
        yield from _safe_by_induction(encoding, plan, failing=False)


def _arrives(encoding: Encoding, plan: Plan) -> Iterator[Query]:
    """In every phase each device comes to rest, and when the plan is over each is at its goal."""
    discipline = Discipline(encoding, plan)
    state = encoding.variable("state")

    def among(sets: dict[int, frozenset[str]]) -> Formula:
        return any_of(
            [
                z3.And(encoding.flags == word, encoding.one_of(state, sorted(names)))
                for word, names in sets.items()
            ]
        )

    def explain(model: Model) -> Example:
        assert model is not None
        name = encoding.read_state(model, state)
        flags = encoding.set_name(encoding.read_flags(model))
        return Example(f"plan {plan.name}: a device in {name} with {flags} does not arrive")

    for index, phase in enumerate(plan.phases):
        known = z3.And(encoding.universe, among(discipline.stands[index]))
        here: z3.BitVecRef = state
        for _ in encoding.names:
            here = _one_step(discipline, phase, here)
        settled = _one_step(discipline, phase, here) == here
        stuck = {
            word: frozenset(discipline.stuck(phase, machine))
            for word, machine in encoding.machines.items()
        }
        yield Query(
            f"{plan.name}-{phase.name}-arrives",
            "claim",
            (known, z3.Or(z3.Not(settled), among(stuck))),
            "unsat",
            explain,
        )
    goal = next(move.to for move in reversed(plan.phases[-1].moves) if move.to is not None)
    ends = z3.And(encoding.universe, among(discipline.ends))
    yield Query(
        f"{plan.name}-goal", "claim", (ends, state != encoding.state(goal)), "unsat", explain
    )
    begun = z3.And(encoding.universe, among(discipline.stands[0]), state != encoding.state(goal))

    def begins(model: Model) -> Example:
        assert model is not None
        name = encoding.read_state(model, state)
        flags = encoding.set_name(encoding.read_flags(model))
        return Example(
            f"plan {plan.name} takes a device from {name} to {goal} (capabilities {flags})"
        )

    yield Query(f"{plan.name}-begins", "witness", (begun,), "sat", begins)


def _one_step(discipline: Discipline, phase: Phase, here: z3.BitVecRef) -> z3.BitVecRef:
    """Where one step of its move takes a device; where it is if it has none."""
    encoding = discipline.encoding
    result = here
    for word, machine in encoding.machines.items():
        for from_, to in discipline.steps(phase, machine).items():
            applies = z3.And(encoding.flags == word, here == encoding.state(from_))
            result = z3.If(applies, encoding.state(to), result)
    return result


_GROUPS = "groups of any number of devices, of any mixture of capabilities a plan admits"

GROUP: tuple[Obligation, ...] = (
    Obligation(
        "G1",
        "A manager that quiesces all devices before it stops any, and starts none before all are "
        "quiesced, never lets a running device meet a stopped one.",
        _GROUPS,
        "quantified",
        "Peer-to-peer DMA to a stopped device is lost, or changes a state already copied.",
        _g1,
        _g1_search,
    ),
    Obligation(
        "G2",
        "A manager that moves devices one by one does let a running device meet a stopped one, and "
        "so does one that asks PRE_COPY -> STOP_COPY in a single request on each device.",
        "every plan marked unsound, with two devices",
        "bounded",
        "The obvious loop over the devices is wrong; the specification nowhere says so.",
        _g2,
    ),
    Obligation(
        "G3",
        "Of two devices that cannot be quiesced, neither can be stopped without the other being "
        "able to start DMA to it: no order of arcs makes such a group safe.",
        "every two devices without the capability that a plan limits, in every state",
        "symbolic",
        "QEMU refuses groups with any such device; the model shows that only a second one is too "
        "many.",
        _g3,
    ),
    Obligation(
        "G4",
        "A device that fails in the middle of a plan lets no running device meet a stopped one, "
        "and the recovery plan never does either; resetting it among stopped devices does.",
        _GROUPS,
        "quantified",
        "A reset device runs at once: where others stand stopped, that is one too early.",
        _g4,
        _g4_search,
    ),
    Obligation(
        "G5",
        "From every situation a plan can be left in, failed devices among them, recovery leads to "
        "all running; from there the save plan leads to all stopped and streaming.",
        _GROUPS,
        "quantified",
        "A manager that was killed half-way must never leave a group without a way on.",
        _g5,
    ),
)
"""Family G, in the order of DESIGN.md."""
