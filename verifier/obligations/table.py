"""Family T: the table is what it claims to be.

All capability sets are covered by one symbolic run: the flags word is the solver's to choose.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import z3

from vfio_migration.model import RoutingRule, Spec
from vfio_migration.verifier.obligations.listed import as_listed
from vfio_migration.verifier.obligations.requests import no_request_for_failure, one_answer
from vfio_migration.verifier.obligations.rules import (
    no_idle_row,
    no_other_table,
    overlooked_path,
    second_path,
)
from vfio_migration.verifier.solver.encoding import Encoding, Formula, Term, path_trace
from vfio_migration.verifier.solver.explain import (
    Model,
    arc_rows,
    asked_trace,
    file_name,
    landings,
    pair,
    request_example,
    request_of,
    step_example,
    written_step,
)
from vfio_migration.verifier.solver.obligation import Example, Obligation, Query
from vfio_migration.verifier.solver.terms import any_of

# --- T1, T2: arcs and neighbours ---


def _t1(encoding: Encoding) -> Iterator[Query]:
    from_, to = pair(encoding)
    premise = z3.And(encoding.universe, encoding.arc(from_, to))
    yield Query(
        "arc-off-grid",
        "claim",
        (premise, z3.Not(encoding.one_step(from_, to))),
        "unsat",
        step_example(encoding, from_, to, lambda a, b: _off_grid(encoding.spec, a, b)),
    )
    joined = any_of(
        [
            z3.And(from_ == encoding.state(line.from_), to == encoding.state(line.to))
            for line in encoding.lines
            if line.via
        ]
    )
    contracted = any(line.via for line in encoding.lines)
    shown = step_example(encoding, from_, to, lambda a, b: f"{a} -> {b} is one step")
    yield Query(
        "an-arc",
        "witness",
        (premise, joined) if contracted else (premise,),
        "sat",
        shown,
        instead=lambda: [Query("an-arc", "witness", (premise,), "sat", shown)],
    )


def _off_grid(spec: Spec, here: str, there: str) -> str:
    """Say why an arc is no step: both axes change, or it passes over a place without a state."""
    if spec.direction(here, there) is None:
        return f"{here} -> {there} is an arc, but no step on the grid"
    (column, row), (last, end) = spec.position(here) or (0, 0), spec.position(there) or (0, 0)
    known = {spec.position(state.name) for state in spec.states}
    operations = [one.name for one in spec.operations if not one.off_grid]
    holes = [
        f"{operations[x]} and {spec.sessions[y].name}"
        for x in range(min(column, last), max(column, last) + 1)
        for y in range(min(row, end), max(row, end) + 1)
        if (x, y) not in known
    ]
    if not holes:
        return f"{here} -> {there} is an arc, but no step on the grid"
    return (
        f"{here} -> {there} is an arc that passes over an empty place of the grid: no state is "
        f"{' nor '.join(holes)}. Add that state with its arcs, or refuse {here} -> {there}"
    )


def _t2(encoding: Encoding) -> Iterator[Query]:
    from_, to = pair(encoding)
    premise = z3.And(
        encoding.universe,
        encoding.supported(from_),
        encoding.supported(to),
        encoding.one_step(from_, to),
    )
    spoken_of = z3.Or(encoding.arc(from_, to), encoding.refused(from_, to))
    yield Query(
        "silent-neighbours",
        "claim",
        (premise, z3.Not(spoken_of)),
        "unsat",
        step_example(
            encoding,
            from_,
            to,
            lambda a, b: (
                f"{a} and {b} are neighbours, but {a} -> {b} is neither an arc nor refused"
            ),
        ),
    )
    yield Query(
        "arc-and-refused",
        "claim",
        (encoding.universe, encoding.arc(from_, to), encoding.refused(from_, to)),
        "unsat",
        _both(encoding, from_, to),
    )
    refused = encoding.refused(from_, to) if encoding.spec.refusals else z3.BoolVal(True)
    yield Query(
        "neighbours",
        "witness",
        (premise, refused),
        "sat",
        step_example(encoding, from_, to, lambda a, b: f"{a} -> {b} is spoken of"),
    )


def _both(encoding: Encoding, from_: Term, to: Term) -> Callable[[Model], Example]:
    """Describe which rows contradict each other; `load` refuses a table where two do directly."""

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        here = encoding.read_state(model, from_) or "?"
        there = encoding.read_state(model, to) or "?"
        refusals = [(row.from_, row.to) for row in encoding.spec.refusals]
        place = f"refusals[{refusals.index((here, there))}]"
        arcs = arc_rows(encoding, word, here, there)
        how = "joined, lead there" if len(arcs) > 1 else "leads there"
        text = (
            f"{place} refuses {here} -> {there}, and {' and '.join(arcs)}, {how} "
            f"(capabilities {encoding.set_name(word)}): remove the refusal or an arc"
        )
        return Example(text, asked_trace(encoding, word, here, there, text), place)

    return explain


# --- T3: reachability ---


def _t3(encoding: Encoding) -> Iterator[Query]:
    spec = encoding.spec
    start = spec.initial
    entered = {spec.event("arc_failed_for_good").to}
    reached: dict[str, Formula] = {
        name: z3.BoolVal(name == start or name in entered) for name in encoding.names
    }
    for _ in encoding.names:
        reached = {
            name: z3.Or(
                reached[name],
                *(
                    z3.And(reached[line.from_], encoding.along(line))
                    for line in encoding.lines
                    if line.to == name
                ),
            )
            for name in encoding.names
        }
    target = encoding.variable("state")
    there = any_of(
        [z3.And(target == encoding.state(name), reached[name]) for name in encoding.names]
    )

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        name = encoding.read_state(model, target)
        machine = encoding.machines[word]
        if name in entered:
            return Example(f"{name} is reached by a failing arc")
        assert name is not None
        path = (start, *machine.route(start, name).path)
        missing = (pair for pair in itertools.pairwise(path) if machine.arc(*pair) is None)
        if (gap := next(missing, None)) is not None:
            text = (
                f"{name} is reached from {start} only by {gap[0]} -> {gap[1]}, which is not an arc"
            )
            text += f" (capabilities {encoding.set_name(word)})"
            return Example(text, asked_trace(encoding, word, start, name, text))
        if len(path) == 1 and name != start:
            text = f"{name} cannot be reached from {start} with {encoding.set_name(word)}"
            return Example(text, asked_trace(encoding, word, start, name, text, [start]))
        return Example(f"{' -> '.join(path)} (capabilities {encoding.set_name(word)})")

    premise = z3.And(encoding.universe, encoding.supported(target))
    yield Query("unreachable", "claim", (premise, z3.Not(there)), "unsat", explain)
    near = sorted(name for name in {start, *entered} if name is not None)
    far = z3.And([target != encoding.state(name) for name in near])
    yield Query("reachable", "witness", (premise, there, far), "sat", explain)


# --- T4, T6, T7: paths ---


def _t4(encoding: Encoding) -> Iterator[Query]:
    from_, to = pair(encoding)
    rule = encoding.spec.routing_rule()
    path = encoding.follow(from_, to)
    request = z3.And(encoding.universe, encoding.accepted(from_, to), encoding.next_facts)
    arrives = path[-1] == to
    moves = z3.And(
        [z3.Or(here == to, encoding.arc(here, there)) for here, there in itertools.pairwise(path)]
    )
    legal = z3.And(moves, encoding.legal(rule, path, to))

    arrivals = tuple(term == to for term in path[1:])
    yield Query(
        "illegal-path",
        "claim",
        (request, arrives, z3.Not(legal)),
        "unsat",
        request_example(encoding, from_, to, lambda *_: f"the rule {rule.name} forbids this path"),
        shorter=arrivals,
    )
    yield second_path(encoding)
    yield overlooked_path(encoding)
    shown = request_example(encoding, from_, to, lambda *_: "")
    long = z3.And(path[2] != to, path[3] == to) if len(path) > 3 else z3.BoolVal(True)
    yield Query(
        "a-path",
        "witness",
        (request, arrives, legal, long),
        "sat",
        shown,
        instead=lambda: [Query("a-path", "witness", (request, arrives, legal), "sat", shown)],
    )


def _t6(encoding: Encoding) -> Iterator[Query]:
    from_, to = pair(encoding)
    path = encoding.follow(from_, to)
    asked = z3.And(
        encoding.universe, encoding.supported(from_), encoding.supported(to), encoding.next_facts
    )
    stuck = _looked_up(encoding, from_, to, "the steps end before the target")
    yield Query(
        "endless-or-stuck",
        "claim",
        (asked, encoding.accepted(from_, to), path[-1] != to),
        "unsat",
        stuck,
        shorter=tuple(term == encoding.none for term in path[1:]),
    )
    refused = z3.And(from_ != to, z3.Or(encoding.refused(from_, to), z3.Not(encoding.settable(to))))
    yield Query(
        "refused-but-moving",
        "claim",
        (asked, refused, encoding.next_step(from_, to) != encoding.none),
        "unsat",
        request_example(encoding, from_, to, lambda *_: "a refused request has a next step"),
    )
    # Linux keeps one table and skips what the device lacks: the loop that once never ended.
    skipped = [encoding.full_step(from_, to)]
    for _ in encoding.names:
        here = skipped[-1]
        stays = z3.Or(here == encoding.none, encoding.supported(here))
        skipped.append(z3.If(stays, here, encoding.full_step(here, to)))
    yield Query(
        "skipping-differs",
        "claim",
        (asked, from_ != to, skipped[-1] != encoding.next_step(from_, to)),
        "unsat",
        _looked_up(
            encoding, from_, to, "skipping unsupported states in the full table leads elsewhere"
        ),
    )
    if encoding.spec.refusals:
        yield Query(
            "a-refused-request",
            "witness",
            (asked, encoding.refused(from_, to), path[-1] == encoding.none),
            "sat",
            request_example(encoding, from_, to, lambda _, to: f"SET_STATE {to} ends refused"),
        )
    yield Query(
        "an-accepted-request",
        "witness",
        (asked, encoding.accepted(from_, to), path[-1] == to, path[1] != to),
        "sat",
        request_example(encoding, from_, to, lambda *_: "arrives"),
    )


def _looked_up(
    encoding: Encoding, from_: Term, to: Term, remark: str
) -> Callable[[Model], Example]:
    """Describe a request whose next step is looked up for ever, or else what `remark` says."""
    otherwise = request_example(encoding, from_, to, lambda *_: remark)

    def explain(model: Model) -> Example:
        word, here, there = request_of(encoding, model, from_, to)
        full, machine = encoding.machines[max(encoding.machines)], encoding.machines[word]
        seen: list[str] = []
        step = full.next_step(here, there)
        while step is not None and step not in seen and not machine.supports(step):
            seen.append(step)
            step = full.next_step(step, there)
        if step not in seen:
            return otherwise(model)
        text = (
            f"{here} (SET_STATE {there}, capabilities {encoding.set_name(word)}): the next step is "
            f"looked up for ever: {' -> '.join([*seen, step])}, of which the device has none"
        )
        return Example(text, None, written_step(encoding, [here, *seen], there))

    return explain


def _t7(encoding: Encoding) -> Iterator[Query]:
    spec = encoding.spec
    from_, to = pair(encoding)
    path = encoding.follow(from_, to)
    request = z3.And(encoding.universe, encoding.accepted(from_, to), encoding.next_facts)
    visited = any_of(
        [z3.And(term != encoding.none, z3.Not(encoding.supported(term))) for term in path]
    )
    yield Query(
        "path-through-unsupported",
        "claim",
        (request, visited),
        "unsat",
        request_example(encoding, from_, to, lambda *_: "a state on the way is unsupported"),
    )
    for place, name in landings(encoding).items():

        def explain(model: Model, place: str = place, name: str = name) -> Example:
            assert model is not None
            word = encoding.read_flags(model)
            text = f"{place} leads to {name}, which {encoding.set_name(word)} does not support"
            return Example(text, path_trace(spec, word, [name], text), place)

        yield Query(
            f"lands-on-unsupported-{file_name(place)}",
            "claim",
            (encoding.universe, z3.Not(encoding.has(name))),
            "unsat",
            explain,
        )
    lacking = any_of([z3.Not(encoding.has(name)) for name in encoding.names])
    some_lack = any(
        len(machine.states) < len(encoding.names) for machine in encoding.machines.values()
    )
    yield Query(
        "path-past-unsupported",
        "witness",
        (request, lacking) if some_lack else (request,),
        "sat",
        request_example(encoding, from_, to, lambda *_: "every state on the way is supported"),
    )


TABLE: tuple[Obligation, ...] = (
    Obligation(
        "T1",
        "Each arc is one step along one axis of the grid.",
        "every arc of every capability set",
        "symbolic",
        "An arc changes what a device does or what is streamed, never both, and by one step.",
        _t1,
        title="Arcs are single steps",
        not_shown="That the arcs are the ones the specification draws (T2 and T8 do), or that a "
        "driver takes no others.",
    ),
    Obligation(
        "T2",
        "Each one-step neighbour on the grid is an arc or is refused by name; no arc is refused.",
        "every two supported states that are neighbours, and every arc of every capability set",
        "symbolic",
        "Silence would leave each implementation its own answer, and so would two answers.",
        _t2,
        title="Every neighbour is decided",
        not_shown="Requests over more than one step; those are T4 and T10.",
    ),
    Obligation(
        "T3",
        "Every supported state is reachable from the initial state.",
        "every supported state of every capability set",
        "symbolic",
        "A state that nobody can reach is of no use to anybody.",
        _t3,
        title="Every state can be reached",
        not_shown="That a request leads there on a given device: an arc may fail each time.",
    ),
    Obligation(
        "T4",
        "Each request's path is legal, shortest and unique.",
        "every accepted request and every other path there could be",
        "symbolic",
        "Two implementations that follow the rule take a device through the same states.",
        _t4,
        title="Paths are legal, shortest and unique",
        not_shown="That a driver follows the path: D7 is about the engine, `conform` about the "
        "driver of others.",
    ),
    Obligation(
        "T5",
        "No other next-step table satisfies the rules.",
        "every next-step table there could be, for every capability set",
        "symbolic",
        "The rules leave no slack: they are a specification, not a hint.",
        no_other_table,
        title="The rules allow one next-step table",
        not_shown="That the rules are the best ones: another rule can give another table that is "
        "unique too.",
    ),
    Obligation(
        "T6",
        "Computing next steps ends for every request, refused ones included; an accepted request "
        "ends at its target in at most as many steps as there are states; skipping unsupported "
        "states in the full table gives the same next steps.",
        "every state, target and capability set",
        "symbolic",
        "Linux looped for ever on a refused request, which an unprivileged client could send.",
        _t6,
        title="Next steps end",
        not_shown="How long an arc takes, or that it ends: only that their number is bounded.",
    ),
    Obligation(
        "T7",
        "No unsupported state is ever visited, by a request, an event or a start.",
        "every path, event and start under every capability set",
        "symbolic",
        "A client is never shown a state that its flags do not declare.",
        _t7,
        title="Unsupported states are not visited",
        not_shown="What a device does that declares a capability it does not have.",
    ),
    Obligation(
        "T8",
        "The table has what the specifications list: the capability sets there are and the states "
        "of each, the numbers on the wire, the arcs of each contracted table, the paths of "
        "combination transitions, and what a device may do in each state.",
        "every state and capability a listing names, under every capability set it speaks of",
        "symbolic",
        "Two statements of one fact are compared, by a solver and not by eye.",
        as_listed,
        title="The listings of the specifications agree",
        not_shown="Anything that no listing names, and that a listing was read off its source "
        "rightly: a person did that, or `import`.",
    ),
    Obligation(
        "T9",
        "No row is dead: without an arc, refusal or state the rules select another table, and each "
        "capability, activity, operation, session and move between sessions is one that states "
        "and arcs of the table use.",
        "every row of these sections",
        "symbolic",
        "A row that changes nothing misleads its reader.",
        no_idle_row,
        title="No row is dead",
        not_shown="That a row is right; only that something depends on it.",
    ),
    Obligation(
        "T10",
        "Every request has the one answer it must have: it is refused if the state asked for is "
        "unknown, unsupported, never to be asked for or refused by name; it succeeds at once if "
        "the device is there; otherwise it sets out on a path that arrives.",
        "every state, every value that can be asked for and every capability set",
        "symbolic",
        "A client that gets a success believes its device to be where it asked for it.",
        one_answer,
        title="Every request has its answer",
        not_shown="That the answer reaches the client: that is W2 and W7.",
    ),
    Obligation(
        "T11",
        "The state that a device fails into cannot be asked for: such a request is refused, from "
        "that state too.",
        "every state and every capability set",
        "symbolic",
        "A client that could ask for it would get a success from a device that is lost.",
        no_request_for_failure,
        title="The failed state cannot be asked for",
        not_shown="That a device fails into that state when it should; the device decides what a "
        "failure is.",
    ),
)
"""Family T, in the order of DESIGN.md, and T10 and T11."""


def variant_query(encoding: Encoding, rule: RoutingRule) -> tuple[Query, Term, Term]:
    """Ask of another routing rule what T4 asks of the one in force: is each path legal?

    Returns the query and the terms of the request, so that every cell can be listed.
    """
    from_, to = pair(encoding)
    path = encoding.follow(from_, to)
    asked = z3.And(
        encoding.universe, encoding.accepted(from_, to), encoding.next_facts, path[-1] == to
    )
    query = Query(
        f"under-{rule.name}",
        "claim",
        (asked, z3.Not(encoding.legal(rule, path, to))),
        "unsat",
        request_example(encoding, from_, to, lambda *_: f"the rule {rule.name} forbids this path"),
    )
    return query, from_, to
