"""DMA logging (S6): what was written since it was last reported is reported.

One address stands for all. Tracking marks whole pages; a report covers any range with pages of any
other size, and forgets what it has reported. There are two traps. One is a report that covers part
of a tracking page: who forgets the page then has lost the rest of it. The other is a report that
nobody gets, because no reply was wanted or the client hung up before it was sent: what it reported
must be reported again. When the server forgets is `forgets` of the feature in the table of the
connection.

Replies arrive in the order in which they are made, so those that have not been received are
received or lost together: one that arrives earlier could as well have arrived before the next was
made, and what comes after a lost one is lost too.

The run is proved over whole numbers, with a tracking page as any stretch of addresses around the
one under watch and the number of a bit as any function of the offset that keeps its order. That
64-bit arithmetic with page sizes that are powers of two is of this kind, is proved beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import z3

from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.system import Event, Lemma, Situation, System, Term

WIDTH = 64
DEPTH = 4
Queries = Callable[[Encoding], Iterable[Query]]


class DmaLogSystem(System):
    """A logger and one address.

    The variables:
        address: The address under watch; it never changes.
        first, last: Where its tracking page begins and ends; they never change.
        marked: The address's tracking page is marked.
        unreported: The address was written, and no report that was received or may yet be received
            reported since.
        reported: The address was written, and a report that may yet be received has it.
        carried: A report that may yet be received made the logger forget the tracking page.
    """

    events: tuple[str, ...] = ("write", "report", "received", "lost")
    careless = False
    """Whether a report forgets a tracking page of which it covered a part only."""
    eager = False
    """Whether a report that is lost stays forgotten, whatever the table specifies."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.sorts = {
            "address": z3.IntSort(),
            "first": z3.IntSort(),
            "last": z3.IntSort(),
            "marked": z3.BoolSort(),
            "unreported": z3.BoolSort(),
            "reported": z3.BoolSort(),
            "carried": z3.BoolSort(),
        }
        self.forgets = {row.forgets for row in encoding.wire.features if row.logging == "needs"}

    @functools.cached_property
    def facts(self) -> Formula:
        """Nothing of the table matters here: any state may write, and none may be forgotten."""
        return z3.BoolVal(True)

    def start(self, now: Situation) -> Formula:
        """Logging begins: nothing was written."""
        flags = ("marked", "unreported", "reported", "carried")
        return z3.And(*(z3.Not(now[name]) for name in flags), _page_holds(now))

    def transitions(self, now: Situation, choose: Callable[[str, z3.SortRef], Term]) -> list[Event]:
        """The device writes anywhere; the client asks for any range, and gets the reply or not."""
        number = z3.IntSort()
        written, low, high = (choose(name, number) for name in ("written", "low", "high"))
        first, last = now["first"], now["last"]
        same_page = z3.And(first <= written, written <= last)
        covered = z3.And(low <= first, last <= high)
        touched = z3.And(low <= last, first <= high)
        inside = z3.And(low <= now["address"], now["address"] <= high)
        forgets = touched if self.careless else covered
        if self.forgets == {"nothing"}:
            forgets = z3.BoolVal(False)
        comes_back = z3.BoolVal("when_served" not in self.forgets and not self.eager)
        no = z3.BoolVal(False)
        return [
            Event(
                "write",
                z3.BoolVal(True),
                {
                    "marked": z3.Or(now["marked"], same_page),
                    "unreported": z3.Or(now["unreported"], written == now["address"]),
                },
            ),
            Event(
                "report",
                low <= high,
                {
                    "marked": z3.And(now["marked"], z3.Not(forgets)),
                    "unreported": z3.And(now["unreported"], z3.Not(inside)),
                    "reported": z3.Or(now["reported"], z3.And(now["unreported"], inside)),
                    "carried": z3.Or(now["carried"], z3.And(now["marked"], forgets)),
                },
            ),
            Event("received", z3.BoolVal(True), {"reported": no, "carried": no}),
            Event(
                "lost",
                z3.BoolVal(True),
                {
                    "marked": z3.Or(now["marked"], z3.And(now["carried"], comes_back)),
                    "unreported": z3.Or(now["unreported"], now["reported"]),
                    "reported": no,
                    "carried": no,
                },
            ),
        ]

    def reported_again(self, now: Situation, event: Term, then: Situation) -> Formula:
        """A report has the address again; the one that had it before was lost."""
        return z3.And(self.reported(now, event, then), z3.Not(now["reported"]))

    def _report(self, now: Situation, event: Term) -> tuple[Formula, Formula]:
        """Of the report of this event: it covers the address; the bit that stands for it is set.

        A marked page sets every bit from that of its first reported address to that of its last.
        Bits are numbered from the start of the range, in the order of the addresses.
        """
        moment = str(event).partition("@")[2]
        low, high, size = (z3.Int(f"{name}@{moment}") for name in ("low", "high", "size"))
        address, first, last = now["address"], now["first"], now["last"]
        begin = z3.If(first < low, low, first)
        end = z3.If(high < last, high, last)
        bit = z3.Function("bit", z3.IntSort(), z3.IntSort(), z3.IntSort())
        ends = [(begin, address), (address, end)]
        in_order = [
            z3.Implies(before <= after, bit(size, before - low) <= bit(size, after - low))
            for before, after in ends
        ]
        mine = bit(size, address - low)
        includes = z3.And(
            now["marked"], bit(size, begin - low) <= mine, mine <= bit(size, end - low)
        )
        covers = z3.And(self.is_event(event, "report"), low <= address, address <= high)
        return z3.And(covers, *in_order), includes

    def missed(self, now: Situation, event: Term, _then: Situation) -> Formula:
        """A report covers the address, which was written, and its bit is clear."""
        covers, includes = self._report(now, event)
        return z3.And(covers, now["unreported"], z3.Not(includes))

    def reported(self, now: Situation, event: Term, _then: Situation) -> Formula:
        """A report covers the address, which was written, and its bit is set."""
        covers, includes = self._report(now, event)
        return z3.And(covers, now["unreported"], includes)

    @functools.cached_property
    def lemmas(self) -> list[Lemma]:
        """What the proof leans on."""
        return [
            Lemma(
                "unreported-is-marked",
                "the tracking page of an address with something to report is marked",
                lambda now: z3.And(_page_holds(now), z3.Implies(now["unreported"], now["marked"])),
            ),
            Lemma(
                "reported-comes-back",
                "the tracking page of an address that a reply has, which may yet be lost, is "
                "marked, or will be again if it is",
                lambda now: z3.Implies(now["reported"], z3.Or(now["marked"], now["carried"])),
            ),
        ]

    def example_of(
        self, model: z3.ModelRef, run: Sequence[Situation], events: Sequence[str]
    ) -> Example:
        """Return a run with its numbers."""

        def number(term: Term) -> int:
            return int(model.eval(term, model_completion=True).as_long())

        parts = []
        for moment, name in enumerate(events):
            written, low, high = (
                number(z3.Int(f"{key}@{moment}")) for key in ("written", "low", "high")
            )
            parts.append(
                {
                    "write": f"DMA writes {written}",
                    "report": f"a report covers {low} to {high}",
                    "received": "the client receives the report",
                    "lost": "the report is not sent",
                }[name]
            )
        begin = run[0]
        return Example(
            f"address {number(begin['address'])}, tracked by the page from "
            f"{number(begin['first'])} to {number(begin['last'])}: {'; '.join(parts)}"
        )


