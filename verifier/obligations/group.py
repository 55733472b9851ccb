"""Family G: groups of any size, moved by the plans of `model/group_plan.toml`.

G1, G4 and G5 are proved by induction over the steps of a plan, quantified over devices: once, for
groups of every size and every mixture of capabilities the plan admits, whichever profiles they come
from. The bad disciplines are refuted with two devices, by a shortest run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import z3

from vfio_migration.model.plan import Plan
from vfio_migration.verifier.obligations.group_arrival import arrivals, loaded_together
from vfio_migration.verifier.obligations.handover import handovers, handovers_search
from vfio_migration.verifier.obligations.pre_copy import pre_copied
from vfio_migration.verifier.solver.encoding import Encoding, Formula, Term
from vfio_migration.verifier.solver.explain import Model
from vfio_migration.verifier.solver.obligation import Example, Obligation, Query
from vfio_migration.verifier.solver.system import Situation
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.group import FiniteGroup, QuantifiedGroup, may, meets, too_many
from vfio_migration.verifier.systems.handover import followed, handed_over
from vfio_migration.verifier.systems.plan import ACCEPTS, STARTS, Discipline, shortest_meeting

SIZES = (2, 3)
"""How many devices there are where a run that breaks a plan is searched for."""

PREMISE = 6
"""How many events it takes until one of two devices stops: quiesce both, three phases, stop."""


def _example(text: str) -> Callable[[Model], Example]:
    return lambda _model: Example(text)


def _begun(encoding: Encoding) -> list[Plan]:
    """The sound plans that are begun with all devices in one state, and whole migrations."""
    alone = Discipline.marked(encoding, sound=True, after=False)
    return alone + followed(Discipline.plans(encoding))


def _search(disciplines: list[Discipline]) -> Iterator[Query]:
    """The shortest run that breaks each plan, if there is one: how long it is, a search knows."""
    for discipline in disciplines:
        for size in SIZES:
            length = shortest_meeting(discipline, size)
            if length is not None:
                group = FiniteGroup(discipline, size)
                yield from group.bounded(group.unsafe, length)
                break


# --- G1: the good discipline ---


def _g1(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    plans = _begun(encoding)
    for plan in plans:
        yield from QuantifiedGroup(Discipline(encoding, plan, failing=False)).inductive()
    group = FiniteGroup(Discipline(encoding, plans[0]), 2)

    def one_stops(now: Situation, _event: Term, then: Situation) -> Formula:
        """A device stops while its peer still runs, and they do not meet."""
        return any_of(
            [
                z3.And(
                    may(encoding, now[f"state{one}"], ACCEPTS),
                    z3.Not(may(encoding, then[f"state{one}"], ACCEPTS)),
                    may(encoding, then[f"state{1 - one}"], ACCEPTS),
                )
                for one in range(2)
            ]
        )

    # Quiesce both, next phases, stop one: the first run in which this can happen has few events.
    alone = next((limit for limit in plans[0].limits if too_many(encoding.spec, limit, 2)), None)
    idle = ""
    if alone is not None:
        idle = (
            f"every device of this table lacks {alone.lacks}, and plan {plans[0].name} is for "
            f"groups with {alone.count} of those at most: no group has two devices"
        )
    yield dataclasses.replace(group.happens("one-stops", one_stops, PREMISE), idle=idle)


def _g1_search(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    yield from _search([Discipline(encoding, plan) for plan in _begun(encoding)])


# --- G2: the bad ones ---


def _g2(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    for plan in Discipline.marked(encoding, sound=False, after=False):
        yield from _refuted(encoding, plan)


def _refuted(encoding: Encoding, plan: Plan, *, failing: bool = False) -> Iterator[Query]:
    """Two devices that follow a plan come to grief in some run; no shorter one does.

    Both have every capability there is: it is the plan that is wrong, not the devices.
    """
    discipline = Discipline(encoding, plan, failing=failing, words=[max(encoding.machines)])
    group = FiniteGroup(discipline, 2)
    length = shortest_meeting(discipline, 2)
    if length is None:
        text = f"no run of two devices under plan {plan.name} goes wrong"
        yield Query(f"{plan.name}-refuted", "claim", (z3.BoolVal(False),), "sat", _example(text))
        return
    last = length - 1
    wrong = group.unsafe(group.situation(last), group.event(last), group.situation(length))
    yield group.happens(f"{plan.name}-refuted", group.unsafe, length)
    # What a search found is checked by the solver, both that it happens and that nothing shorter
    # does; a claim, so that a plan that does no harm is not passed over as vacuous.
    yield Query(
        f"{plan.name}-goes-wrong",
        "claim",
        group.run(length, wrong),
        "sat",
        _example(f"the run of {length} events that breaks plan {plan.name} does not exist"),
    )
    yield from group.bounded(group.unsafe, last)


# --- G3: devices that cannot be quiesced ---


def _unquiesced(encoding: Encoding) -> set[int]:
    """The capability sets of devices that start DMA to their peers wherever they accept it."""
    spec = encoding.spec
    return {
        word
        for word, machine in encoding.machines.items()
        if not any(
            spec.permits_role(state.name, ACCEPTS) and not spec.permits_role(state.name, STARTS)
            for state in machine.states
        )
    }


def _g3(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    here, there, peer = (encoding.variable(name) for name in ("here", "there", "peer"))
    theirs = z3.BitVec("peer_flags", encoding.flags.size())
    started, starts, runs = (may(encoding, term, STARTS) for term in (here, there, peer))
    plans = Discipline.marked(encoding, sound=True, after=False)
    limited = {limit.lacks for plan in plans for limit in plan.limits}
    unquiesced = _unquiesced(encoding)
    # Every device lacks a capability that the table does not have.
    bits = dict.fromkeys(limited, 0) | {row.name: row.value for row in encoding.spec.capabilities}
    lacking = {name: {word for word in encoding.machines if not word & bits[name]} for name in bits}
    needed = {name for name, words in lacking.items() if words and words <= unquiesced}
    for name in sorted(limited | needed):
        # A limit that no device needs is held against all that it speaks of, and so refuted.
        words = sorted(lacking[name] & unquiesced or lacking[name])
        without = any_of([encoding.flags == word for word in words])
        alike = z3.And(without, encoding.supported(peer))
        two = z3.And(
            without,
            encoding.arc(here, there),
            z3.substitute(alike, (encoding.flags, theirs)),
            z3.Not(_failed(encoding, peer)),
        )
        stops = z3.And(two, started, z3.Not(starts), runs)
        wakes = z3.And(two, z3.Not(started), starts, z3.Not(runs))

        def explain(model: Model, name: str = name) -> Example:
            assert model is not None
            names = [encoding.read_state(model, term) or "?" for term in (here, there, peer)]
            return Example(
                f"without {name}, {names[0]} -> {names[1]} beside a device in {names[2]} is safe"
            )

        def one_of_two(model: Model, name: str = name) -> Example:
            assert model is not None
            names = [encoding.read_state(model, term) or "?" for term in (here, there, peer)]
            return Example(
                f"without {name}, {names[0]} -> {names[1]} stops a device that the one in "
                f"{names[2]} may still start DMA to; a single device without {name} among others "
                f"that have it is safe, if it is stopped before them and started after (G1)"
            )

        safe = z3.Not(meets(encoding, peer, there))
        yield Query(f"two-without-{name}", "claim", (stops, safe), "unsat", explain)
        safe = z3.Not(meets(encoding, there, peer))
        yield Query(f"two-wake-without-{name}", "claim", (wakes, safe), "unsat", explain)
        yield Query(f"one-of-two-without-{name}", "witness", (stops,), "sat", one_of_two)
        yield Query(f"one-of-two-wakes-without-{name}", "witness", (wakes,), "sat", one_of_two)


def _failed(encoding: Encoding, state: Term) -> Formula:
    lost = encoding.spec.event("arc_failed_for_good").to
    return encoding.one_of(state, [lost] if lost is not None else [])


# --- G4, G5: failures, and the way back ---


def _failing(encoding: Encoding) -> list[Discipline]:
    """Every sound plan, and what each side of a migration or of a handover goes through."""
    plans = _begun(encoding) + Discipline.marked(encoding, sound=True, after=True)
    return [Discipline(encoding, plan, failing=True) for plan in plans] + handed_over(encoding)


def _g4(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    for plan in Discipline.marked(encoding, sound=False, after=True):
        yield from _refuted(encoding, plan, failing=True)
    for discipline in _failing(encoding):
        yield from QuantifiedGroup(discipline).inductive()


def _g4_search(encoding: Encoding) -> Iterator[Query]:
    encoding = encoding.widest()
    yield from _search(_failing(encoding))


_GROUPS = "groups of any number of devices, of any mixture of capabilities a plan admits"

GROUP: tuple[Obligation, ...] = (
    Obligation(
        "G1",
        "A manager that quiesces all devices before it stops any, and starts none before all are "
        "quiesced, never lets a running device meet a stopped one.",
        _GROUPS,
        "quantified",
        "Peer-to-peer DMA to a stopped device is lost, or changes a state already copied.",
        _g1,
        _g1_search,
        title="Nobody running meets somebody stopped",
        not_shown="Devices that are not in the group, and DMA begun before a device was quiesced.",
    ),
    Obligation(
        "G2",
        "A manager that moves devices one by one does let a running device meet a stopped one, and "
        "so does one that asks PRE_COPY -> STOP_COPY in a single request on each device.",
        "every plan marked unsound, with two devices that have every capability",
        "bounded",
        "The obvious loop over the devices is wrong; the specification nowhere states it.",
        _g2,
        title="The obvious loops are unsafe",
        not_shown="That every group that is moved so comes to harm: one run that does is shown.",
    ),
    Obligation(
        "G3",
        "Of two devices that cannot be quiesced, neither can be stopped without the other being "
        "able to start DMA to it, nor be started again without being able to start DMA to the "
        "other: no order of arcs makes such a group safe.",
        "every two devices without a capability it takes to be quiesced, or that a plan limits, in "
        "every state",
        "symbolic",
        "QEMU refuses groups with any such device; the model shows that only a second one is too "
        "many.",
        _g3,
        title="Two that cannot be quiesced cannot be moved safely",
        not_shown="That such devices do send DMA to each other; some never will, and nobody can "
        "see that from their capabilities.",
    ),
    Obligation(
        "G4",
        "A device that fails in the middle of a plan lets no running device meet a stopped one, "
        "and the recovery plan never does either; resetting it among stopped devices does.",
        _GROUPS,
        "quantified",
        "A reset device runs at once: where others are stopped, that is one too early.",
        _g4,
        _g4_search,
        title="Failures meet nobody either",
        not_shown="A reset that fails among running devices: see G5.",
    ),
    Obligation(
        "G5",
        "From every situation a plan can be left in, failed devices among them, recovery leads to "
        "all running; from there the save plan leads to all stopped and streaming, and gives up no "
        "session that it opened.",
        f"{_GROUPS}; an arc asked for again and again is taken in the end or fails for good",
        "quantified",
        "A manager that was killed half-way must never leave a group without a way on.",
        arrivals,
        title="There is a way on from everywhere",
        not_shown="How long it takes, and that the devices answer: one that hangs is given up by "
        "the one that waits.",
    ),
    Obligation(
        "G6",
        "A destination is loaded whole or not at all: under a sound plan no device of it does "
        "anything before every other has taken its state over.",
        f"{_GROUPS}; no arc fails for good",
        "symbolic",
        "As long as nothing at the destination has run, a refused stream leaves the source to go "
        "back to.",
        loaded_together,
        title="A destination is loaded whole",
        not_shown="Devices that run before their state is complete by design, as post-copy would "
        "have it.",
    ),
    Obligation(
        "G7",
        "A migration that nobody disturbs ends with the destination; whichever process is killed "
        "at whatever point of it or of a recovery: as long as the source holds the whole state, or "
        "the destination does and the journal records it, recovery brings one side to run with the "
        "whole state and stops the other; never do both run with it, never does a device run "
        "on a state that it was not given whole, and never is one given a stream that is made of "
        "two.",
        "groups of any number of devices of any mixture of capabilities on either side; every "
        "migration and every handover; destinations that accept whatever they were given and "
        "destinations that refuse what is whole; source, destination and coordinator killed at any "
        "point, in any combination and again and again",
        "quantified",
        "A machine that runs twice, or not at all, is the worst a migration can do.",
        handovers,
        handovers_search,
        title="One side runs, with the whole state",
        not_shown="Faults of disks and of memory, a journal that is lost or copied, a server that "
        "lies about its state, and hosts that cannot reach each other: there a person "
        "decides with --keep.",
    ),
    Obligation(
        "G8",
        "Pre-copy happens: where a migration transfers while its sources run, everything that can "
        "stream while it runs does, and some migration does so.",
        "every migration, and every capability set of a source, whatever has failed before",
        "symbolic",
        "A plan that only stops and copies is safe, and takes the guest's time for all of it.",
        pre_copied,
        title="Pre-copy happens",
        not_shown="That it helps: a device that changes faster than it is read gains nothing by "
        "it.",
    ),
)
"""Family G, in the order of DESIGN.md, and G8."""
