"""The stream of one session: its bytes in order (S2), its estimates and its end (S3)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import z3

from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.system import Bad, Event, Lemma, Situation, System, Term
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.migration import MigrationSystem

DEPTH = 7
Queries = Callable[[Encoding], Iterable[Query]]


class _SourceSystem(System):
    """What both systems here share: a source that moves along arcs, and how a run reads."""

    sentences: Mapping[str, str]

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.migration = MigrationSystem.of(encoding)
        self.device = self.migration.device

    @functools.cached_property
    def facts(self) -> Formula:
        """The capability set is one of the profile."""
        return self.encoding.universe

    def reads(self, state: Term) -> Formula:
        """In this state the client reads."""
        return self.device.streams(state, "read")

    def example_of(
        self, model: z3.ModelRef, run: Sequence[Situation], events: Sequence[str]
    ) -> Example:
        """Return a run, one sentence per event."""
        encoding = self.encoding
        parts = []
        for now, then, name in zip(run, run[1:], events, strict=False):
            if name == "arc":
                here = encoding.read_state(model, now["source"])
                parts.append(f"arc {here} -> {encoding.read_state(model, then['source'])}")
            else:
                parts.append(self.sentences[name])
        flags = encoding.set_name(encoding.read_flags(model))
        return Example(f"{'; '.join(parts)} (capabilities {flags})")


class SegmentationSystem(_SourceSystem):
    """A byte of the stream on its way from the source to the destination.

    The byte at index `byte` of what the client carries stands for all. A reply to a read may be
    lost: it was not wanted, or the client hung up before it was sent, and another reads on. Whether
    the stream has moved on then is `forgets` of the command in the table of the connection. Replies
    arrive in the order in which they are made, so none that is received comes after one that is
    lost, and both can be decided when the reply is made. The variables:
        source: Where the source is.
        number, position: Which session it has open, and how many bytes of it were read.
        mine: The session the client believes it reads.
        read, written, taken: Bytes read by the client, written by it, taken in by the destination.
        held_number, held_at: Where the byte came from, as the client holds it.
        kept_number, kept_at: The same, as the destination has it.
    """

    events = ("arc", "read", "write", "lost")
    sentences = {  # noqa: RUF012 - never changed
        "read": "the client reads some bytes",
        "write": "the client writes some bytes to the destination",
        "lost": "a reply with some bytes is not sent",
    }

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        counts = ("number", "position", "mine", "read", "written", "taken", "byte")
        origins = ("held_number", "held_at", "kept_number", "kept_at")
        numbers = dict.fromkeys((*counts, *origins), z3.IntSort())
        self.sorts = {"source": encoding.state_sort} | numbers
        self.forgets = {row.forgets for row in encoding.wire.commands if row.transfer == "read"}

    @classmethod
    def of(cls, encoding: Encoding) -> SegmentationSystem:
        """The system of this encoding, made once."""
        return encoding.once(cls.__name__, lambda: cls(encoding))

    def start(self, now: Situation) -> Formula:
        """No session was ever open."""
        zero = ("number", "position", "mine", "read", "written", "taken")
        return z3.And(
            now["source"] == self.encoding.state(self.encoding.spec.initial),
            *(now[name] == 0 for name in zero),
            now["byte"] >= 0,
        )

    def transitions(self, now: Situation, choose: Callable[[str, z3.SortRef], Term]) -> list[Event]:
        """The source moves, the client reads and writes pieces of any size, a reply is lost."""
        onward = choose("onward", self.encoding.state_sort)
        size = choose("size", z3.IntSort())
        opens = self.device.effect(now["source"], onward, "opens")
        begins = z3.And(self.reads(onward), z3.Not(self.reads(now["source"])))
        number = z3.If(opens, now["number"] + 1, now["number"])
        byte = now["byte"]
        reads = z3.And(now["read"] <= byte, byte < now["read"] + size)
        takes = z3.And(now["taken"] <= byte, byte < now["taken"] + size)
        # What is taken in at an index is what was held there, as long as nobody lost count.
        in_step = now["taken"] == now["written"]
        zero, lost = z3.IntVal(0), z3.IntVal(-1)
        moved = zero if self.forgets == {"nothing"} else size

        def anew(name: str) -> Term:
            return z3.If(begins, zero, now[name])

        return [
            Event(
                "arc",
                self.encoding.arc(now["source"], onward),
                {
                    "source": onward,
                    "number": number,
                    "position": z3.If(opens, zero, now["position"]),
                    "mine": z3.If(begins, number, now["mine"]),
                    "read": anew("read"),
                    "written": anew("written"),
                    "taken": anew("taken"),
                },
            ),
            Event(
                "read",
                z3.And(self.reads(now["source"]), size > 0),
                {
                    "read": now["read"] + size,
                    "position": now["position"] + moved,
                    "held_number": z3.If(reads, now["number"], now["held_number"]),
                    "held_at": z3.If(reads, now["position"] + byte - now["read"], now["held_at"]),
                },
            ),
            Event(
                "write",
                z3.And(size > 0, size <= now["read"] - now["written"]),
                {
                    "written": now["written"] + size,
                    "taken": now["taken"] + size,
                    "kept_number": z3.If(
                        takes, z3.If(in_step, now["held_number"], lost), now["kept_number"]
                    ),
                    "kept_at": z3.If(takes, z3.If(in_step, now["held_at"], lost), now["kept_at"]),
                },
            ),
            Event(
                "lost",
                z3.And(self.reads(now["source"]), size > 0),
                {"position": now["position"] + (size if "when_served" in self.forgets else zero)},
            ),
        ]

    @functools.cached_property
    def lemmas(self) -> list[Lemma]:
        """What the proof leans on."""
        return [
            Lemma(
                "in-step",
                "source and client agree how far they are, client and destination too",
                lambda now: z3.And(
                    now["byte"] >= 0,
                    now["written"] >= 0,
                    now["taken"] == now["written"],
                    now["written"] <= now["read"],
                    z3.Or(z3.Not(self.reads(now["source"])), now["position"] == now["read"]),
                    z3.Or(z3.Not(self.reads(now["source"])), now["number"] == now["mine"]),
                ),
            ),
            Lemma(
                "held-right",
                "a byte the client holds came from the same place of the session it reads",
                lambda now: z3.Implies(
                    now["byte"] < now["read"],
                    z3.And(now["held_number"] == now["mine"], now["held_at"] == now["byte"]),
                ),
            ),
            Lemma(
                "kept-right",
                "a byte the destination took came from the same place of that session",
                lambda now: z3.Implies(
                    now["byte"] < now["taken"],
                    z3.And(now["kept_number"] == now["mine"], now["kept_at"] == now["byte"]),
                ),
            ),
        ]

    def misplaced(self, _now: Situation, _event: Term, then: Situation) -> Formula:
        """The destination has a byte of another session, or from another place."""
        right = z3.And(then["kept_number"] == then["mine"], then["kept_at"] == then["byte"])
        return z3.And(then["byte"] < then["taken"], z3.Not(right))

    def in_pieces(self, now: Situation, event: Term, then: Situation) -> Formula:
        """A byte arrives in a later piece than the first, cut other than it was read."""
        return z3.And(
            self.is_event(event, "write"),
            now["taken"] > 0,
            now["taken"] <= now["byte"],
            then["taken"] > now["byte"],
            then["taken"] < now["read"],
        )

    def arrives(self, now: Situation, event: Term, then: Situation) -> Formula:
        """The byte arrives, the first of its session."""
        return z3.And(
            self.is_event(event, "write"),
            now["byte"] == 0,
            now["taken"] == 0,
            then["taken"] > 0,
            then["kept_at"] == 0,
        )


def segmentation() -> tuple[Queries, Queries]:
    """S2: queries and search."""

    def queries(encoding: Encoding) -> Iterator[Query]:
        system = SegmentationSystem.of(encoding)
        yield from system.inductive(system.lemmas)
        yield from system.never("misplaced", system.misplaced, system.lemmas)
        moves = z3.Not(system.is_event(system.event(0), "write"))
        yield system.happens("in-pieces", system.in_pieces, 5, moves)
        # A reply is lost, and what it carried arrives all the same.
        lost_first = system.is_event(system.event(2), "lost")
        yield system.happens("after-a-loss", system.arrives, 5, lost_first)

    def search(encoding: Encoding) -> Iterator[Query]:
        system = SegmentationSystem.of(encoding)
        yield from system.bounded(system.misplaced, DEPTH)

    return queries, search


class EstimateSystem(_SourceSystem):
    """What a device reports is left to read, and the end of its stream.

    The variables:
        source: Where the source is.
        initial, dirty: initial_bytes and dirty_bytes.
        asked: The client opted in to be notified of new initial data.
        ended: The client was notified that the stream is over for good.
    """

    events = ("arc", "change", "read", "opt_in", "reinit", "end_temporary", "end_final")
    sentences = {  # noqa: RUF012 - never changed
        "change": "the source changes its state",
        "read": "the client reads",
        "opt_in": "the client asks to be notified of new initial data",
        "reinit": "the source announces new initial data",
        "end_temporary": "the source: nothing to read for now",
        "end_final": "the source: this is the end of the stream",
    }

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.sorts = {
            "source": encoding.state_sort,
            "initial": z3.IntSort(),
            "dirty": z3.IntSort(),
            "asked": z3.BoolSort(),
            "ended": z3.BoolSort(),
        }

    @classmethod
    def of(cls, encoding: Encoding) -> EstimateSystem:
        """The system of this encoding, made once."""
        return encoding.once(cls.__name__, lambda: cls(encoding))

    def start(self, now: Situation) -> Formula:
        """No session is open, nobody asked for anything."""
        return z3.And(
            now["source"] == self.encoding.state(self.encoding.spec.initial),
            now["initial"] == 0,
            now["dirty"] == 0,
            z3.Not(now["asked"]),
            z3.Not(now["ended"]),
        )

    def informs(self, state: Term) -> Formula:
        """In this state the client may ask how much is left."""
        spec = self.encoding.spec
        names = [
            row.name
            for row in spec.states
            if (end := spec.stream_end(row.name)) is not None and end.precopy_info
        ]
        return self.encoding.one_of(state, names)

    def transitions(self, now: Situation, choose: Callable[[str, z3.SortRef], Term]) -> list[Event]:
        """The source moves, changes and announces; the client reads and opts in."""
        source = now["source"]
        onward = choose("onward", self.encoding.state_sort)
        size = choose("size", z3.IntSort())
        opens = z3.And(self.device.effect(source, onward, "opens"), self.reads(onward))
        keeps = z3.And(self.device.effect(source, onward, "keeps"), self.reads(onward))
        zero, no = z3.IntVal(0), z3.BoolVal(False)
        # Entering the last phase, a device may have more to state than it estimated before.
        more = z3.If(self.migration.ends(onward, "final"), size, zero)
        first = z3.If(size < now["initial"], size, now["initial"])
        drained = z3.And(self.reads(source), now["initial"] == 0, now["dirty"] == 0)
        return [
            Event(
                "arc",
                z3.And(self.encoding.arc(source, onward), size >= 0),
                {
                    "source": onward,
                    "initial": z3.If(opens, size, z3.If(keeps, now["initial"], zero)),
                    "dirty": z3.If(keeps, now["dirty"] + more, zero),
                    "ended": z3.If(keeps, now["ended"], no),
                },
            ),
            Event(
                "change",
                z3.And(self.reads(source), self.migration.grows(source), size > 0),
                {"dirty": now["dirty"] + size},
            ),
            Event(
                "read",
                z3.And(self.reads(source), size > 0, size <= now["initial"] + now["dirty"]),
                {
                    "initial": now["initial"] - first,
                    "dirty": now["dirty"] - (size - first),
                },
            ),
            Event("opt_in", z3.BoolVal(True), {"asked": z3.BoolVal(True)}),
            Event(
                "reinit",
                z3.And(self.informs(source), now["asked"], size >= 0),
                {"initial": size, "dirty": zero},
            ),
            Event("end_temporary", z3.And(drained, self.migration.ends(source, "temporary"))),
            Event(
                "end_final",
                z3.And(drained, self.migration.ends(source, "final")),
                {"ended": z3.BoolVal(True)},
            ),
        ]

    @functools.cached_property
    def lemmas(self) -> list[Lemma]:
        """What the proof leans on."""
        return [
            Lemma(
                "counts",
                "what is left is never negative",
                lambda now: z3.And(now["initial"] >= 0, now["dirty"] >= 0),
            ),
            Lemma(
                "over-is-over",
                "after a final end the source is where its stream ends, with nothing left",
                lambda now: z3.Implies(
                    now["ended"],
                    z3.And(
                        self.migration.ends(now["source"], "final"),
                        z3.Not(self.migration.grows(now["source"])),
                        z3.Not(self.informs(now["source"])),
                        now["initial"] == 0,
                        now["dirty"] == 0,
                    ),
                ),
            ),
        ]

    def wrong(self, now: Situation, event: Term, then: Situation) -> Formula:
        """More comes after a final end, or the estimate rises unannounced."""
        opens = z3.And(self.is_event(event, "arc"), z3.Not(self.reads(now["source"])))
        after_end = z3.And(now["ended"], then["ended"], then["initial"] + then["dirty"] > 0)
        both = z3.And(self.is_event(event, "end_final"), self.migration.grows(now["source"]))
        rises = z3.And(
            then["initial"] > now["initial"], z3.Not(self.is_event(event, "reinit")), z3.Not(opens)
        )
        unasked = z3.And(self.is_event(event, "reinit"), z3.Not(now["asked"]))
        return any_of([after_end, both, rises, unasked])

    def ends_differ(self) -> Query:
        """The end is temporary, and the client may ask how much is left, where more may come."""
        encoding, state = self.encoding, self.encoding.variable("state")
        more = self.migration.grows(state)
        waits = self.migration.ends(state, "temporary") != more
        asks = self.informs(state) != more
        known = z3.And(encoding.universe, encoding.supported(state), self.reads(state))

        def explain(model: z3.ModelRef | None) -> Example:
            assert model is not None
            name = encoding.read_state(model, state) or "?"
            end = encoding.spec.stream_end(name)
            assert end is not None
            may = "may" if z3.is_true(model.eval(more)) else "may not"
            can = "can" if end.precopy_info else "cannot"
            return Example(
                f"in {name} the device {may} change itself, but the end of its stream is "
                f"{end.kind} and the client {can} ask how much is left"
            )

        return Query("ends-differ", "claim", (known, z3.Or(waits, asks)), "unsat", explain)

    def paused(self, now: Situation, event: Term, _then: Situation) -> Formula:
        """A client that was asked to wait reads on after new data came."""
        return z3.And(self.is_event(event, "read"), now["dirty"] > 0, now["initial"] == 0)


def estimates() -> tuple[Queries, Queries]:
    """S3: queries and search."""

    def queries(encoding: Encoding) -> Iterator[Query]:
        system = EstimateSystem.of(encoding)
        wrong: Bad = system.wrong
        yield system.ends_differ()
        yield from system.inductive(system.lemmas)
        yield from system.never("wrong", wrong, system.lemmas)
        paused = system.is_event(system.event(2), "end_temporary")
        ends = (encoding.spec.stream_end(row.name) for row in encoding.spec.states)
        temporary = any(end is not None and end.kind == "temporary" for end in ends)
        idle = "" if temporary else "no state of this table has a temporary end of stream"
        yield replace(system.happens("paused", system.paused, 5, paused), idle=idle)

    def search(encoding: Encoding) -> Iterator[Query]:
        system = EstimateSystem.of(encoding)
        yield from system.bounded(system.wrong, DEPTH)

    return queries, search
