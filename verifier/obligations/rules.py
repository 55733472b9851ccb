"""T5 and T9: the rules of routing leave no slack, and no row of the table is idle.

Both ask the same question of a solver: which next-step tables satisfy the rules? With every row
present there must be one only; with any single row absent there must be another.

What the rules select for one target does not depend on any other target. So the unknown is one
column of a next-step table, with the target for the solver to choose: what holds of every column
holds of the table, and the question grows with the arcs and not with the square of the states.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import z3

from vfio_migration.model.spec import Spec
from vfio_migration.verifier.solver.encoding import Encoding, Formula, Line, Term
from vfio_migration.verifier.solver.explain import (
    Model,
    asked_trace,
    file_name,
    landings,
    request_example,
)
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.terms import all_of, any_of

_Kind = tuple[dict[str, z3.BitVecRef], set[str], Formula]
"""Distances to the target, through which states, and for which targets they are stated."""


class Rules:
    """The rules of routing, stated of an unknown column of a next-step table; rows can be absent.

    For every state the solver chooses a next step towards the target, and distances that satisfy
    Bellman's equations: one for paths with nothing guarded inside, one for paths wholly guarded.
    The next step must lie on a shortest path. Nothing here knows how `Machine` computes paths.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        spec = encoding.spec
        self.rule = spec.routing_rule()
        self.guarded = {row.name for row in spec.states if row.session == self.rule.guarded}
        self.rows = {
            **{f"arcs[{index}]": str(row) for index, row in enumerate(spec.arcs)},
            **{f"refusals[{index}]": str(row) for index, row in enumerate(spec.refusals)},
            **{f"states[{index}]": row.name for index, row in enumerate(spec.states)},
        }
        self.present = {place: z3.Bool(place) for place in self.rows}
        self._arc_row = {(row.from_, row.to): f"arcs[{i}]" for i, row in enumerate(spec.arcs)}
        self._state_row = {row.name: f"states[{i}]" for i, row in enumerate(spec.states)}
        # Distances run to the number of states, which stands for "no path".
        self._bits = len(encoding.names).bit_length() + 1
        self.infinite = z3.BitVecVal(len(encoding.names), self._bits)
        self.target = encoding.variable("target")
        self.choice = {name: encoding.variable(f"next:{name}") for name in encoding.names}
        self.out: dict[str, list[tuple[Line, Formula]]] = {name: [] for name in encoding.names}
        for line in encoding.lines:
            self.out[line.from_].append((line, self._line_present(line)))
        self._kinds, self._equations = self._distances()

    def _line_present(self, line: Line) -> Formula:
        stops = (line.from_, *line.via, line.to)
        rows = [self._state_row[name] for name in stops]
        rows += [self._arc_row[pair] for pair in itertools.pairwise(stops)]
        return all_of(self.encoding.along(line), *(self.present[place] for place in rows))

    def is_target(self, name: str) -> Formula:
        """The column is that of this state."""
        return self.target == self.encoding.state(name)

    def _distances(self) -> tuple[list[_Kind], list[Formula]]:
        """The distances to the target, by which states a path leads, and their equations."""
        everything = set(self.encoding.names)
        guarded = self.encoding.one_of(self.target, sorted(self.guarded))
        if self.rule.interior == "always":
            wanted = [("free", everything, everything, z3.BoolVal(True))]
        else:
            wanted = [("outside", everything - self.guarded, everything, z3.BoolVal(True))]
            if self.rule.interior == "whole_path":
                wanted.append(("within", self.guarded, self.guarded, guarded))
        kinds: list[_Kind] = []
        equations = []
        for prefix, through, begins, stated in wanted:
            known = {
                name: z3.BitVec(f"{prefix}:{name}", self._bits)
                for name in self.encoding.names
                if name in begins
            }
            kinds.append((known, through, stated))
            for name, distance in known.items():
                best = self.infinite
                for line, there in self.out[name]:
                    length = self._onward(line.to, known, through) + 1
                    best = z3.If(all_of(there, z3.ULT(length, best)), length, best)
                zero = z3.BitVecVal(0, self._bits)
                best = z3.If(stated, best, self.infinite)
                equations.append(distance == z3.If(self.is_target(name), zero, best))
        return kinds, equations

    def _onward(self, name: str, known: dict[str, z3.BitVecRef], through: set[str]) -> z3.BitVecRef:
        """How far it is from a state to the target, if a path may lead by it."""
        if name in through and name in known:
            return known[name]
        zero = z3.BitVecVal(0, self._bits)
        return z3.If(self.is_target(name), zero, self.infinite)

    @property
    def column(self) -> Formula:
        """The distances are those of a column of the table."""
        target = self.encoding.one_of(self.target, self.encoding.names)
        return all_of(self.encoding.universe, target, *self._equations)

    def distance(self, from_: str) -> z3.BitVecRef:
        """How far it is from a state to the target by a path that the rules allow."""
        best: z3.BitVecRef = self.infinite
        for known, _, _ in self._kinds:
            if from_ in known:
                best = z3.If(z3.ULT(known[from_], best), known[from_], best)
        return best

    def formula(self) -> Formula:
        """The column satisfies the rules."""
        steps = [self.allowed(name, choice) for name, choice in self.choice.items()]
        return all_of(self.column, *steps)

    def allowed(self, from_: str, choice: Term) -> Formula:
        """The rules allow this next step from a state."""
        encoding, spec = self.encoding, self.encoding.spec
        best = self.distance(from_)
        unasked = [row.name for row in spec.states if not row.settable]
        shut: list[Formula] = [
            best == self.infinite,
            self.is_target(from_),
            encoding.one_of(self.target, unasked),
        ]
        for index, row in enumerate(spec.refusals):
            if row.from_ == from_:
                shut.append(all_of(self.is_target(row.to), self.present[f"refusals[{index}]"]))
        steps = []
        for line, there in self.out[from_]:
            good: list[Formula] = [all_of(self.is_target(line.to), best == 1)]
            for known, through, stated in self._kinds:
                if from_ in known and line.to in through and line.to in known:
                    # The target itself is at no distance: it is the case above.
                    inside = all_of(stated, z3.Not(self.is_target(line.to)))
                    good.append(all_of(inside, best == known[line.to] + 1))
            steps.append(all_of(choice == encoding.state(line.to), there, any_of(good)))
        return z3.If(any_of(shut), choice == encoding.none, any_of(steps))

    def ours(self) -> dict[str, Term]:
        """Per state: the next step that `Machine` computes towards the target."""
        encoding = self.encoding
        found: dict[str, Term] = {}
        for from_ in encoding.names:
            value: Term = encoding.none
            for to in encoding.names:
                words: dict[str, list[int]] = {}
                for word, machine in encoding.machines.items():
                    step = machine.next_step(from_, to) if from_ != to else None
                    if step is not None:
                        words.setdefault(step, []).append(word)
                for step, having in words.items():
                    some = any_of([encoding.flags == word for word in having])
                    value = z3.If(all_of(self.is_target(to), some), encoding.state(step), value)
            found[from_] = value
        return found

    def without(self, place: str | None) -> Formula:
        """Every row is present but `place`."""
        return z3.And(
            [flag if row != place else z3.Not(flag) for row, flag in self.present.items()]
        )

    def difference(self, model: z3.ModelRef) -> tuple[int, tuple[str, str], str | None, str | None]:
        """The first cell in which a model's column differs: set, pair, its entry and ours."""
        word = self.encoding.read_flags(model)
        machine = self.encoding.machines[word]
        to = self.encoding.read_state(model, self.target)
        assert to is not None
        for from_, choice in self.choice.items():
            other = self.encoding.read_state(model, choice)
            mine = machine.next_step(from_, to) if from_ != to else None
            if other != mine:
                return word, (from_, to), other, mine
        raise AssertionError("the solver's table differs nowhere")


