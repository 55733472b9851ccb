"""Family D: one device, any sequence of requests, failures, resets, reads, writes, disconnects.

Each is proved by induction and so for runs of any length; where a single step needs to know more,
the lemmas of `DeviceSystem.lemmas` say what. If an induction fails, runs from the start are
searched, shortest first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import z3

from vfio_migration.model.spec import Role, Spec
from vfio_migration.verifier.obligations.listings import listings
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.explain import Model, asked_trace, decided
from vfio_migration.verifier.solver.missing_names import lacking
from vfio_migration.verifier.solver.obligation import Example, Obligation, Query
from vfio_migration.verifier.solver.system import Bad, Situation, Term
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.device import CHANGE, DeviceSystem

DEPTH = 7
"""How many events a search for a run that breaks an obligation goes."""

Formulas = Callable[[DeviceSystem], tuple[Bad, Bad]]
"""From the system to the step that must never happen and one that shows the premise hold."""


def _inductive(
    formulas: Formulas, lemmas: Sequence[str], witness: int, about: Collection[Role] | None
) -> tuple[
    Callable[[Encoding], Iterable[Query]],
    Callable[[Encoding], Iterable[Query]],
]:
    """Make the queries of an obligation: induction under lemmas, a witness of so many events.

    `about` are the roles of the activities it speaks of, if of what specifications forbid.
    """

    def queries(encoding: Encoding) -> Iterator[Query]:
        system = DeviceSystem.of(encoding)
        bad, premise = formulas(system)
        held = system.lemma(*lemmas)
        yield from system.inductive(held)
        yield from system.never("broken", bad, held)
        lacks = "" if about is None else _unnamed(encoding, about)
        shown = system.happens("premise", premise, witness)
        # What a table has under other names is not looked for in longer runs.
        yield replace(shown, lacking=lacks, instead=None if lacks else shown.instead)

    def search(encoding: Encoding) -> Iterator[Query]:
        system = DeviceSystem.of(encoding)
        yield from system.bounded(formulas(system)[0], DEPTH)

    return queries, search


_STARTED: tuple[Role, ...] = ("guest_dma", "interrupt")
_TO_PEERS: tuple[Role, ...] = ("peer_dma",)

# --- the obligations ---


def _d1(system: DeviceSystem) -> tuple[Bad, Bad]:
    def bad(_now: Situation, _event: Term, then: Situation) -> Formula:
        return (then["open"] > 0) != system.streams(then["state"])

    def premise(_now: Situation, _event: Term, then: Situation) -> Formula:
        return z3.And(then["open"] > 0, system.streams(then["state"]))

    return bad, premise


def _d2(system: DeviceSystem) -> tuple[Bad, Bad]:
    def opens(now: Situation, event: Term, then: Situation) -> Formula:
        onward = system.effect(now["state"], then["state"], "opens")
        return z3.And(system.is_event(event, "arc"), onward)

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        stale = z3.And(opens(now, event, then), then["session"] <= now["sessions"])
        return z3.Or(then["open"] > 1, then["open"] < 0, stale)

    def premise(now: Situation, event: Term, then: Situation) -> Formula:
        return z3.And(opens(now, event, then), then["session"] == 2)

    return bad, premise


def _conduct(system: DeviceSystem, state: Term, roles: Collection[Role]) -> dict[str, Formula]:
    """Per activity with a role of interest: the state is one in which it must not be done.

    That is so where a specification forbids it, and wherever the table has a device stopped,
    whatever the state is called.
    """
    spec = system.encoding.spec
    stopped = _stopped_states(spec)
    return {
        row.name: system.encoding.one_of(state, sorted(stopped | _listed_for(spec, row.role)))
        for row in sorted(spec.activities, key=lambda row: row.name)
        if row.role in roles
    }


def _listed_for(spec: Spec, role: Role) -> set[str]:
    """The states in which a specification forbids an activity with this role."""
    rows = [row for listing in listings() for row in listing.conduct if role in row.forbids]
    return {name for row in rows for name in row.states} & {row.name for row in spec.states}


def _stopped_states(spec: Spec) -> set[str]:
    """The states whose meaning in the table is that nothing of the device may change.

    It may not change its own state; or all of it was read, or is about to be judged.
    """
    changing = {row.name for row in spec.activities if row.role == CHANGE}
    return {
        row.name
        for row in spec.states
        if not any(spec.permits(row.name, name) for name in changing)
    } | _fixed(spec)


def _fixed(spec: Spec) -> set[str]:
    """The states in which the end of a stream is final, or a stream is judged when it is left."""
    return {
        row.name
        for row in spec.states
        if ((end := spec.stream_end(row.name)) is not None and end.kind == "final")
        or spec.session(row.session).judged
    }


def _unnamed(encoding: Encoding, about: Collection[Role]) -> str:
    """What specifications forbid of these roles, and in which states, that a table lacks."""
    rows = [row for listing in listings() for row in listing.conduct]
    names: dict[str, list[str]] = {
        "role": [role for row in rows for role in row.forbids if role in about],
        "state": [name for row in rows if set(about) & set(row.forbids) for name in row.states],
    }
    return lacking(encoding.spec, "specifications speak", names)


def _still(system: DeviceSystem, state: Term) -> Formula:
    """A specification has the device stopped in this state, or its stream is final or judged."""
    spec = system.encoding.spec
    return system.encoding.one_of(state, sorted(_listed_for(spec, CHANGE) | _fixed(spec)))


def _forbidden(roles: Collection[Role]) -> Formulas:
    """The device does something that it must not do in its state."""

    def formulas(system: DeviceSystem) -> tuple[Bad, Bad]:
        def forbids(state: Term) -> dict[str, Formula]:
            return _conduct(system, state, roles)

        def bad(now: Situation, event: Term, _then: Situation) -> Formula:
            activity = system.chosen_activity(_moment(event))
            return z3.And(
                system.is_event(event, "act"),
                any_of(
                    [
                        z3.And(activity == system.activity(name), forbidden)
                        for name, forbidden in forbids(now["state"]).items()
                    ]
                ),
            )

        def premise(now: Situation, event: Term, _then: Situation) -> Formula:
            there = any_of(list(forbids(now["state"]).values()))
            return z3.And(there, system.is_event(event, "nothing"))

        return bad, premise

    return formulas


def _moment(event: Term) -> str:
    """The moment an event term belongs to."""
    return str(event).partition("@")[2]


def _d5(system: DeviceSystem) -> tuple[Bad, Bad]:
    def bad(now: Situation, _event: Term, then: Situation) -> Formula:
        return z3.And(_still(system, now["state"]), then["changes"] != now["changes"])

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        return z3.And(
            _still(system, now["state"]), now["changes"] > 0, system.is_event(event, "nothing")
        )

    return bad, premise


def _d6(system: DeviceSystem) -> tuple[Bad, Bad]:
    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        was, is_ = system.failed(now["state"]), system.failed(then["state"])
        failing = ("arc_failed_for_good", "reset_failed", "disconnect_failed")
        entered = z3.And(is_, z3.Not(was), z3.Not(system.is_event(event, *failing)))
        left = z3.And(was, z3.Not(is_), z3.Not(system.is_event(event, "reset")))
        return z3.Or(entered, left)

    def premise(now: Situation, event: Term, then: Situation) -> Formula:
        return z3.And(
            system.failed(now["state"]),
            z3.Not(system.failed(then["state"])),
            system.is_event(event, "reset"),
        )

    return bad, premise


def _d7(system: DeviceSystem) -> tuple[Bad, Bad]:
    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        return z3.And(
            system.is_event(event, "arc_failed", "arc_failed_for_good", "stuck"),
            z3.Not(system.on_path(now["origin"], now["target"], then["state"])),
            z3.Not(system.failed(then["state"])),
        )

    def premise(now: Situation, event: Term, then: Situation) -> Formula:
        return z3.And(
            system.is_event(event, "arc_failed"),
            then["state"] != now["origin"],
            then["state"] != now["target"],
        )

    return bad, premise


def _d8(system: DeviceSystem) -> tuple[Bad, Bad]:
    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        at_once = z3.And(
            system.is_event(event, "refused"),
            any_of([then[name] != now[name] for name in now]),
        )
        half_way = z3.And(
            system.is_event(event, "stuck"),
            z3.Or(then["state"] != now["origin"], then["session"] != now["set_out"]),
        )
        return z3.Or(at_once, half_way)

    def premise(_now: Situation, event: Term, _then: Situation) -> Formula:
        return system.is_event(event, "refused")

    return bad, premise


def _d11(system: DeviceSystem) -> tuple[Bad, Bad]:
    kept = ("state", "open", "session", "sessions", "changes")

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        moved = any_of([then[name] != now[name] for name in kept])
        failing = system.is_event(event, "arc_failed", "arc_failed_for_good")
        return z3.And(failing, moved, z3.Not(system.failed(then["state"])))

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        return z3.And(system.is_event(event, "arc_failed"), now["open"] > 0)

    return bad, premise


# --- obligations of other shapes ---


def _d9(encoding: Encoding) -> Iterator[Query]:
    spec = encoding.spec
    system = DeviceSystem.of(encoding)
    state = encoding.variable("state")
    initial = encoding.state(spec.initial)
    landing = spec.event("reset").to

    def by_request(from_: z3.BitVecRef) -> Formula:
        there = encoding.follow(from_, initial)[-1] == initial
        return z3.Or(from_ == initial, z3.And(encoding.accepted(from_, initial), there))

    reset = by_request(state if landing is None else encoding.state(landing))
    known = z3.And(system.facts, encoding.supported(state))

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        name = encoding.read_state(model, state) or "?"
        route = encoding.machines[word].route(name, spec.initial)
        text = f"from {name} (capabilities {encoding.set_name(word)}) "
        if route.refused is None:
            return Example(text + f"a request leads back: {route}")
        if landing is not None:
            return Example(text + f"a reset leads to {landing}, and from there to {spec.initial}")
        return Example(text + "neither a request nor a reset leads back")

    def stranded(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        name = encoding.read_state(model, state) or "?"
        text = (
            f"from {name} no request leads to {spec.initial}, and a reset leads to "
            f"{landing or 'nowhere'}, from where none does either "
            f"(capabilities {encoding.set_name(word)})"
        )
        return Example(text, asked_trace(encoding, word, name, spec.initial, text))

    yield Query(
        "stranded", "claim", (known, z3.Not(z3.Or(by_request(state), reset))), "unsat", stranded
    )
    # A table that needs no reset is proved as well; then a way by request is what shows it.
    lost = any(
        (route := decided(encoding, word, row.name, spec.initial)) is None or route.refused
        for word, machine in encoding.machines.items()
        for row in machine.states
    )
    shown = z3.And(z3.Not(by_request(state)), reset) if lost else by_request(state)
    yield Query(
        "only-by-reset" if lost else "by-request", "witness", (known, shown), "sat", explain
    )


def _d10(encoding: Encoding) -> Iterator[Query]:
    system = DeviceSystem.of(encoding)
    from_, to = encoding.variable("from"), encoding.variable("to")
    moves = z3.And(system.facts, encoding.arc(from_, to))
    ends = z3.And(system.streams(from_), system.streams(to))
    kept = system.effect(from_, to, "keeps")

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        here = encoding.read_state(model, from_) or "?"
        there = encoding.read_state(model, to) or "?"
        text = f"{here} -> {there} (capabilities {encoding.set_name(word)})"
        return Example(text, asked_trace(encoding, word, here, there, text, [here, there]))

    yield Query("both", "claim", (moves, ends, z3.Not(kept)), "unsat", explain)
    streams = {
        row.name
        for row in encoding.spec.states
        if encoding.spec.session(row.session).transfer != "none"
    }
    arcs = (arc for machine in encoding.machines.values() for arc in machine.arcs)
    both = any({arc.from_, arc.to} <= streams for arc in arcs)
    idle = "" if both else "no arc of this table has a data session at both ends"
    yield Query("kept", "witness", (moves, ends, kept), "sat", explain, idle=idle)


_SEEN = ("state", "busy", "target", "origin", "open", "connected")
"""What a device may go by in what it does: all but what its history has left behind."""


def _alike(one: Situation, other: Situation) -> Formula:
    return z3.And([one[name] == other[name] for name in _SEEN])


def _unlike(system: DeviceSystem, one: Situation, other: Situation, moment: int) -> Formula:
    """One device does at a moment what the other cannot do then, or does otherwise."""
    one_then, other_then = system.situation("one-then"), system.situation("other-then")
    elsewhere = z3.And(
        system.relation(other, other_then, moment), z3.Not(_alike(one_then, other_then))
    )
    return z3.And(
        system.relation(one, one_then, moment),
        z3.Or(z3.Not(system.enabled(other, moment)), elsewhere),
    )


def _d12(encoding: Encoding) -> Iterator[Query]:
    system = DeviceSystem.of(encoding)
    first, second = system.situation("one"), system.situation("other")
    numbered = [
        lemma.formula(life)
        for lemma in system.lemma("numbered", "one-session")
        for life in (first, second)
    ]
    yield from system.inductive(system.lemma("numbered", "one-session", "supported", "under-way"))
    yield Query(
        "history-shows",
        "step",
        (system.facts, _alike(first, second), *numbered, _unlike(system, first, second, 0)),
        "unsat",
        lambda _: Example("two devices that are alike answer the same event differently"),
    )
    yield from system.never("not-as-new", _not_as_new(system))

    def again(now: Situation, event: Term, then: Situation) -> Formula:
        opens = system.effect(now["state"], then["state"], "opens")
        return z3.And(system.is_event(event, "arc"), opens, then["session"] == 2)

    def lives(length: int) -> Query:
        before = (system.event(moment) for moment in range(length - 1))
        resets = any_of([system.is_event(event, "reset") for event in before])
        return system.happens("second-life", again, length, resets)

    # A life is a request and its arcs, and there are two, with a reset between them.
    lengths = range(6, 6 + 2 * len(system.encoding.names))
    after_reset = system.is_event(system.event(2), "reset")
    shortest = system.happens("second-life", again, 5, after_reset)
    yield replace(shortest, instead=lambda: map(lives, lengths))


def _not_as_new(system: DeviceSystem) -> Bad:
    initial = system.encoding.state(system.encoding.spec.initial)

    def bad(_now: Situation, event: Term, then: Situation) -> Formula:
        as_new = z3.And(then["state"] == initial, then["open"] == 0, z3.Not(then["busy"]))
        return z3.And(system.is_event(event, "reset"), z3.Not(as_new))

    return bad


def _search_d12(encoding: Encoding) -> Iterator[Query]:
    system = DeviceSystem.of(encoding)
    yield from system.bounded(_not_as_new(system), DEPTH)
    yield from _second_lives(system)


def _second_lives(system: DeviceSystem) -> Iterator[Query]:
    """A new device and one that was reset get into situations that are alike, and differ there.

    The run of the one that was reset is shown; what differs is what it does next.
    """
    for total in range(1, 2 * DEPTH):
        for new in range(1, min(total, LIFE) + 1):
            length = total - new + 1
            if not new < length <= DEPTH:
                continue
            now, fresh = system.situation(length), system.situation(_NEW + new)
            before = [system.event(moment) for moment in range(length)]
            resets = any_of([system.is_event(event, "reset") for event in before])
            steps = [system.step(moment) for moment in range(_NEW, _NEW + new)]
            life = [system.start(system.situation(_NEW)), *steps]
            differ = z3.Or(_unlike(system, now, fresh, _NEXT), _unlike(system, fresh, now, _NEXT))
            yield Query(
                f"second-life-{length}-{new}",
                "claim",
                system.run(length, resets, *life, _alike(now, fresh), differ),
                "unsat",
                system.explaining(length),
            )


LIFE = 3
"""How many events a new device goes through in the search for a second life that is another."""

_NEW, _NEXT = 100, 200
"""Moments of the new device, and that at which the two differ; the other's begin at 0."""


