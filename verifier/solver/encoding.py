"""The table as z3 formulas.

One encoding covers every capability set of a universe: the flags word is a bit vector the solver
chooses, and what a set supports is a formula over it. A state is a bit vector too: its index in the
table. One value more stands for "no state".

The arcs are encoded from the rows of the table. The next-step table is the one `Machine` computes:
it is what the engine runs, and what the obligations are about.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

import z3

from vfio_migration.model import Machine, Profile, RoutingRule, Spec, Step, Trace
from vfio_migration.model.machine import lines
from vfio_migration.model.plan import Plans, default_plans
from vfio_migration.model.spec import Condition
from vfio_migration.model.wire import Wire
from vfio_migration.model.wire_load import load_wire
from vfio_migration.verifier.solver.terms import any_of, equal

Made = TypeVar("Made")
Term: TypeAlias = z3.BitVecRef
Formula: TypeAlias = z3.BoolRef


@dataclass(frozen=True, slots=True)
class Line:
    """Arcs of the table in a straight line: one arc of the sets that lack what lies between."""

    from_: str
    via: tuple[str, ...]
    to: str


class Encoding:
    """A table in z3, over the capability sets of one profile, or of all of them together.

    Attributes:
        spec: The table.
        profile: The profile, by name.
        wire: The table of the connection.
        machines: The table restricted to each capability set, by flags word.
        flags: The capability set the solver chooses.
        faults: What the models do wrong.
    """

    def __init__(
        self,
        spec: Spec,
        profile: str | None = None,
        *,
        plans: Plans | None = None,
        wire: Wire | None = None,
        faults: Collection[str] = (),
    ) -> None:
        """Encode a table, with plans and a table of the connection other than the package's.

        `faults` are what the models are made to do wrong (`systems.faults`), to see it noticed.
        """
        self.faults = frozenset(faults)
        self._plans = plans
        self.wire = load_wire() if wire is None else wire
        self._of(spec, [row.name for row in scope(spec, profile)])

    def widest(self) -> Encoding:
        """The encoding over the capability sets of all profiles together; often this one."""

        def make() -> Encoding:
            encoding = Encoding.__new__(Encoding)
            encoding._plans, encoding.wire = self._plans, self.wire
            encoding.faults = self.faults
            encoding._of(self.spec, [row.name for row in self.spec.profiles])
            return self if encoding.machines.keys() == self.machines.keys() else encoding

        return self.once("widest", make)

    def _of(self, spec: Spec, profiles: Sequence[str]) -> None:
        self.spec = spec
        self.profile = ",".join(profiles)
        words = {int(flags.value) for name in profiles for flags in spec.capability_sets(name)}
        self.machines: dict[int, Machine] = {word: spec.machine(word) for word in sorted(words)}
        self.names = tuple(row.name for row in spec.states)
        self._bits = len(self.names).bit_length()
        self._width = max(row.value for row in spec.capabilities).bit_length()
        self._index = {name: index for index, name in enumerate(self.names)}
        self._values = [z3.BitVecVal(index, self._bits) for index in range(len(self.names) + 1)]
        self.none: Term = self._values[-1]
        self.state_sort: z3.SortRef = z3.BitVecSort(self._bits)
        self._made: dict[str, object] = {}
        self._one_of: dict[tuple[int, tuple[str, ...]], tuple[Term, Formula]] = {}
        self.flags: Term = z3.BitVec("flags", self._width)
        self.lines: tuple[Line, ...] = tuple(
            Line(name, tuple(arc.to for arc in line[:-1]), line[-1].to)
            for name in self.names
            for line in lines(spec, name)
        )

    @functools.cached_property
    def plans(self) -> Plans:
        """The plans for groups of devices of this table.

        Raises:
            SpecError: The table lacks names that the plans of the package use.
        """
        return default_plans(self.spec) if self._plans is None else self._plans

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what was made under this name before, or make it: systems are dear to build."""
        if name not in self._made:
            self._made[name] = make()
        return cast("Made", self._made[name])

    # --- terms ---

    def state(self, name: str) -> Term:
        """The value that stands for a state."""
        return self._values[self._index[name]]

    def variable(self, name: str) -> Term:
        """A state the solver chooses (or "no state", unless something forbids it)."""
        return z3.BitVec(name, self._bits)

    def one_of(self, term: Term, names: Iterable[str]) -> Formula:
        """`term` is one of these states."""
        chosen = tuple(names)
        key = (term.get_id(), chosen)
        if key not in self._one_of:
            # With the term, whose number could be given to another if it were forgotten.
            self._one_of[key] = term, any_of([equal(term, self.state(name)) for name in chosen])
        return self._one_of[key][1]

    # --- the table, over states that are terms ---

    @functools.cached_property
    def universe(self) -> Formula:
        """The flags word is a capability set of the profile."""
        return any_of([self.flags == word for word in self.machines])

    @functools.cached_property
    def _has(self) -> dict[str, Formula]:
        result = {}
        for row in self.spec.states:
            word = sum(self.spec.capability(name).value for name in set(row.requires))
            result[row.name] = self.flags & word == word if word else z3.BoolVal(True)
        return result

    def has(self, name: str) -> Formula:
        """The capability set supports this state."""
        return self._has[name]

    def supported(self, term: Term) -> Formula:
        """The capability set supports the state that `term` is."""
        return any_of([z3.And(term == self.state(name), self.has(name)) for name in self.names])

    def along(self, line: Line) -> Formula:
        """This line is one arc of the capability set: both ends are there, all between is not."""
        return z3.And(
            self.has(line.from_), self.has(line.to), *(z3.Not(self.has(name)) for name in line.via)
        )

    def arc(self, from_: Term, to: Term) -> Formula:
        """There is an arc from one state to the other."""
        return any_of(
            [
                z3.And(from_ == self.state(line.from_), to == self.state(line.to), self.along(line))
                for line in self.lines
            ]
        )

    def refused(self, from_: Term, to: Term) -> Formula:
        """The pair is refused by name."""
        return any_of(
            [
                z3.And(from_ == self.state(row.from_), to == self.state(row.to))
                for row in self.spec.refusals
            ]
        )

    def settable(self, term: Term) -> Formula:
        """The state can be asked for at all."""
        return self.one_of(term, [row.name for row in self.spec.states if row.settable])

    def one_step(self, from_: Term, to: Term) -> Formula:
        """The two are neighbours on the grid, once the states the set lacks have left it."""
        return any_of(
            [
                z3.And(
                    from_ == self.state(here),
                    to == self.state(there),
                    *(z3.Not(self.has(name)) for name in between),
                )
                for here in self.names
                for there in self.names
                if (between := self._between(here, there)) is not None
            ]
        )

    def _between(self, here: str, there: str) -> tuple[str, ...] | None:
        """The states strictly between two places on one axis; None if a place there is empty."""
        first, last = self.spec.position(here), self.spec.position(there)
        if first is None or last is None or first == last:
            return None
        if first[0] != last[0] and first[1] != last[1]:
            return None
        steps = max(abs(last[0] - first[0]), abs(last[1] - first[1]))
        at = {self.spec.position(name): name for name in self.names}
        places = [
            (
                first[0] + (last[0] - first[0]) * step // steps,
                first[1] + (last[1] - first[1]) * step // steps,
            )
            for step in range(1, steps)
        ]
        if any(place not in at for place in places):
            return None
        return tuple(at[place] for place in places)

    # --- next steps and paths ---

    def _lookup(self, name: str, tables: dict[int, Machine]) -> tuple[z3.FuncDeclRef, Formula]:
        state = z3.BitVecSort(self._bits)
        function = z3.Function(name, z3.BitVecSort(self._width), state, state, state)
        facts = []
        for word, machine in tables.items():
            flags = z3.BitVecVal(word, self._width)
            for from_ in self.names:
                for to in self.names:
                    step = machine.next_step(from_, to) if from_ != to else None
                    value = self.none if step is None else self.state(step)
                    facts.append(function(flags, self.state(from_), self.state(to)) == value)
        return function, z3.And(facts)

    @functools.cached_property
    def _next(self) -> tuple[z3.FuncDeclRef, Formula]:
        return self._lookup("next_step", self.machines)

    @property
    def next_facts(self) -> Formula:
        """The next-step table, cell by cell; to be asserted beside whatever uses `next_step`."""
        return self._next[1]

    def next_step(self, from_: Term, to: Term) -> Term:
        """The next step from one state towards the other, or `none`."""
        return self._next[0](self.flags, from_, to)

    def full_step(self, from_: Term, to: Term) -> Term:
        """The next step in the table of the whole universe, whatever the device supports."""
        word = max(self.machines)
        return self._next[0](z3.BitVecVal(word, self._width), from_, to)

    def holds(self, when: Condition, from_: Term, to: Term) -> Formula:
        """What a row of [[requests]] asks about a request is so."""
        if when == "value_unknown":
            return z3.UGE(to, self.none)
        if when == "target_unsupported":
            return z3.Not(self.supported(to))
        if when == "target_not_settable":
            return self.one_of(to, [row.name for row in self.spec.states if not row.settable])
        if when == "already_there":
            return from_ == to
        if when == "no_way_out":
            return any_of([z3.And(from_ == self.state(n), w) for n, w in self._shut.items()])
        if when == "pair_refused":
            return self.refused(from_, to)
        return self.follow(from_, to)[-1] != to

    @functools.cached_property
    def _shut(self) -> dict[str, Formula]:
        """The states that nothing leaves, each with the capability sets for which that is so."""
        shut = {}
        for name in self.names:
            having = [word for word, m in self.machines.items() if m.supports(name)]
            words = [word for word in having if not self.machines[word].can_leave(name)]
            if words:
                in_all = len(words) == len(having)
                shut[name] = (
                    z3.BoolVal(True) if in_all else any_of([self.flags == word for word in words])
                )
        return shut

    def accepted(self, from_: Term, to: Term) -> Formula:
        """A request from one state for the other sets out.

        No row of [[requests]] stops it but for one that asks whether there is a path: that there
        always is, is for the obligations to prove and not to assume.
        """
        stops = [row.when for row in self.spec.requests if row.when != "no_path"]
        return z3.And(
            self.supported(from_), *(z3.Not(self.holds(when, from_, to)) for when in stops)
        )

    def follow(self, from_: Term, to: Term) -> tuple[Term, ...]:
        """The path that taking next steps makes, as long as the longest of all requests.

        After its arrival it stays; where there is no next step it is `none` from then on.
        """
        path = [from_]
        for _ in range(self.longest):
            here = path[-1]
            stays = z3.Or(here == to, here == self.none)
            path.append(z3.If(stays, here, self.next_step(here, to)))
        return tuple(path)

    @functools.cached_property
    def longest(self) -> int:
        """How many steps it takes until every request has arrived or has no next step.

        As many as there are states, if there is one that comes back to where it was. The next-step
        table is finite and known: no more steps show anything else.
        """
        return max(
            _steps(machine, from_, to, len(self.names))
            for machine in self.machines.values()
            for from_ in self.names
            for to in self.names
        )

    def legal(self, rule: RoutingRule, path: Sequence[Term], to: Term) -> Formula:
        """The routing rule allows this path to `to`."""
        guarded = [row.name for row in self.spec.states if row.session == rule.guarded]
        inside = [(term, term != to) for term in path[1:]]
        outside = z3.And(
            [z3.Or(z3.Not(within), z3.Not(self.one_of(term, guarded))) for term, within in inside]
        )
        within_only = z3.And([self.one_of(term, guarded) for term in path])
        return {
            "always": z3.BoolVal(True),
            "never": outside,
            "whole_path": z3.Or(outside, within_only),
        }[rule.interior]

    # --- back from z3 ---

    def read_state(self, model: z3.ModelRef, term: Term) -> str | None:
        """The state `term` is in a model, or None for "no state"."""
        index = model.eval(term, model_completion=True).as_long()
        return self.names[index] if index < len(self.names) else None

    def read_flags(self, model: z3.ModelRef) -> int:
        """The capability set in a model."""
        return int(model.eval(self.flags, model_completion=True).as_long())

    def set_name(self, word: int) -> str:
        """The names in a capability set, joined by commas."""
        return ",".join(self.spec.names(self.spec.capability_type(word)))


