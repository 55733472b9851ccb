"""T8: the table against what specifications list in so many words.

On what a listing does not name, a state or a capability that a table adds, it is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import z3

from vfio_migration.model.spec import Role
from vfio_migration.verifier.obligations.listings import Allowed, Listing, listings
from vfio_migration.verifier.solver.encoding import Encoding, Formula, Term
from vfio_migration.verifier.solver.explain import Model, pair, request_example, step_example
from vfio_migration.verifier.solver.missing_names import lacking, renamed
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.terms import any_of


def as_listed(encoding: Encoding) -> Iterator[Query]:
    """T8: what each listing has of states, capability sets, numbers, arcs, paths and conduct."""
    reported: list[object] = []
    yield from _shut_out(encoding)
    for listing in listings():
        yield from _listed_numbers(encoding, listing)
        states, capabilities = names = _renamed(encoding, listing)
        if (states or capabilities) and names not in reported:
            reported.append(names)
            yield _not_comparable(listing, states, capabilities)
        if capabilities:
            continue  # which capability sets it lists is not known
        yield from _listed_sets(encoding, listing)
        yield from _listed_arcs(encoding, listing)
        yield from _listed_paths(encoding, listing)
        yield from _listed_conduct(encoding, listing)


def _shut_out(encoding: Encoding) -> Iterator[Query]:
    """No mandatory capability is one that every capability set of every specification lacks."""
    spec = encoding.spec
    if not listings() or any(_renamed(encoding, listing)[1] for listing in listings()):
        return  # which capability is meant by which name is not known
    listed = {name for one in listings() for allowed in one.sets for name in allowed.capabilities}
    if not listed & {row.name for row in spec.capabilities}:
        return  # a table with names and numbers of its own
    for index, row in enumerate(spec.capabilities):
        if row.mandatory:
            text = (
                f"{row.name} is mandatory, and no capability set of any specification has it: it "
                "shuts out every device there is"
            )
            example = Example(text, None, f"capabilities[{index}].mandatory")
            shuts = (encoding.universe, z3.BoolVal(row.name not in listed))
            yield Query(f"shuts-out-{row.name}", "claim", shuts, "unsat", _fixed(example))


def _fixed(example: Example) -> Callable[[Model], Example]:
    return lambda _model: example


def _renamed(encoding: Encoding, listing: Listing) -> tuple[dict[str, str], dict[str, str]]:
    """The states and capabilities that the table has under another name than the listing."""
    spec, numbers = encoding.spec, listing.numbers
    return (
        renamed(numbers.states, [(row.name, row.value) for row in spec.states]),
        renamed(numbers.capabilities, [(row.name, row.value) for row in spec.capabilities]),
    )


def _not_comparable(
    listing: Listing, states: dict[str, str], capabilities: dict[str, str]
) -> Query:
    """Names that differ where numbers agree: nothing is violated, and nothing can be compared."""
    names = (states | capabilities).items()
    differences = ", ".join(f'"{here}" has the number of "{listed}"' for listed, here in names)
    kinds = [("[[states]]", states), ("[[capabilities]]", capabilities)]
    sections = " and ".join(section for section, found in kinds if found)
    lacks = (
        f"{differences} in {listing.numbers.source}: what is listed can be compared once "
        f"it is declared by that name in {sections}"
    )
    return Query(
        f"{listing.name}-names",
        "witness",
        (z3.BoolVal(False),),
        "sat",
        lambda _: Example(differences),
        lacking=lacks,
    )


def _speaks_of(encoding: Encoding, listing: Listing) -> Formula:
    """The capability set is one the listing speaks of."""
    lacks = [
        _bit(encoding, name) == 0 for name in listing.without if _bit(encoding, name) is not None
    ]
    return z3.And(encoding.universe, _names_all(encoding, listing), *lacks)


def _names_all(encoding: Encoding, listing: Listing) -> Formula:
    """The listing names every capability of the set: on what another one changes it is silent."""
    known = listing.numbers.capabilities
    others = [row.value for row in encoding.spec.capabilities if row.name not in known]
    return z3.Not(any_of([encoding.flags & value != 0 for value in others]))


def _bit(encoding: Encoding, capability: str) -> Term | None:
    """The bit of a capability in the flags word, or None if the table has no such capability."""
    for row in encoding.spec.capabilities:
        if row.name == capability:
            return encoding.flags & row.value
    return None


def _listed_arcs(encoding: Encoding, listing: Listing) -> Iterator[Query]:
    from_, to = pair(encoding)
    known = sorted(listing.states & set(encoding.names))
    listed = []
    for group in listing.groups:
        has = [_bit(encoding, name) for name in group.with_]
        lacks = [_bit(encoding, name) for name in group.without]
        if None in has:
            continue
        when = [bit != 0 for bit in has] + [bit == 0 for bit in lacks if bit is not None]
        for here, there in group.arcs:
            if here in encoding.names and there in encoding.names:
                arc = z3.And(from_ == encoding.state(here), to == encoding.state(there))
                listed.append(z3.And(arc, *when))
    spoken_of = z3.And(
        _speaks_of(encoding, listing),
        encoding.one_of(from_, known),
        encoding.one_of(to, known),
    )
    arc, in_list = encoding.arc(from_, to), any_of(listed)
    yield Query(
        f"{listing.name}-missing",
        "claim",
        (spoken_of, in_list, z3.Not(arc)),
        "unsat",
        step_example(
            encoding,
            from_,
            to,
            lambda a, b: f"{listing.source} lists the arc {a} -> {b}, which the table lacks",
        ),
    )
    yield Query(
        f"{listing.name}-unlisted",
        "claim",
        (spoken_of, arc, z3.Not(in_list)),
        "unsat",
        step_example(
            encoding,
            from_,
            to,
            lambda a, b: f"the table has the arc {a} -> {b}, which {listing.source} does not list",
        ),
    )
    yield Query(
        f"{listing.name}-listed",
        "witness",
        (spoken_of, in_list, arc),
        "sat",
        step_example(
            encoding, from_, to, lambda a, b: f"{a} -> {b} is an arc and listed by {listing.source}"
        ),
        lacking=lacking(
            encoding.spec, f"{listing.source} speaks", {"state": sorted(listing.states)}
        ),
    )


def _listed_paths(encoding: Encoding, listing: Listing) -> Iterator[Query]:
    from_, to = pair(encoding)
    steps = encoding.follow(from_, to)
    cases: list[tuple[Formula, Formula]] = []
    for names, path in listing.paths:
        bits = [_bit(encoding, name) for name in names]
        if None in bits or not set(path) <= set(encoding.names):
            continue
        asked = z3.And(
            from_ == encoding.state(path[0]),
            to == encoding.state(path[-1]),
            *(bit != 0 for bit in bits),
        )
        taken = [term == encoding.state(name) for term, name in zip(steps, path, strict=False)]
        as_long = z3.BoolVal(len(path) <= len(steps))
        cases.append((asked, z3.And(as_long, *taken)))
    if not cases:
        return
    spoken_of = z3.And(_speaks_of(encoding, listing), encoding.next_facts)
    yield Query(
        f"{listing.name}-other-path",
        "claim",
        (spoken_of, any_of([z3.And(asked, z3.Not(taken)) for asked, taken in cases])),
        "unsat",
        request_example(encoding, from_, to, lambda *_: f"{listing.source} lists another path"),
    )


def _listed_numbers(encoding: Encoding, listing: Listing) -> Iterator[Query]:
    """No state and no capability has another number than the listed one."""
    spec, numbers = encoding.spec, listing.numbers
    state = encoding.variable("state")
    wrong = {
        row.name: row.value
        for row in spec.states
        if numbers.states.get(row.name, row.value) != row.value
    }
    bits = {
        row.name: row.value
        for row in spec.capabilities
        if numbers.capabilities.get(row.name, row.value) != row.value
    }

    def other_value(model: Model) -> Example:
        assert model is not None
        name = encoding.read_state(model, state) or "?"
        listed = numbers.states[name]
        place = f"states[{encoding.names.index(name)}].value"
        return Example(f"{name} is {wrong[name]}, but {listed} in {numbers.source}", None, place)

    def other_bit(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        name = next(name for name, value in bits.items() if value == word)
        listed = numbers.capabilities[name]
        index = [row.name for row in spec.capabilities].index(name)
        text = f"{name} is {word}, but {listed} in {numbers.source}"
        return Example(text, None, f"capabilities[{index}].value")

    yield Query(
        f"{listing.name}-numbers", "claim", (encoding.one_of(state, wrong),), "unsat", other_value
    )
    any_bit = any_of([encoding.flags == value for value in bits.values()])
    yield Query(f"{listing.name}-bits", "claim", (any_bit,), "unsat", other_bit)


def _listed_sets(encoding: Encoding, listing: Listing) -> Iterator[Query]:
    """Of the capabilities the listing names, the profile has the listed sets and no others.

    Each of them has the listed states.
    """
    spec = encoding.spec
    known = {row.name: encoding.flags & row.value != 0 for row in spec.capabilities}
    sets = [allowed for allowed in listing.sets if known.keys() >= set(allowed.capabilities)]
    named = {name for allowed in sets for name in allowed.capabilities} | set(listing.without)
    if not sets or listing.profile not in {row.name for row in spec.profiles}:
        return
    there = any_of(
        [encoding.flags == int(flags.value) for flags in spec.capability_sets(listing.profile)]
    )
    there = z3.And(there, _names_all(encoding, listing))
    chosen = [
        z3.And(
            [
                bit if name in allowed.capabilities else z3.Not(bit)
                for name, bit in known.items()
                if name in named
            ]
        )
        for allowed in sets
    ]

    def other_set(model: Model) -> Example:
        assert model is not None
        names = encoding.set_name(encoding.read_flags(model))
        return Example(f"{sets[0].source} has no capability set {names}")

    yield Query(
        f"{listing.name}-other-set",
        "claim",
        (there, z3.Not(any_of(chosen))),
        "unsat",
        other_set,
    )
    state = encoding.variable("state")
    for allowed, this in zip(sets, chosen, strict=True):
        title = ",".join(allowed.capabilities)

        text = f"the profile {listing.profile} lacks the set {title} of {allowed.source}"

        def no_such_set(_: Model, text: str = text) -> Example:
            return Example(text)

        yield Query(
            f"{listing.name}-has-{title.replace(',', '-')}",
            "claim",
            (there, this),
            "sat",
            no_such_set,
        )
        listed = encoding.one_of(state, sorted(set(allowed.states) & set(encoding.names)))
        speaks = encoding.one_of(state, sorted(listing.states & set(encoding.names)))
        yield Query(
            f"{listing.name}-states-{title.replace(',', '-')}",
            "claim",
            (there, this, speaks, encoding.supported(state) != listed),
            "unsat",
            _other_states(encoding, allowed, state),
        )


def _other_states(encoding: Encoding, allowed: Allowed, state: Term) -> Callable[[Model], Example]:
    def explain(model: Model) -> Example:
        assert model is not None
        name = encoding.read_state(model, state) or "?"
        flags = encoding.spec.capability_type(encoding.read_flags(model))
        done = "has" if encoding.spec.supports(flags, name) else "lacks"
        title = ",".join(allowed.capabilities)
        text = f"a device with {title} {done} {name}, unlike in {allowed.source}"
        return Example(text, None, f"states[{encoding.names.index(name)}].requires")

    return explain


def _listed_conduct(encoding: Encoding, listing: Listing) -> Iterator[Query]:
    """What a device may do in a state by the listing it may do by the table.

    That it does nothing it must not is what D3, D4 and D5 are about.
    """
    spec = encoding.spec
    state = encoding.variable("state")
    kept_from: dict[str, tuple[Role, str]] = {}
    for conduct in listing.conduct:
        for name in sorted(set(conduct.states) & set(encoding.names)):
            # A role that no activity of the table has is one that it permits nowhere.
            for role in conduct.permits:
                if not spec.permits_role(name, role):
                    kept_from.setdefault(name, (role, conduct.source))

    def explain(model: Model) -> Example:
        assert model is not None
        name = encoding.read_state(model, state) or "?"
        role, source = kept_from[name]
        activity = spec.activity(role)
        text = f"a device in {name} may not {activity or role}, but may by {source}"
        if activity is None:
            speaks = lacking(spec, "the latter speaks", {"role": [role]})
            text += f"; {speaks}"
        return Example(text, None, f"states[{encoding.names.index(name)}]")

    yield Query(
        f"{listing.name}-kept-from",
        "claim",
        (encoding.one_of(state, kept_from),),
        "unsat",
        explain,
    )