class CarelessLogSystem(DmaLogSystem):
    """A logger that forgets a tracking page as soon as any part of it was reported."""

    careless = True


class EagerLogSystem(DmaLogSystem):
    """A logger that has forgotten for good what a report has, received or not."""

    eager = True


def _page_holds(now: Situation) -> Formula:
    """The tracking page of the address holds it."""
    return z3.And(now["first"] <= now["address"], now["address"] <= now["last"])


def _arithmetic() -> Iterator[Query]:
    """What the run takes for granted of 64-bit addresses and pages whose size is a power of two."""
    earlier, later, shift = z3.BitVecs("earlier later shift", WIDTH)
    yield Query(
        "bits-in-order",
        "claim",
        (z3.ULE(earlier, later), z3.UGT(z3.LShR(earlier, shift), z3.LShR(later, shift))),
        "unsat",
        lambda _: Example("a later address has an earlier bit"),
    )
    below = (z3.BitVecVal(1, WIDTH) << shift) - 1
    first, last = earlier & ~below, earlier | below
    yield Query(
        "page-holds-address",
        "claim",
        (z3.ULT(shift, WIDTH), z3.Or(z3.UGT(first, earlier), z3.UGT(earlier, last))),
        "unsat",
        lambda _: Example("a page does not hold its own address"),
    )


def dma_logging() -> tuple[Queries, Queries]:
    """S6: queries and search."""

    def queries(encoding: Encoding) -> Iterator[Query]:
        system = encoding.once("DmaLogSystem", lambda: DmaLogSystem(encoding))
        careless = encoding.once("CarelessLogSystem", lambda: CarelessLogSystem(encoding))
        eager = encoding.once("EagerLogSystem", lambda: EagerLogSystem(encoding))
        yield from _arithmetic()
        yield from system.inductive(system.lemmas)
        yield from system.never("missed", system.missed, system.lemmas)
        yield system.happens("reported", system.reported, 2)
        names = ("write", "report", "lost", "report")
        order = [system.is_event(system.event(at), name) for at, name in enumerate(names)]
        covered = system.situation(2)["reported"]
        yield system.happens("reported-again", system.reported_again, 4, *order, covered)
        # The obligation can be broken: by a logger that forgets too much, or too early.
        yield careless.happens("a-careless-logger-misses", careless.missed, 3)
        yield eager.happens("an-eager-logger-misses", eager.missed, 4)

    def search(encoding: Encoding) -> Iterator[Query]:
        system = encoding.once("DmaLogSystem", lambda: DmaLogSystem(encoding))
        yield from system.bounded(system.missed, DEPTH)

    return queries, search