def no_other_table(encoding: Encoding) -> Iterator[Query]:
    """T5: the table satisfies the rules, and the solver finds no second one that does."""
    rules = Rules(encoding)
    present = rules.without(None)
    ours = rules.ours()
    differs = any_of([rules.choice[name] != step for name, step in ours.items()])

    def other_table(model: Model) -> Example:
        assert model is not None
        word, (from_, to), other, mine = rules.difference(model)
        text = (
            f"the rules also allow {from_} to go by {other or 'no step'} instead of "
            f"{mine or 'no step'} on SET_STATE {to} (capabilities {encoding.set_name(word)})"
        )
        return Example(text, asked_trace(encoding, word, from_, to, text, [from_]))

    def against_the_rules(model: Model) -> Example:
        assert model is not None
        word, to = encoding.read_flags(model), encoding.read_state(model, rules.target)
        broken = (
            name
            for name, step in ours.items()
            if z3.is_false(model.eval(rules.allowed(name, step), model_completion=True))
        )
        from_, to = next(broken), to or "?"
        mine = encoding.machines[word].next_step(from_, to)
        text = (
            f"the rules do not allow {from_} to go by {mine or 'no step'} on SET_STATE {to} "
            f"(capabilities {encoding.set_name(word)})"
        )
        return Example(text, asked_trace(encoding, word, from_, to, text, [from_]))

    def this_table(model: Model) -> Example:
        assert model is not None
        count = len(encoding.names) * (len(encoding.names) - 1) * len(encoding.machines)
        return Example(f"the table itself satisfies the rules in all {count} cells")

    yield Query(
        "second-table",
        "claim",
        (all_of(rules.formula(), present), differs),
        "unsat",
        other_table,
    )
    satisfied = z3.And([rules.allowed(name, step) for name, step in ours.items()])
    known = all_of(rules.column, present)
    yield Query("not-this-table", "claim", (known, z3.Not(satisfied)), "unsat", against_the_rules)
    moves = any_of([step != encoding.none for step in ours.values()])
    yield Query("this-table", "witness", (known, satisfied, moves), "sat", this_table)


