"""What must be left of a migration in which somebody was killed, and who tries it all.

`judge` holds what a rig found against what is guaranteed. A `RigPool` has rigs try points, as many
at a time as there are processors.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

from support import environment

RIGS = 2

GROUPS = (("edu",), ("edu", "memory"), ("edu", "edu"), ("blob",), ("edu", "blob"))
MIGRATIONS = ("live", "offline")

Order = dict
Found = dict


class BrokenRunError(AssertionError):
    """What a recovery guarantees did not hold."""


@dataclass(frozen=True)
class Verdict:
    """What came of a point.

    Attributes:
        fired: Whether all were killed; if not, there is no such boundary any more.
        outcome: Who runs: "source", "destination"; "lost" if nobody holds the state any more; and
            "over" if who was killed had no part in the migration any more.
    """

    fired: bool
    outcome: str


def names(order: Order) -> list[str]:
    return [f"{side}{i}" for i in range(len(order["kinds"])) for side in "sd"]


def scenarios() -> Iterator[Order]:
    """Every migration, group and single victim."""
    for migration in MIGRATIONS:
        for kinds in GROUPS:
            order = {"migration": migration, "kinds": list(kinds)}
            for victim in ("coordinator", *names(order)):
                yield {**order, "victims": [victim]}


# --- what is guaranteed ---


@dataclass
class Streams:
    """How far the streams had come at a boundary, by what was seen until then."""

    read: set[str] = field(default_factory=set)
    """Sources whose final end had been read, and confirmed by a read that brought nothing."""
    waiting: Counter[str] = field(default_factory=Counter)
    """Pieces that were read, and not yet acknowledged by the destination, by device."""
    judged: bool = False
    """A destination was asked to take its state over: that all was delivered is written down."""

    @classmethod
    def until(cls, seen: list[list]) -> Streams:
        found = cls()
        stopped: set[str] = set()
        loading: set[str] = set()
        for what, peer, about, errno in seen:
            if what == "command":
                found.judged |= peer in loading and about == "SET STATE STOP"
                continue
            if errno is not None:
                continue
            if about == "SET STATE RESUMING":
                loading.add(peer)
            if about == "SET STATE STOP_COPY":
                stopped.add(peer)
            elif about == "WRITE":
                found.waiting[peer[1:]] -= 1
            elif about.startswith("READ "):
                got = int(about.removeprefix("READ ").split("/")[0])
                found.waiting[peer[1:]] += got > 0
                if peer in stopped and not got:
                    found.read.add(peer)
        return found

    def delivered(self, count: int) -> bool:
        """Whether the destinations have acknowledged all of it, and that is written down."""
        acknowledged = len(self.read) == count and not any(self.waiting.values())
        return acknowledged and self.judged


def has_done_its_part(name: str, run: dict) -> bool:
    """Whether a server that was killed in a run had answered all that it was asked there."""
    reported = run["reported"]
    if reported is None or reported["outcome"] not in ("done", "source", "destination"):
        return False
    if any(
        f"/{name}" in word
        for word in (*reported.get("not_stopped", ()), *reported.get("hints", ()))
    ):
        return False  # it was missed
    mine = Counter(what for what, peer, _, _ in run["seen"] if peer == name)
    return mine["reply"] > 0 and mine["reply"] == mine["command"]


def may_be_lost(order: Order, runs: list[dict]) -> bool:
    """Whether the state may be lost: somebody was killed who alone had some of it."""
    count = len(order["kinds"])
    migration = runs[0]
    at_death = Streams.until(migration["seen"][: order["at"] + 1])
    for run in runs:
        sources = {name for name in run["killed"] if name[0] == "s"}
        if not sources:
            continue
        if any(name[0] == "d" for one in runs for name in one["killed"]):
            return True
        if run is migration and "coordinator" not in order["victims"]:
            # What the coordinator has read of the others it can still read.
            if not sources <= at_death.read:
                return True
        elif not at_death.delivered(count):
            return True
    return False


def judge(order: Order, found: Found) -> Verdict:
    """Hold what was found against what is guaranteed.

    Raises:
        BrokenRunError: Something is not as guaranteed.
    """
    try:
        return _judge(order, found)
    except AssertionError as error:
        raise BrokenRunError(f"{error}\n{json.dumps(order)}\n{described(found)}") from None


def _judge(order: Order, found: Found) -> Verdict:
    migration, *recoveries = runs = [found["migration"], *found["recoveries"]]
    at, seen = order.get("at"), migration["seen"]
    fired = at is not None and len(seen) > at
    kills = order.get("recovery_kills", ())
    all_fired = fired and all(
        len(run["seen"]) > when for (when, _), run in zip(kills, recoveries, strict=False)
    )
    killed = {name for run in runs for name in run["killed"]}

    # Nothing is left behind, and nobody fell over.
    assert found["files"] == [], "files are left"
    assert found["processes"] == [], "processes are left"
    counts = found["descriptors"].items()
    assert [name for name, (before, after) in counts if before != after] == [], "descriptors"
    assert {name for name in found["logs"] if name[0] not in "sd"} == set(), "somebody fell over"
    suicides = [fired and "coordinator" in order["victims"]] + [
        "coordinator" in whom and len(run["seen"]) > when
        for (when, whom), run in zip(kills, recoveries, strict=False)
    ]
    for run, suicide in itertools.zip_longest(runs, suicides, fillvalue=False):
        assert run["status"] == (-9 if suicide else 0), "who was not killed came to no end"

    # Who runs.
    names_ = set(names(order))
    there = {name for name in names_ if found["states"][name] is not None}
    again = set(found["restarted"])
    assert there == names_ - (set(runs[-1]["killed"]) if order.get("restart", True) else killed)
    running = set(found["whole"])
    done = {name for run in runs for name in run["killed"] if has_done_its_part(name, run)}
    side = {"s": "source", "d": "destination"}
    reported = recoveries[-1]["reported"]["outcome"]
    if done:
        assert done == killed
        before = next(run for run in runs if run["killed"])["reported"]["outcome"]
        winner = {"done": "destination"}.get(before, before)
        mine = {name for name in names_ if side[name[0]] == winner}
        assert running == (mine & there) | again, "who runs"
        assert all(found["whole"][name] for name in mine - killed), "some of the state is lost"
        assert not any(found["whole"][name] for name in again)
        # Who comes later finds no journal, and no server or one that runs blank.
        recorded = there == names_ and running <= mine
        assert reported == (winner if recorded or runs[-1]["killed"] else "refused")
        return Verdict(all_fired, "over")
    sources, destinations = ({name for name in running if name[0] == one} for one in ("s", "d"))
    assert reported in ("source", "destination", "lost"), "recovery does not state who runs"
    winner = "destination" if reported == "destination" else "source"
    mine = {name for name in there if side[name[0]] == winner}
    assert running == mine, f"{winner} is to run"
    assert not (sources and destinations)
    if reported == "lost":
        assert may_be_lost(order, runs), "the state is lost, and need not be"
        lost = {name for name in mine if not found["whole"][name]}
        assert lost == mine & killed, "more is lost than was killed"
    else:
        assert mine, "nobody runs"
        assert all(found["whole"][name] for name in mine), "some of the state is lost"
    _check_words(order, migration, fired)
    return Verdict(all_fired, reported)


def _check_words(order: Order, migration: dict, fired: bool) -> None:
    """The message states what happened where, and what to do."""
    reported = migration["reported"]
    if reported is None:
        return
    if not fired:
        assert reported == {"outcome": "done", "not_stopped": []}
        return
    words = " ".join(
        map(
            str, (reported.get("why"), *reported.get("hints", ()), *reported.get("not_stopped", ()))
        )
    )
    assert any(f"/{name}:" in words or words.endswith(f"/{name}") for name in order["victims"]), (
        "the message does not state who is gone"
    )
    if migration["journal"] and reported["outcome"] != "done":
        assert "vfio-migration recover" in words, "the message does not state what to do"


def described(found: Found) -> str:
    """What was found, to be read."""
    lines = []
    for run in (found["migration"], *found["recoveries"]):
        lines.append(f"status {run['status']}, killed {run['killed']}, journal {run['journal']}")
        lines.append(f"  said {run['reported']}")
        seen = [(i, *row) for i, row in enumerate(run["seen"])]
        lines += [f"    {' '.join(str(x) for x in row if x is not None)}" for row in seen[-40:]]
    rest = {name: value for name, value in found.items() if name not in ("migration", "recoveries")}
    lines += [f"{name}: {value}" for name, value in rest.items()]
    return "\n".join(lines)


# --- who tries it ---


class RigPool:
    """Rigs, one point each at a time. A context, at the end of which they are gone."""

    def __init__(self, rigs: int = RIGS) -> None:
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._rigs = [
            subprocess.Popen(
                [sys.executable, "-m", "support.kill_rig"],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(rigs)
        ]
        for rig in self._rigs:
            self._free.put(rig)
        self._pool = ThreadPoolExecutor(rigs)

    def __enter__(self) -> RigPool:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for rig in self._rigs:
            rig.communicate(timeout=60)
            assert rig.returncode == 0

    def find(self, order: Order) -> Found:
        """Have one point tried."""
        rig = self._free.get()
        try:
            assert rig.stdin is not None
            assert rig.stdout is not None
            rig.stdin.write(json.dumps(order) + "\n")
            rig.stdin.flush()
            answer = rig.stdout.readline()
        finally:
            self._free.put(rig)
        assert answer, f"a rig fell over: {order}"
        return json.loads(answer)

    def finds(self, orders: Iterable[Order]) -> Iterator[Found]:
        """Have points tried, in parallel."""
        return self._pool.map(self.find, orders)

    def verdicts(self, orders: Iterable[Order]) -> Iterator[tuple[Order, Verdict | BrokenRunError]]:
        """Have points tried, in parallel; yields them in their order."""
        orders = list(orders)
        yield from zip(orders, self._pool.map(self._verdict, orders), strict=True)

    def _verdict(self, order: Order) -> Verdict | BrokenRunError:
        try:
            return judge(order, self.find(order))
        except BrokenRunError as broken:
            return broken

    def walk(self, scenario: Order) -> Iterator[tuple[Order, Verdict | BrokenRunError]]:
        """Try a scenario at each boundary, until there is none any more.

        If the scenario says `at`, it is the boundaries of the first recovery that are tried.
        """
        number = 0
        while True:
            order = {**scenario}
            if "at" in scenario:
                first, *rest = scenario["recovery_kills"]
                order["recovery_kills"] = [[number, first[1]], *rest]
            else:
                order["at"] = number
            verdict = self._verdict(order)
            if isinstance(verdict, Verdict) and not verdict.fired:
                return
            yield order, verdict
            number += 1

    def walks(self, scenarios: Iterable[Order]) -> Iterator[tuple[Order, Verdict | BrokenRunError]]:
        """Walk through scenarios, in parallel."""
        for found in self._pool.map(lambda one: list(self.walk(one)), scenarios):
            yield from found


class Table:
    """Counts points by who was killed and what came of it."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int, str], Counter[str]] = {}
        self.broken: list[BrokenRunError] = []

    def add(self, order: Order, verdict: Verdict | BrokenRunError) -> None:
        who = _called(order["victims"])
        for _, whom in order.get("recovery_kills", ()):
            who += ", then " + _called(whom).replace("coordinator", "recovery")
        row = (order["migration"], len(order["kinds"]), who)
        broken = isinstance(verdict, BrokenRunError)
        self.counts.setdefault(row, Counter())["broken" if broken else verdict.outcome] += 1
        if broken:
            self.broken.append(verdict)

    @property
    def points(self) -> int:
        return sum(sum(row.values()) for row in self.counts.values())

    def __str__(self) -> str:
        columns = ("destination", "source", "lost", "over", "broken")
        lines = ["| Migration | Devices | Killed | Points | " + " | ".join(columns) + " |"]
        lines.append("|---" * (4 + len(columns)) + "|")
        for (migration, devices, who), row in sorted(self.counts.items()):
            cells = [f"{row[name]:,}" for name in columns]
            total = f"{sum(row.values()):,}"
            lines.append(f"| {migration} | {devices} | {who} | {total} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _called(victims: Iterable[str]) -> str:
    called = {"s": "source", "d": "destination", "c": "coordinator"}
    return " and ".join(called[victim[0]] for victim in victims)


def main() -> None:
    """Try what is named on the command line as JSON, and show what was found."""
    order = json.loads(sys.argv[1])
    with RigPool(1) as pool:
        found = pool.find(order)
    print(described(found))
    with contextlib.suppress(KeyError):
        print(judge(order, found))


if __name__ == "__main__":
    main()
