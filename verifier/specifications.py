"""T8: the table against what specifications list in so many words."""

from __future__ import annotations

from collections.abc import Iterator

import z3

from vfio_migration.verifier.encoding import Encoding, Formula, Term, any_of
from vfio_migration.verifier.examples import pair, request_example, step_example
from vfio_migration.verifier.listings import Listing, listings
from vfio_migration.verifier.obligation import Query


def as_listed(encoding: Encoding) -> Iterator[Query]:
    """T8: arcs and paths are what each listing says of the states and sets it speaks of."""
    for listing in listings():
        yield from _listed_arcs(encoding, listing)
        yield from _listed_paths(encoding, listing)


def _speaks_of(encoding: Encoding, listing: Listing) -> Formula:
    """The capability set is one the listing speaks of."""
    lacks = [
        _bit(encoding, name) == 0 for name in listing.without if _bit(encoding, name) is not None
    ]
    return z3.And(encoding.universe, *lacks)


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
    )


def _listed_paths(encoding: Encoding, listing: Listing) -> Iterator[Query]:
    from_, to = pair(encoding)
    steps = encoding.follow(from_, to)
    cases: list[tuple[Formula, Formula]] = []
    for names, path in listing.paths:
        bits = [_bit(encoding, name) for name in names]
        if None in bits or not set(path) <= set(encoding.names) or len(path) > len(steps):
            continue
        asked = z3.And(
            from_ == encoding.state(path[0]),
            to == encoding.state(path[-1]),
            *(bit != 0 for bit in bits),
        )
        taken = [term == encoding.state(name) for term, name in zip(steps, path, strict=False)]
        cases.append((asked, z3.And(taken)))
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
