"""G8: pre-copy happens. A plan that does nothing while the sources run is safe, and of no use."""

from __future__ import annotations

from collections.abc import Iterator

import z3

from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.explain import Model
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.handover import Journey, Spot


def pre_copied(encoding: Encoding) -> Iterator[Query]:
    """G8: where streams are transferred in passes, every source that can stream does, running."""
    encoding = encoding.widest()
    journey = Journey.of(encoding)
    state = encoding.variable("state")
    streaming = _streaming(journey)
    able = {
        word: frozenset(row.name for row in machine.states) & streaming
        for word, machine in encoding.machines.items()
    }
    passes = [
        spot
        for spot in journey.reachable
        if spot.place is not None and journey.places[spot.place].transfer == "passes"
    ]
    for spot in passes:
        yield _all_stream(journey, spot, state, able)
    can = any_of([encoding.flags == word for word, names in able.items() if names])
    text = "no migration transfers anything of a device that could stream while it runs"
    shown = any_of([_among(journey, spot, state, able) for spot in passes])
    device = (encoding.universe, can)
    if any(able.values()) and journey.plans.migrations:
        missing = Example(f"{text}; no run shows that, for it is a step that is missing")
        yield Query("passes", "claim", (*device, shown), "sat", lambda _: missing)
    idle = "" if any(able.values()) else "no device of this table can stream while it runs"
    if not journey.plans.migrations:
        idle = "there is no migration among these plans"

    def streams(model: Model) -> Example:
        assert model is not None
        name, flags = encoding.read_state(model, state), encoding.read_flags(model)
        what = f"a source streams in {name} while it runs, to be transferred in passes"
        return Example(f"{what} (capabilities {encoding.set_name(flags)})")

    yield Query("streams", "witness", (*device, shown), "sat", streams, idle=idle)


def _streaming(journey: Journey) -> frozenset[str]:
    """The states in which a device runs and a stream is read of it."""
    spec = journey.spec
    reading = (r.name for r in spec.states if spec.session(r.session).transfer == "read")
    return frozenset(reading) & journey.acting


def _among(
    journey: Journey, spot: Spot, state: z3.BitVecRef, able: dict[int, frozenset[str]]
) -> Formula:
    """A device of the source may be in one of these states when it is transferred in passes."""
    encoding = journey.encoding
    return any_of(
        [
            z3.And(
                encoding.flags == word,
                encoding.one_of(state, sorted(able.get(word, frozenset()) & found)),
            )
            for word, devices in journey.reachable[spot]["source"].items()
            if (found := frozenset(name for name, _ in devices))
        ]
    )


def _all_stream(
    journey: Journey, spot: Spot, state: z3.BitVecRef, able: dict[int, frozenset[str]]
) -> Query:
    encoding = journey.encoding
    place = journey.places[spot.place or 0]
    others = {
        word: frozenset(row.name for row in encoding.machines[word].states) - names
        for word, names in able.items()
        if names
    }

    def explain(model: Model) -> Example:
        assert model is not None
        name, flags = encoding.read_state(model, state), encoding.read_flags(model)
        return Example(
            f"{place}: a device of the source is in {name} then, and nothing is read of it "
            f"(capabilities {encoding.set_name(flags)})"
        )

    wrong = _among(journey, spot, state, others)
    return Query(f"place-{spot.place}", "claim", (encoding.universe, wrong), "unsat", explain)
