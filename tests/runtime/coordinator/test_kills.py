"""Each process killed, at each point: one side runs after a recovery, and nothing is left behind.

Here is a sample of all points. `make test` tries those of it that are about one device,
`make exhaustive` the others, and `make kill` every point there is (`every_kill.py`). What is
guaranteed of a point is in `kill_points.judge`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pytest

from support.kill_points import (
    GROUPS,
    MIGRATIONS,
    BrokenRunError,
    Order,
    RigPool,
    Table,
    judge,
    names,
)
from support.samples import sample, sample_where

# How far apart the points of the sample are, by how many devices there are: while it is only looked
# whether devices can be migrated, and after that.
APART = {1: (19, 4), 2: (89, 23)}
OFFLINE = sample_where(MIGRATIONS, lambda migration: migration == "offline")
ALONE = ("offline", ("edu",))
QUICK = (*ALONE, 2)
CASES = [QUICK, *((*one, 1) for one in itertools.product(MIGRATIONS, GROUPS))]
"""A migration, its devices, and how many points of the sample one stands for in `make test`."""


def called(value: str | int | tuple[str, ...]) -> str:
    """Name a migration, the kinds of its devices or a share in the name of a test."""
    return "-".join(value) if isinstance(value, tuple) else str(value)


@pytest.fixture(scope="module")
def pool() -> Iterator[RigPool]:
    with RigPool() as pool:
        yield pool


def order(migration: str, kinds: tuple[str, ...], **more) -> Order:
    return {"migration": migration, "kinds": list(kinds), **more}


def boundaries(pool: RigPool, migration: str, kinds: tuple[str, ...]) -> tuple[int, int]:
    """Return how many boundaries there are, and how many of them before anybody is moved."""
    seen = pool.find(order(migration, kinds))["migration"]["seen"]
    first = next(i for i, row in enumerate(seen) if row[2].startswith("SET "))
    return first, len(seen)


def tried(pool: RigPool, orders: list[Order]) -> Table:
    """Try all; every one must be as guaranteed."""
    table = Table()
    for one, verdict in pool.verdicts(orders):
        table.add(one, verdict)
    assert not table.broken, f"{len(table.broken)} of {table.points}\n{table.broken[0]}"
    return table


@pytest.mark.parametrize(
    ("migration", "kinds", "share"),
    sample_where(CASES, lambda one: one == QUICK, spread=True),
    ids=called,
)
def test_one_side_runs_no_matter_who_is_killed(
    pool: RigPool, migration: str, kinds: tuple[str, ...], share: int
):
    first, count = boundaries(pool, migration, kinds)
    looking, moving = (apart * share for apart in APART[len(kinds)])
    victims = ["coordinator", *names(order(migration, kinds))]
    orders = [
        order(migration, kinds, victims=[victim], at=at)
        for offset, victim in enumerate(victims)
        # Each victim at other points than the one before it.
        for at in (
            *range(offset * looking // len(victims), first, looking),
            *range(first + offset * moving // len(victims), count, moving),
        )
    ]
    table = tried(pool, orders)
    outcomes = {
        who: {name for name, times in row.items() if times}
        for (_, _, who), row in table.counts.items()
    }
    assert "lost" not in outcomes["coordinator"] | outcomes["destination"]
    if migration == "offline":
        # Live, the boundaries are not the same each time. Here the sample reaches all there is.
        assert outcomes["coordinator"] == {"source", "destination"}
        assert {"lost", "destination"} <= outcomes["source"]
    assert "source" in outcomes["destination"]


@pytest.mark.exhaustive
def test_the_last_boundaries(pool: RigPool):
    """One boundary further, and who is killed has no part in the migration any more."""
    _, count = boundaries(pool, "offline", ("edu",))
    orders = [
        order("offline", ("edu",), victims=[victim], at=at)
        for victim in ("s0", "d0", "coordinator")
        for at in range(count - 4, count)
    ]
    found = [verdict.outcome for _, verdict in pool.verdicts(orders)]
    # What is stated last: SET STATE STOP to the source, GET STATE to the destination, each
    # answered.
    assert found[:4] == ["destination", "over", "over", "over"]
    assert found[4:8] == ["source", "source", "source", "over"]
    assert found[8:] == ["destination"] * 4


@pytest.mark.exhaustive
@pytest.mark.parametrize("migration", MIGRATIONS)
def test_nobody_begins_the_killed_server_anew(pool: RigPool, migration: str):
    first, count = boundaries(pool, migration, ("edu", "edu"))
    orders = [
        order(migration, ("edu", "edu"), victims=[victim], at=at, restart=False)
        for offset, victim in enumerate(("s0", "d1"))
        for at in range(first + offset * 7, count, 23)
    ]
    tried(pool, orders)


@pytest.mark.exhaustive
@pytest.mark.parametrize("migration", OFFLINE)
@pytest.mark.parametrize("also", sample(["s0", "d0"], 2))
def test_the_coordinator_and_a_server_are_killed_at_once(pool: RigPool, migration: str, also: str):
    first, count = boundaries(pool, migration, ("edu",))
    orders = [
        order(migration, ("edu",), victims=["coordinator", also], at=at)
        for at in (0, *range(first, count, 6))
    ]
    table = tried(pool, orders)
    ((_, row),) = table.counts.items()
    assert row["source" if also == "d0" else "destination"]


@pytest.mark.parametrize("apart", sample([24, 6], 2))
def test_both_ends_are_killed_at_once(pool: RigPool, apart: int):
    """Then the state is gone, and that is stated; still exactly one device runs."""
    first, count = boundaries(pool, "offline", ("edu",))
    orders = [
        order("offline", ("edu",), victims=["s0", "d0"], at=at) for at in range(first, count, apart)
    ]
    assert orders
    assert [one.outcome for _, one in pool.verdicts(orders)] == ["lost"] * len(orders)


@pytest.mark.exhaustive
@pytest.mark.parametrize("migration", OFFLINE)
def test_recoveries_are_killed_too(pool: RigPool, migration: str):
    """Two in a row, at boundaries that move through each other; then one that is not."""
    first, count = boundaries(pool, migration, ("edu", "memory"))
    orders = [
        order(
            migration,
            ("edu", "memory"),
            victims=["coordinator"],
            at=at,
            recovery_kills=[[(at * 5 + 1) % 23, ["coordinator"]], [at * 7 % 19, ["coordinator"]]],
        )
        for at in range(first, count, 11)
    ]
    table = tried(pool, orders)
    assert sum(row["lost"] for row in table.counts.values()) == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("also", sample(["d0", "s0"], 2))
def test_a_server_is_killed_while_it_is_recovered(pool: RigPool, also: str):
    first, count = boundaries(pool, "offline", ("edu",))
    orders = [
        order("offline", ("edu",), victims=["coordinator"], at=at, recovery_kills=[[when, [also]]])
        for at in range(first + 3, count, 13)
        for when in range(at % 3, 18, 5)
    ]
    table = tried(pool, orders)
    if also == "d0":
        assert sum(row["lost"] for row in table.counts.values()) == 0


# --- the judge can state no ---


@pytest.mark.exhaustive
def test_without_a_journal_some_points_are_broken(pool: RigPool):
    """The journal is what it takes: without one, who is to run is not known at some points."""
    _, count = boundaries(pool, "offline", ("edu",))
    orders = [
        order("offline", ("edu",), victims=["coordinator"], at=at, journal=False)
        for at in range(count - 20, count - 2)
    ]
    broken = [one for _, one in pool.verdicts(orders) if isinstance(one, BrokenRunError)]
    assert any("recovery does not state who runs" in str(one) for one in broken)


@pytest.fixture(scope="module")
def killed(pool: RigPool) -> tuple[Order, dict]:
    """A destination killed in the stream, and what was found afterwards."""
    point = order("offline", ("edu",), victims=["d0"], at=70)
    return point, pool.find(point)


def _doctored(found: dict, change: Callable[[dict], object]) -> dict:
    found = copy.deepcopy(found)
    change(found)
    return found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found["files"].append("s0.migration"), "files are left"),
        (lambda found: found["processes"].append(1), "processes are left"),
        (lambda found: found["descriptors"].update(s0=[10, 11]), "descriptors"),
        (lambda found: found["logs"].update({"1.log": "Traceback"}), "somebody fell over"),
        (lambda found: found["whole"].update(d0=True), "source is to run"),
        (lambda found: found["whole"].clear(), "source is to run"),
        (lambda found: found["whole"].update(s0=False), "some of the state is lost"),
        (lambda found: found["recoveries"][-1]["reported"].update(outcome="lost"), "need not be"),
        (lambda found: found["recoveries"][-1].update(status=1), "came to no end"),
        (lambda found: found["migration"]["reported"].update(why="no", hints=[]), "who is gone"),
        (lambda found: found["migration"]["reported"].update(hints=[]), "what to do"),
    ],
)
def test_the_judge_can_state_no(killed: tuple[Order, dict], change, why: str):
    point, found = killed
    assert judge(point, found).outcome == "source"
    assert found["migration"]["journal"]
    with pytest.raises(BrokenRunError, match=why):
        judge(point, _doctored(found, change))