_EVERY_RUN = "every run of one device and its client, of any length, under every capability set"


def _obligation(
    id_: str,
    statement: str,
    why: str,
    formulas: Formulas,
    lemmas: Sequence[str],
    witness: int,
    about: Collection[Role] | None = None,
    *,
    title: str,
    not_shown: str,
) -> Obligation:
    queries, search = _inductive(formulas, lemmas, witness, about)
    return Obligation(
        id_,
        statement,
        _EVERY_RUN,
        "induction",
        why,
        queries,
        search,
        title=title,
        not_shown=not_shown,
    )


DEVICE: tuple[Obligation, ...] = (
    _obligation(
        "D1",
        "A data session is open exactly in the states that stream.",
        "A client that reads where no session is open, or forgets one that is, loses state.",
        _d1,
        ("supported", "under-way", "one-session"),
        2,
        title="A session is open where states stream",
        not_shown="That reads and writes of the session are served there: W5 and W9.",
    ),
    _obligation(
        "D2",
        "There are never two data sessions, and each new one is distinct from all before.",
        "What belongs to one migration can never be taken for another's.",
        _d2,
        ("supported", "under-way", "one-session", "numbered"),
        6,
        title="Sessions are never mixed up",
        not_shown="Sessions of several devices: each device has its own here, and G7 has a stream "
        "for each.",
    ),
    _obligation(
        "D3",
        "A stopped device starts no DMA and raises no interrupt: where it may not change its own "
        "state, where the end of its stream is final and where a stream is judged on leaving.",
        "Guest memory copied after the stop would otherwise change behind the copy.",
        _forbidden(_STARTED),
        (),
        3,
        _STARTED,
        title="A stopped device starts nothing",
        not_shown="Hardware that breaks the rule; and writes that were begun before the stop: an "
        "arc is taken at one moment here.",
    ),
    _obligation(
        "D4",
        "No peer-to-peer DMA starts while the device is quiesced or, in the same sense, stopped.",
        "A peer that is stopped already could not answer it.",
        _forbidden(_TO_PEERS),
        (),
        3,
        _TO_PEERS,
        title="A quiesced device starts no DMA to peers",
        not_shown="Peers of another kind than VFIO devices, and what was begun before the device "
        "was quiesced.",
    ),
    _obligation(
        "D5",
        "The device's own state does not change while it is stopped, so what STOP_COPY streams is "
        "a snapshot.",
        "A stream read from a moving device holds a state that never was.",
        _d5,
        (),
        4,
        (CHANGE,),
        title="A stopped device does not change",
        not_shown="What others write into its memory from outside: a register access of the "
        "guest, a peer that still runs (G1 is about those).",
    ),
    _obligation(
        "D6",
        "The failed state is entered only by a failure, of an arc, a reset or a disconnect, and "
        "left only by a reset.",
        "A device that failed must not come back to work by a side door.",
        _d6,
        ("supported", "under-way"),
        4,
        title="The failed state is left by a reset only",
        not_shown="That the reset succeeds: one that fails leads to the failed state again.",
    ),
    _obligation(
        "D7",
        "After a failed request the device is on the request's path or in the failed state.",
        "A client that reads the state back must be able to find out where it is.",
        _d7,
        ("supported", "under-way"),
        3,
        title="A failed request ends on its path",
        not_shown="Which state on the path; the client reads that back.",
    ),
    _obligation(
        "D8",
        "A refused request changes nothing at all.",
        "A driver once stopped the device on an illegal request and still called it running.",
        _d8,
        ("supported", "under-way", "setting-out"),
        1,
        title="A refused request changes nothing",
        not_shown="A driver that does more than the table states before it refuses: `conform` "
        "looks for those.",
    ),
    Obligation(
        "D9",
        "From every state there is a way back to the initial one, with at most one reset.",
        "every supported state under every capability set",
        "symbolic",
        "A device without a way back is lost to its guest until the host intervenes.",
        _d9,
        title="There is a way back from everywhere",
        not_shown="That the arcs on it succeed, and when: nothing here is about time.",
    ),
    Obligation(
        "D10",
        "No arc both closes a session and opens another.",
        "every arc of every capability set",
        "symbolic",
        "Between the two there would be no moment at which the stream can be judged.",
        _d10,
        title="No arc closes one session and opens another",
        not_shown="Sessions of one kind that a single request closes and opens on a longer path.",
    ),
    _obligation(
        "D11",
        "A failed arc leaves state and session as they were, or ends in the failed state.",
        "A session closed by an arc that then fails leaves a client with a state it cannot read.",
        _d11,
        (),
        4,
        title="A failed arc leaves things as they were",
        not_shown="Effects on the hardware half-way through an arc: an arc is taken, or not, at "
        "one moment.",
    ),
    Obligation(
        "D12",
        "A second life cycle on the same device behaves as the first.",
        "every two devices that are alike, whatever each has been through",
        "induction",
        "A flag set by the first migration and never cleared makes the second one skip a check.",
        _d12,
        _search_d12,
        title="A second life is like the first",
        not_shown="Memory of a device that no callback of the engine can see; the kit and "
        "`conform` test for it.",
    ),
)
"""Family D, in the order of DESIGN.md."""
