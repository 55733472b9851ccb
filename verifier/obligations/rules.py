"""T5 and T9: the rules of routing leave no slack, and no row of the table is idle.

Both ask the same question of a solver: which next-step tables satisfy the rules? With every row
present there must be one only; with any single row absent there must be another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import z3

from vfio_migration.verifier.solver.encoding import Encoding, Formula, Line, Term, any_of
from vfio_migration.verifier.solver.explain import Model, asked_trace, file_name, landings
from vfio_migration.verifier.solver.obligation import Example, Query


class Rules:
    """The rules of routing, stated of an unknown next-step table, with rows that can be absent.

    For every pair of states the solver chooses a next step, and distances that satisfy Bellman's
    equations: one for paths with nothing guarded inside, one for paths wholly guarded. The next
    step must lie on a shortest path. Nothing here knows how `Machine` computes paths.
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
        self.pairs = [
            (from_, to) for from_ in encoding.names for to in encoding.names if from_ != to
        ]
        self.choice = {pair: encoding.variable(f"next:{pair[0]}:{pair[1]}") for pair in self.pairs}
        self.out: dict[str, list[tuple[Line, Formula]]] = {name: [] for name in encoding.names}
        for line in encoding.lines:
            self.out[line.from_].append((line, self._line_present(line)))

    def _line_present(self, line: Line) -> Formula:
        stops = (line.from_, *line.via, line.to)
        rows = [self._state_row[name] for name in stops]
        rows += [self._arc_row[pair] for pair in itertools.pairwise(stops)]
        return z3.And(self.encoding.along(line), *(self.present[place] for place in rows))

    def _distances(
        self, prefix: str, through: set[str], ends: set[str]
    ) -> tuple[dict[tuple[str, str], z3.BitVecRef], list[Formula]]:
        """Unknown distances between `ends` by way of `through`, and the equations they satisfy."""
        known = {
            pair: z3.BitVec(f"{prefix}:{pair[0]}:{pair[1]}", self._bits)
            for pair in self.pairs
            if pair[0] in ends and pair[1] in ends
        }
        equations = []
        for (from_, to), distance in known.items():
            best = self.infinite
            for line, there in self.out[from_]:
                if line.to == to:
                    onward = z3.BitVecVal(0, self._bits)
                elif line.to in through and (line.to, to) in known:
                    onward = known[line.to, to]
                else:
                    continue
                length = onward + 1
                best = z3.If(z3.And(there, z3.ULT(length, best)), length, best)
            equations.append(distance == best)
        return known, equations

    def formula(self) -> Formula:
        """The next-step table satisfies the rules."""
        encoding = self.encoding
        everything = set(encoding.names)
        kinds: list[tuple[dict[tuple[str, str], z3.BitVecRef], set[str]]] = []
        conjuncts: list[Formula] = [encoding.universe]
        if self.rule.interior == "always":
            kinds_wanted = [("free", everything, everything)]
        else:
            kinds_wanted = [("outside", everything - self.guarded, everything)]
            if self.rule.interior == "whole_path":
                kinds_wanted.append(("within", self.guarded, self.guarded))
        for prefix, through, ends in kinds_wanted:
            known, equations = self._distances(prefix, through, ends)
            kinds.append((known, through))
            conjuncts += equations
        for pair in self.pairs:
            conjuncts.append(self._chosen(pair, kinds))
        return z3.And(conjuncts)

    def _chosen(
        self,
        pair: tuple[str, str],
        kinds: list[tuple[dict[tuple[str, str], z3.BitVecRef], set[str]]],
    ) -> Formula:
        encoding, spec = self.encoding, self.encoding.spec
        from_, to = pair
        choice = self.choice[pair]
        best: z3.BitVecRef = self.infinite
        for known, _ in kinds:
            if pair in known:
                best = z3.If(z3.ULT(known[pair], best), known[pair], best)
        shut: list[Formula] = [best == self.infinite]
        for index, row in enumerate(spec.refusals):
            if (row.from_, row.to) == pair:
                shut.append(self.present[f"refusals[{index}]"])
        if not spec.state(to).settable:
            shut.append(z3.BoolVal(True))
        steps = []
        for line, there in self.out[from_]:
            good: list[Formula] = []
            for known, through in kinds:
                if pair not in known:
                    continue
                if line.to == to:
                    good.append(best == 1)
                elif line.to in through and (line.to, to) in known:
                    good.append(best == known[line.to, to] + 1)
            steps.append(z3.And(choice == encoding.state(line.to), there, any_of(good)))
        return z3.If(z3.Or(shut), choice == encoding.none, any_of(steps))

    def same_cells(self) -> dict[tuple[str, str], Formula]:
        """Per pair: the unknown table specifies what `Machine` says."""
        encoding = self.encoding
        cells = {}
        for pair, choice in self.choice.items():
            value: Term = encoding.none
            for word, machine in encoding.machines.items():
                step = machine.next_step(*pair)
                if step is not None:
                    value = z3.If(encoding.flags == word, encoding.state(step), value)
            cells[pair] = choice == value
        return cells

    def without(self, place: str | None) -> Formula:
        """Every row is present but `place`."""
        return z3.And(
            [flag if row != place else z3.Not(flag) for row, flag in self.present.items()]
        )

    def difference(self, model: z3.ModelRef) -> tuple[int, tuple[str, str], str | None, str | None]:
        """The first cell in which a model's table differs: set, pair, its entry and ours."""
        word = self.encoding.read_flags(model)
        machine = self.encoding.machines[word]
        for pair, choice in self.choice.items():
            other = self.encoding.read_state(model, choice)
            mine = machine.next_step(*pair)
            if other != mine:
                return word, pair, other, mine
        raise AssertionError("the solver's table differs nowhere")


def no_other_table(encoding: Encoding) -> Iterator[Query]:
    """T5: the solver finds no second table that satisfies the rules."""
    rules = Rules(encoding)
    formula = z3.And(rules.formula(), rules.without(None))
    cells = rules.same_cells()

    def other_table(model: Model) -> Example:
        assert model is not None
        word, (from_, to), other, mine = rules.difference(model)
        text = (
            f"the rules also allow {from_} to go by {other or 'no step'} instead of "
            f"{mine or 'no step'} on SET_STATE {to} (capabilities {encoding.set_name(word)})"
        )
        return Example(text, asked_trace(encoding, word, from_, to, text, [from_]))

    def this_table(model: Model) -> Example:
        assert model is not None
        count = len(rules.pairs) * len(encoding.machines)
        return Example(f"the table itself satisfies the rules in all {count} cells")

    yield Query(
        "second-table",
        "claim",
        (formula, any_of([z3.Not(cell) for cell in cells.values()])),
        "unsat",
        other_table,
    )
    yield Query("this-table", "witness", (formula, *cells.values()), "sat", this_table)


def no_idle_row(encoding: Encoding) -> Iterator[Query]:
    """T9: without any one row, the solver finds a table that satisfies the rules and differs."""
    # A row may be idle in one profile and needed in another, so this looks at all of them.
    encoding = encoding.widest()
    rules = Rules(encoding)
    formula = rules.formula()
    differs = any_of([z3.Not(cell) for cell in rules.same_cells().values()])
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
    yield Query(
        "all-rows",
        "witness",
        (formula, rules.without(None)),
        "sat",
        lambda _: Example(f"with all {len(rules.rows)} rows present the rules have a solution"),
    )