def _steps(machine: Machine, from_: str, to: str, most: int) -> int:
    """How many next steps a request takes, up to `most`, and one more that finds none."""
    here: str | None = from_
    for count in range(most):
        if here is None or here == to:
            return max(count, 1)
        here = machine.next_step(here, to)
    return most


def scope(spec: Spec, profile: str | None) -> tuple[Profile, ...]:
    """The profiles a run is about: the one named, or all of them, in whatever order they are."""
    return spec.profiles if profile is None else (spec.profile(profile),)


def refusal_half_way(spec: Spec) -> str | None:
    """The errno of a request that turns out on its way to lead nowhere."""
    return next((row.errno for row in spec.requests if row.when == "no_path"), None)


def path_trace(
    spec: Spec, word: int, path: Sequence[str], title: str, target: str | None = None
) -> Trace:
    """Make the trace of a request whose path is `path`, sessions numbered as they open.

    `target` is what was asked for, if the path ends before it.
    """
    session = 1 if spec.session(spec.state(path[0]).session).transfer != "none" else None
    opened = session or 0
    asked = target or path[-1]
    steps = [Step(kind="request", to=asked, state=path[0], session=session)]
    for from_, to in itertools.pairwise(path):
        effect = spec.effect(from_, to)
        if effect == "opens":
            opened += 1
            session = opened
        elif effect in ("closes", "none"):
            session = None
        steps.append(Step(kind="arc", from_=from_, to=to, state=to, session=session))
    if path[-1] != asked:
        errno = refusal_half_way(spec)
        steps.append(Step(kind="refused", to=asked, state=path[-1], session=session, errno=errno))
    names = spec.names(spec.capability_type(word))
    return Trace(
        spec=spec.name, capabilities=(names,), start=(path[0],), steps=tuple(steps), title=title
    )
