"""Family S: what is streamed is the whole state, in order, and a broken stream never runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import z3

from vfio_migration.verifier.obligations.dirty_log import dma_logging
from vfio_migration.verifier.obligations.session_stream import estimates, segmentation
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.explain import Model, asked_trace
from vfio_migration.verifier.solver.obligation import Example, Obligation, Query
from vfio_migration.verifier.solver.system import Bad, Situation, Term
from vfio_migration.verifier.systems.migration import MigrationSystem

DEPTH = 10
"""How many events a search for a run that breaks an obligation goes: two arcs on each side to open
the
sessions, a page that is streamed, read and written, an end, an arc onward, and a change."""


def _about(
    formulas: Callable[[MigrationSystem], tuple[Bad, Bad]],
    lemmas: Sequence[str],
    run: Sequence[str],
) -> tuple[Callable[[Encoding], Iterable[Query]], Callable[[Encoding], Iterable[Query]]]:
    def queries(encoding: Encoding) -> Iterator[Query]:
        system = MigrationSystem.of(encoding)
        bad, premise = formulas(system)
        held = system.lemma(*lemmas)
        yield from system.inductive(held)
        yield from system.never("broken", bad, held)
        # The order of events is given: without it the solver looks through all of them.
        order = [system.is_event(system.event(moment), name) for moment, name in enumerate(run)]
        yield system.happens("premise", premise, len(run), *order)

    def search(encoding: Encoding) -> Iterator[Query]:
        system = MigrationSystem.of(encoding)
        yield from system.bounded(formulas(system)[0], DEPTH)

    return queries, search


def _s1(system: MigrationSystem) -> tuple[Bad, Bad]:
    def right(then: Situation) -> Formula:
        """What the source held at the end of its stream, and, until its session closes, holds."""
        still = then["copy"] == then["value"]
        open_yet = system.device.streams(then["source"], "read")
        return z3.And(then["copy"] == then["final"], z3.Implies(open_yet, still))

    def bad(_now: Situation, _event: Term, then: Situation) -> Formula:
        return z3.And(system.complete(then), z3.Not(right(then)))

    def premise(_now: Situation, _event: Term, then: Situation) -> Formula:
        return z3.And(system.complete(then), right(then))

    return bad, premise


def _s4(system: MigrationSystem) -> tuple[Bad, Bad]:
    def bad(_now: Situation, _event: Term, then: Situation) -> Formula:
        return z3.And(z3.Not(then["whole"]), system.acts(then["target"]))

    def premise(_now: Situation, event: Term, then: Situation) -> Formula:
        return z3.And(system.is_event(event, "damage"), z3.Not(then["whole"]))

    return bad, premise


def _s5(encoding: Encoding) -> Iterator[Query]:
    system = MigrationSystem.of(encoding)
    device = system.device
    state = encoding.variable("state")
    initial = encoding.state(encoding.spec.initial)
    path = encoding.follow(state, initial)
    saving = z3.And(
        encoding.universe,
        encoding.next_facts,
        encoding.supported(state),
        device.streams(state, "read"),
    )
    harmed = z3.Or(
        z3.Not(encoding.accepted(state, initial)),
        path[-1] != initial,
        *(device.streams(term, "write") for term in path),
    )

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        name = encoding.read_state(model, state) or "?"
        machine = encoding.machines[word]
        route = machine.route(name, encoding.spec.initial)
        text = f"cancelled in {name} (capabilities {encoding.set_name(word)}): {route}"
        asked = asked_trace(encoding, word, name, encoding.spec.initial, text, [name, *route.path])
        return Example(text, asked)

    yield Query("no-way-back", "claim", (saving, harmed), "unsat", explain)

    yield from system.never("changed-by-migration", _changed(system))
    yield Query("a-way-back", "witness", (saving, z3.Not(harmed)), "sat", explain)


def _changed(system: MigrationSystem) -> Bad:
    def changed(now: Situation, event: Term, then: Situation) -> Formula:
        own = system.is_event(event, "change", "source_reset")
        return z3.And(then["value"] != now["value"], z3.Not(own))

    return changed


def _s5_search(encoding: Encoding) -> Iterator[Query]:
    system = MigrationSystem.of(encoding)
    yield from system.bounded(_changed(system), DEPTH)


_STREAM = "every run of a source, a client and a destination, any length of state and stream"

_S1_QUERIES = _about(
    _s1,
    (
        "counted",
        "silent-since",
        "clean-is-sent",
        "ended-is-still",
        "final-is-sent",
        "copy-follows",
    ),
    (
        *("source_arc", "source_arc", "stream_page", "read", "end_final"),
        *("target_arc", "target_arc", "write"),
    ),
)
_S4_QUERIES = _about(
    _s4,
    ("half-is-held",),
    (
        *("source_arc", "source_arc", "stream_page", "read"),
        *("target_arc", "target_arc", "write", "damage"),
    ),
)

STREAM: tuple[Obligation, ...] = (
    Obligation(
        "S1",
        "At the final end of the stream the destination holds the source's whole state: no update "
        "made during pre-copy is lost.",
        _STREAM,
        "induction",
        "A page that changed after it was sent and was not sent again is silent corruption.",
        *_S1_QUERIES,
        title="The destination has the whole state",
        not_shown="What the device does not stream: a register that its author forgot is in no "
        "model. The kit's tests look for those.",
    ),
    Obligation(
        "S2",
        "One session is one stream: the destination receives its bytes in order, however reads and "
        "writes cut it up, and whichever replies are not sent.",
        "every byte of a stream of any length, every segmentation, every path among saving states, "
        "every loss of replies",
        "induction",
        "A driver that lost its position between two saving states sent the wrong bytes; a server "
        "moved on for a reply that nobody got.",
        *segmentation(),
        title="A session is one stream",
        not_shown="That the bytes mean the same to both sides: another version of the device may "
        "read them otherwise.",
    ),
    Obligation(
        "S3",
        "Temporary and final end of stream are distinguished: after a final one nothing comes, and "
        "initial_bytes only falls, except when the device announces new initial data to a client "
        "that asked to be notified.",
        "every run of a source and a client",
        "induction",
        "A client that takes a pause for the end leaves state behind.",
        *estimates(),
        title="The ends of a stream are distinguished",
        not_shown="Estimates: that precopy_bytes is near to what will come. It may be anything.",
    ),
    Obligation(
        "S4",
        "An incomplete or damaged stream never leads to a running device.",
        _STREAM,
        "induction",
        "Drivers accept a truncated stream if the writer ignored an error.",
        *_S4_QUERIES,
        title="A bad stream never runs",
        not_shown="Damage that a checksum does not notice, and a sender who means harm and "
        "computes the checksum anew.",
    ),
    Obligation(
        "S5",
        "A cancelled migration leaves the source running, unharmed: from every saving state a "
        "request leads back to running, no state is loaded on the way, and only the device itself "
        "ever changes its state.",
        "every saving state of every capability set, and every run",
        "induction",
        "Cancelling must always be safe, or nobody dares to start.",
        _s5,
        _s5_search,
        title="A cancelled migration harms nobody",
        not_shown="That the request to return succeeds: an arc that fails for good costs the "
        "device a reset (G5).",
    ),
    Obligation(
        "S6",
        "DMA logging never under-reports: a byte written since a report of it was last received is "
        "reported, whatever the page sizes of tracking and reporting and the range asked for, and "
        "whichever reports are not sent.",
        "every address, every pair of page sizes, every sequence of writes, reports and lost "
        "reports",
        "induction",
        "A page that was written and not reported is a page of guest memory that is lost, and so "
        "is one that was reported to nobody.",
        *dma_logging(),
        title="DMA logging misses nothing",
        not_shown="Bits reported that nobody wrote: reporting too much is allowed. Writes by "
        "others than the device.",
    ),
)
"""Family S, in the order of DESIGN.md."""