def overlooked_path(encoding: Encoding) -> Query:
    """No request that sets out has no next step, where the rules allow a path to its target.

    How far it is by the rules decides that, so no path has to be guessed.
    """
    rules = Rules(encoding)
    from_, to = encoding.variable("from"), rules.target
    arrives = encoding.follow(from_, to)[-1] == to
    there = any_of(
        [
            all_of(from_ == encoding.state(name), rules.distance(name) != rules.infinite)
            for name in encoding.names
        ]
    )

    def another(model: z3.ModelRef, target: str) -> str:
        word, here = encoding.read_flags(model), encoding.read_state(model, from_) or "?"
        path = _shortest_legal(encoding, rules, word, here, target)
        return "another path is " + " -> ".join(path)

    formulas = (
        all_of(encoding.universe, encoding.accepted(from_, to), encoding.next_facts),
        all_of(rules.column, rules.without(None), z3.Not(arrives), there),
    )
    distances = [
        any_of(
            [
                all_of(from_ == encoding.state(name), rules.distance(name) == length)
                for name in encoding.names
            ]
        )
        for length in range(1, len(encoding.names))
    ]
    explain = request_example(encoding, from_, to, another)
    return Query("overlooked-path", "claim", formulas, "unsat", explain, shorter=tuple(distances))


def second_path(encoding: Encoding) -> Query:
    """No path that the rules allow is shorter than the table's, or as long and another.

    The table's path is as long as the distance, and at no state on it do the rules allow another
    step than the one that it takes.
    """
    rules = Rules(encoding)
    from_, to = encoding.variable("from"), rules.target
    path = encoding.follow(from_, to)
    begins = [(name, from_ == encoding.state(name)) for name in encoding.names]
    longer = any_of(
        [
            all_of(here, rules.distance(name) == length, path[length] != to)
            for name, here in begins
            for length in range(1, len(path))
        ]
    )
    other = encoding.variable("other")
    elsewhere = any_of(
        [
            all_of(
                any_of([all_of(step == encoding.state(name), step != to) for step in path]),
                rules.allowed(name, other),
                other != encoding.none,
                other != encoding.next_step(encoding.state(name), to),
            )
            for name in encoding.names
        ]
    )

    def another(model: z3.ModelRef, target: str) -> str:
        word, here = encoding.read_flags(model), encoding.read_state(model, from_) or "?"
        found = _other_legal(encoding, rules, word, here, target)
        return "another path is " + " -> ".join(found)

    formulas = (
        all_of(encoding.universe, encoding.accepted(from_, to), encoding.next_facts),
        all_of(rules.column, rules.without(None), path[-1] == to, z3.Or(longer, elsewhere)),
    )
    arrivals = tuple(term == to for term in path[1:])
    explain = request_example(encoding, from_, to, another)
    return Query("second-path", "claim", formulas, "unsat", explain, shorter=arrivals)


def _shortest_legal(
    encoding: Encoding, rules: Rules, word: int, here: str, target: str
) -> list[str]:
    """A shortest path that the routing rule in force allows; where it begins, if there is none."""
    found = [next(paths, [here]) for paths in _legal_paths(encoding, rules, word, here, target)]
    return min((path for path in found if path[-1] == target), key=len, default=[here])


def _other_legal(encoding: Encoding, rules: Rules, word: int, here: str, target: str) -> list[str]:
    """A shortest path that the rules allow and that is not the table's."""
    machine = encoding.machines[word]
    taken = [here]
    while taken[-1] != target and (step := machine.next_step(taken[-1], target)) is not None:
        taken.append(step)
    ways = _legal_paths(encoding, rules, word, here, target)
    found = [next((path for path in paths if path != taken), taken) for paths in ways]
    return min((path for path in found if path != taken), key=len, default=taken)


def _legal_paths(
    encoding: Encoding, rules: Rules, word: int, here: str, target: str
) -> list[Iterator[list[str]]]:
    """The paths without a loop that the routing rule in force allows, shortest first.

    Those with nothing guarded inside are apart from those that are wholly guarded.
    """
    interior = rules.rule.interior
    ways: list[set[str]] = [set(encoding.names)]
    if interior != "always":
        ways = [set(encoding.names) - rules.guarded]
        if interior == "whole_path" and {here, target} <= rules.guarded:
            ways.append(rules.guarded)

    def paths(through: set[str]) -> Iterator[list[str]]:
        found = [[here]]
        for path in found:
            if path[-1] == target:
                yield path
                continue
            found += (
                [*path, arc.to]
                for arc in encoding.machines[word].arcs
                if arc.from_ == path[-1]
                and arc.to not in path
                and (arc.to == target or arc.to in through)
            )

    return [paths(through) for through in ways]


