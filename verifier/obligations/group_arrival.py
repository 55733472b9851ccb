"""G5 and G6: that plans arrive, wherever they were begun, and that nothing runs half loaded.

Within a phase each device moves by itself, so what is stated of one device under every capability
set is stated of each device of every group.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import z3

from vfio_migration.model.plan import Phase, Plan
from vfio_migration.verifier.solver.encoding import Encoding, Formula, Term
from vfio_migration.verifier.solver.explain import Model
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.handover import followed
from vfio_migration.verifier.systems.plan import Discipline, Sets, Where
from vfio_migration.verifier.systems.plan_runs import run_to, showing, taken


def arrivals(encoding: Encoding) -> Iterator[Query]:
    """G5: every plan arrives, and from wherever one was left another leads on."""
    encoding = encoding.widest()
    after = Discipline.marked(encoding, sound=True, after=True)
    others = Discipline.marked(encoding, sound=True, after=False)
    for plan in after + others:
        yield from _arrives(encoding, plan, _goals(encoding, plan))
        yield _begins(encoding, plan, _goals(encoding, plan))
    for plan in followed(Discipline.plans(encoding)):
        destination = plan.name.endswith("destination")
        goals = [encoding.spec.initial] if destination else _retired(encoding)
        yield from _arrives(encoding, plan, goals)
    for plan in others:
        if _kind(encoding, plan) == "save":
            yield from _keeps_its_session(encoding, plan)
        for kind, where in (("run", "running"), ("stop", "stopped")):
            ways = [way for way in after if plan.name in way.after and _admits_all_of(way, plan)]
            found = any(_kind(encoding, way) == kind for way in ways)
            text = f"no plan leads from wherever {plan.name} was left to all {where}"
            yield _fact(f"{plan.name}-{kind}", found, text)
    kinds = {_kind(encoding, plan) for plan in others}
    for kind, name, text in _NEEDED:
        yield _fact(name, kind in kinds, f"no plan leads from {text}")
    for plan in after:
        yield _again(encoding, plan)


_NEEDED = (
    ("save", "stopped-and-copied", "all running to all stopped and streaming"),
    ("load", "ready-to-be-loaded", "all running to all ready to be loaded"),
    ("run", "loaded-and-running", "all loaded to all running"),
)
"""What there must be a plan for: its kind, the name of the claim, from where to where."""


def _fact(name: str, holds: bool, text: str) -> Query:
    """A claim about the plans that needs no solver, in the form of one."""
    shown = f"{text}; no run shows that, for it is a plan that is missing"
    return Query(name, "claim", (z3.BoolVal(not holds),), "unsat", lambda _: Example(shown))


def _admits_all_of(way: Plan, plan: Plan) -> bool:
    """Every group that one plan is for, the other is for too."""
    return all(
        any(own.lacks == limit.lacks and own.count <= limit.count for own in plan.limits)
        for limit in way.limits
    )


def _kind(encoding: Encoding, plan: Plan) -> str:
    """What a sound plan is for, by where it begins, where it passes and where it leads on."""
    spec = encoding.spec
    discipline = Discipline(encoding, plan)
    if plan.after:
        acts = any(spec.operation(spec.state(name).operation).may for name in _last(plan))
        return "run" if acts else "stop"
    begins = frozenset().union(*discipline.begins_anywhere.values())
    if begins <= _transferring(encoding, "write"):
        return "run"
    passes = frozenset().union(*(names for sets in discipline.reachable for names in sets.values()))
    if begins != {spec.initial}:
        return "other"
    return "save" if passes & _transferring(encoding, "read") else "load"


def _last(plan: Plan) -> list[str]:
    """Where the last phase of a plan leads."""
    return [move.to for move in plan.phases[-1].moves if move.to is not None][-1:]


def _transferring(encoding: Encoding, transfer: str) -> frozenset[str]:
    """The states in which a stream is read, or written."""
    spec = encoding.spec
    return frozenset(r.name for r in spec.states if spec.session(r.session).transfer == transfer)


def _goals(encoding: Encoding, plan: Plan) -> list[str]:
    """Where each device must be when the plan is over, whatever its last phase asks."""
    spec = encoding.spec
    kind = _kind(encoding, plan)
    if kind == "run":
        return [spec.initial]
    if kind == "save":
        ends = {row.name: spec.stream_end(row.name) for row in spec.states}
        return [name for name, end in ends.items() if end is not None and end.kind == "final"]
    if kind == "load":
        return sorted(_transferring(encoding, "write"))
    return _retired(encoding) if kind == "stop" else _last(plan)


def _retired(encoding: Encoding) -> list[str]:
    """Where a device does nothing and streams nothing; one that failed does nothing either."""
    spec = encoding.spec
    idle = [row.name for row in spec.states if not spec.operation(row.operation).may]
    return [name for name in idle if name in _transferring(encoding, "none")]


def _keeps_its_session(encoding: Encoding, plan: Plan) -> Iterator[Query]:
    """No step of the plan ends a saving session or loads a state over that of the source."""
    spec = encoding.spec
    discipline = Discipline(encoding, plan)
    here, there = encoding.variable("here"), encoding.variable("there")

    def transfers(state: Term, transfer: str) -> Formula:
        names = [r.name for r in spec.states if spec.session(r.session).transfer == transfer]
        return encoding.one_of(state, names)

    unread = z3.And(transfers(here, "read"), z3.Not(transfers(there, "read")))

    def explain(index: int, model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        from_, to = (encoding.read_state(model, state) or "?" for state in (here, there))
        text = f"plan {plan.name}: {from_} -> {to} loses what was saved "
        text += f"(capabilities {encoding.set_name(word)})"
        trace = run_to(discipline, [word], lambda phase, where: (phase, where) == (index, (from_,)))
        if trace is not None:
            machine = encoding.machines[word]
            last = taken(discipline, index, machine, 0, from_, to)
            trace = dataclasses.replace(trace, steps=(*trace.steps, last))
        return showing(text, trace, "what was saved is lost", spec)

    for index, phase in enumerate(plan.phases):
        steps = [
            z3.And(
                encoding.flags == word,
                here == encoding.state(from_),
                there == encoding.state(to),
            )
            for word, machine in discipline.machines()
            for from_, to in discipline.steps(phase, machine).items()
            if from_ in discipline.reachable[index][word]
        ]
        lost = z3.Or(unread, transfers(there, "write"))
        yield Query(
            f"{plan.name}-{phase.name}-keeps",
            "claim",
            (any_of(steps), lost),
            "unsat",
            functools.partial(explain, index),
        )


def loaded_together(encoding: Encoding) -> Iterator[Query]:
    """G6: in no phase may one device act while another is still being loaded."""
    encoding = encoding.widest()
    spec = encoding.spec
    one, other = encoding.variable("one"), encoding.variable("other")
    theirs = z3.BitVec("other_flags", encoding.flags.size())
    acting = [row.name for row in spec.states if spec.operation(row.operation).may]
    acts = encoding.one_of(one, acting)
    loading = [r.name for r in spec.states if spec.session(r.session).transfer == "write"]
    loads = encoding.one_of(other, loading)

    def explain(discipline: Discipline, index: int, model: Model) -> Example:
        assert model is not None
        names = tuple(encoding.read_state(model, state) or "?" for state in (one, other))
        their = model.eval(theirs, model_completion=True).as_long()
        why = f"a device runs in {names[0]} while another is still loaded in {names[1]}"
        trace = run_to(
            discipline,
            [encoding.read_flags(model), their],
            lambda phase, where: (phase, where) == (index, names),
        )
        return showing(f"plan {discipline.plan.name}: {why}", trace, why, spec)

    alone = Discipline.marked(encoding, sound=True, after=False)
    for plan in alone + followed(Discipline.plans(encoding)):
        discipline = Discipline(encoding, plan)
        for index, phase in enumerate(plan.phases):
            reachable = discipline.reachable[index]
            both = (
                _among(encoding, one, reachable),
                z3.substitute(_among(encoding, other, reachable), (encoding.flags, theirs)),
            )
            name = f"{plan.name}-{phase.name}"
            explained = functools.partial(explain, discipline, index)
            yield Query(f"{name}-together", "claim", (*both, acts, loads), "unsat", explained)
            if plan in alone and _kind(encoding, plan) == "run" and index == 0:
                yield Query(
                    f"{name}-loads", "witness", (*both, loads), "sat", _example(encoding, other)
                )


def _example(encoding: Encoding, state: Term) -> Callable[[Model], Example]:
    def explain(model: Model) -> Example:
        assert model is not None
        return Example(f"a device is being loaded in {encoding.read_state(model, state)}")

    return explain


def _among(encoding: Encoding, state: Term, sets: Sets) -> Formula:
    return any_of(
        [
            z3.And(encoding.flags == word, encoding.one_of(state, sorted(names)))
            for word, names in sets.items()
        ]
    )


def _again(encoding: Encoding, plan: Plan) -> Query:
    """A recovery that is itself left half-way, by failing devices too, can begin again."""
    discipline = Discipline(encoding, plan, failing=True)
    state = encoding.variable("state")
    left = any_of([_among(encoding, state, sets) for sets in discipline.reachable])
    begins = _among(encoding, state, discipline.begins_anywhere)

    def explain(model: Model) -> Example:
        assert model is not None
        name, word = encoding.read_state(model, state), encoding.read_flags(model)
        trace = run_to(discipline, [word], lambda _, where: where == (name,))
        text = f"plan {plan.name}, left with a device in {name}, cannot begin again"
        return showing(text, trace, "left here, it cannot begin again", encoding.spec)

    known = z3.And(encoding.universe, left)
    return Query(f"{plan.name}-again", "claim", (known, z3.Not(begins)), "unsat", explain)


def _arrives(encoding: Encoding, plan: Plan, names: list[str]) -> Iterator[Query]:
    """In every phase each device comes to rest, and when the plan is over each is at its goal."""
    discipline = Discipline(encoding, plan)
    state = encoding.variable("state")

    def explain(index: int, resting: bool, why: str, model: Model) -> Example:
        assert model is not None
        name, word = encoding.read_state(model, state) or "?", encoding.read_flags(model)
        flags = encoding.set_name(word)
        phase = plan.phases[index]

        def wanted(number: int, where: Where) -> bool:
            rests = name in discipline.rests(phase, encoding.machines[word])
            return (number, where) == (index, (name,)) and (rests or not resting)

        text = f"plan {plan.name}: a device in {name} with {flags} does not arrive"
        return showing(text, run_to(discipline, [word], wanted), why, encoding.spec)

    def unplaced(model: Model) -> Example:
        assert model is not None
        flags = encoding.set_name(encoding.read_flags(model))
        text = f"plan {plan.name}: a device with {flags} does not arrive, for the plan begins "
        return Example(f"{text}in no state that it has; so no run shows that")

    placed = any_of(
        [encoding.flags == word for word, names in discipline.begins_anywhere.items() if names]
    )
    yield Query(
        f"{plan.name}-placed", "claim", (encoding.universe, z3.Not(placed)), "unsat", unplaced
    )
    for index, phase in enumerate(plan.phases):
        known = z3.And(encoding.universe, _among(encoding, state, discipline.reachable[index]))
        here: z3.BitVecRef = state
        for _ in range(_longest(discipline, phase)):
            here = _one_step(discipline, phase, here)
        at_rest = _one_step(discipline, phase, here) == here
        lost = {
            word: frozenset(discipline.stuck(phase, machine) + discipline.strays(phase, machine))
            for word, machine in encoding.machines.items()
        }
        yield Query(
            f"{plan.name}-{phase.name}-arrives",
            "claim",
            (known, z3.Or(z3.Not(at_rest), _among(encoding, state, lost))),
            "unsat",
            functools.partial(
                explain, index, False, f'it does not get to where phase "{phase.name}" leads'
            ),
        )
    goals = encoding.one_of(state, names)
    ends = z3.And(encoding.universe, _among(encoding, state, discipline.ends))
    why = f"the plan is over, and it is not in {' or '.join(names)}"
    explained = functools.partial(explain, len(plan.phases) - 1, True, why)
    yield Query(f"{plan.name}-goal", "claim", (ends, z3.Not(goals)), "unsat", explained)


def _begins(encoding: Encoding, plan: Plan, names: list[str]) -> Query:
    """A witness: the plan has something to do."""
    state = encoding.variable("state")
    begins = _among(encoding, state, Discipline(encoding, plan).begins_anywhere)
    begun = z3.And(encoding.universe, begins, z3.Not(encoding.one_of(state, names)))

    def begun_in(model: Model) -> Example:
        assert model is not None
        name = encoding.read_state(model, state)
        flags = encoding.set_name(encoding.read_flags(model))
        goal = " or ".join(names)
        return Example(
            f"plan {plan.name} takes a device from {name} to {goal} (capabilities {flags})"
        )

    return Query(f"{plan.name}-begins", "witness", (begun,), "sat", begun_in)


def _longest(discipline: Discipline, phase: Phase) -> int:
    """How many steps a device takes in a phase at most; as many as states, if it turns in it."""
    encoding, longest = discipline.encoding, 0
    for machine in encoding.machines.values():
        steps = discipline.steps(phase, machine)
        for begin in steps:
            here, count = begin, 0
            while here in steps and steps[here] != here and count < len(encoding.names):
                here, count = steps[here], count + 1
            longest = max(longest, count)
    return longest


def _one_step(discipline: Discipline, phase: Phase, here: z3.BitVecRef) -> z3.BitVecRef:
    """Where one step of its move takes a device; where it is if it has none."""
    encoding = discipline.encoding
    result = here
    for word, machine in encoding.machines.items():
        for from_, to in discipline.steps(phase, machine).items():
            applies = z3.And(encoding.flags == word, here == encoding.state(from_))
            result = z3.If(applies, encoding.state(to), result)
    return result