def no_idle_row(encoding: Encoding) -> Iterator[Query]:
    """T9: without any one row, the solver finds a table that satisfies the rules and differs."""
    # A row may be idle in one profile and needed in another, so this looks at all of them.
    encoding = encoding.widest()
    rules = Rules(encoding)
    formula = rules.formula()
    differs = any_of([rules.choice[name] != step for name, step in rules.ours().items()])
    named = {name: place for place, name in landings(encoding).items()}
    for place, title in rules.rows.items():
        landing = named.get(title) if place.startswith("states") else None

        def explain(
            model: Model, place: str = place, title: str = title, landing: str | None = landing
        ) -> Example:
            if model is None:
                text = f"{place} ({title}) is dead: without it every path stays the same"
                return Example(text, None, place)
            if landing is not None:
                return Example(f"without {place} ({title}), {landing} leads nowhere", None, place)
            word, (from_, to), other, mine = rules.difference(model)
            return Example(
                f"without {place} ({title}), SET_STATE {to} from {from_} goes by "
                f"{other or 'no step'} instead of {mine or 'no step'} "
                f"(capabilities {encoding.set_name(word)})",
                None,
                place,
            )

        yield Query(
            f"without-{file_name(place)}",
            "claim",
            (formula, rules.without(place), *([] if landing else [differs])),
            "sat",
            explain,
        )
    yield from _unused(encoding)
    yield Query(
        "all-rows",
        "witness",
        (formula, rules.without(None)),
        "sat",
        lambda _: Example(f"with all {len(rules.rows)} rows present the rules have a solution"),
    )


def _unused(encoding: Encoding) -> Iterator[Query]:
    """Every row that states are made of is what some state, or some arc, is made with.

    Rows of [[requests]], [[stream_ends]] and [[events]] are not asked for: the format wants one of
    each kind, and a table may be too small for what one of them is about. Profiles are what
    interfaces know, and rules of routing that are not in force are variants.
    """
    from_, to = encoding.variable("from"), encoding.variable("to")
    there = all_of(encoding.universe, encoding.supported(from_))
    written = [
        all_of(from_ == encoding.state(row.from_), to == encoding.state(row.step))
        for row in encoding.spec.next_steps
    ]
    arc = all_of(encoding.universe, z3.Or(encoding.arc(from_, to), *written))
    for place, title, used, text in _uses(encoding.spec):
        formulas = [there, encoding.one_of(from_, used)]
        if place.startswith("session_effects"):
            pairs = [
                all_of(from_ == encoding.state(here), to == encoding.state(onward))
                for here, onward in itertools.product(used, encoding.names)
                if title == _move(encoding.spec, here, onward)
            ]
            formulas = [arc, any_of(pairs)]
        yield Query(
            f"uses-{file_name(place)}", "claim", tuple(formulas), "sat", _dead(place, title, text)
        )


def _dead(place: str, title: str, text: str) -> Callable[[Model], Example]:
    return lambda _model: Example(f"{place} ({title}) is dead: {text}", None, place)


def _move(spec: Spec, here: str, there: str) -> str:
    """Which move from session to session it is to go from one state to another."""
    return f"{spec.state(here).session} -> {spec.state(there).session}"


def _uses(spec: Spec) -> Iterator[tuple[str, str, list[str], str]]:
    """Per row: its place and name, the states that need it, and what is said if there are none."""
    states = spec.states
    for index, capability in enumerate(spec.capabilities):
        used = [row.name for row in states if capability.name in row.requires]
        yield f"capabilities[{index}]", capability.name, used, "no state requires it"
    for index, activity in enumerate(spec.activities):
        used = [row.name for row in states if spec.permits(row.name, activity.name)]
        text = "no device may do it in any state"
        yield f"activities[{index}]", activity.name, used, text
    for index, operation in enumerate(spec.operations):
        used = [row.name for row in states if row.operation == operation.name]
        yield f"operations[{index}]", operation.name, used, "no state has it"
    for index, session in enumerate(spec.sessions):
        used = [row.name for row in states if row.session == session.name]
        yield f"sessions[{index}]", session.name, used, "no state has it"
    for index, effect in enumerate(spec.session_effects):
        used = [row.name for row in states if row.session == effect.from_]
        place, title = f"session_effects[{index}]", f"{effect.from_} -> {effect.to}"
        yield place, title, used, "no arc makes this move"
