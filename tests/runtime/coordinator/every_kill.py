"""Every message boundary of a migration, and every victim: `make kill`.

pytest collects this file only where it is named. It takes minutes, and prints how many points were
tried and what came of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from support.kill_points import MIGRATIONS, Order, RigPool, Table, scenarios


@pytest.fixture
def walk(capsys) -> Iterator[Callable[[list[Order]], None]]:
    """Walks through scenarios, prints a table, and fails if a point is not as guaranteed."""

    def walk(orders: list[Order]) -> None:
        table, begun = Table(), time.monotonic()
        with RigPool() as pool:
            for order, verdict in pool.walks(orders):
                table.add(order, verdict)
        with capsys.disabled():
            took = time.monotonic() - begun
            print(f"\n\n{table.points:,} points in {took:.0f} s\n\n{table}")
        assert table.points
        assert not table.broken, f"{len(table.broken)} broken\n{table.broken[0]}"

    return walk


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_every_boundary(walk, migration: str):
    walk([one for one in scenarios() if one["migration"] == migration])


@pytest.mark.parametrize("kind", ["edu", "blob"])
@pytest.mark.parametrize("migration", MIGRATIONS)
def test_the_coordinator_and_a_server_at_every_boundary(walk, migration: str, kind: str):
    one = {"migration": migration, "kinds": [kind]}
    walk([{**one, "victims": ["coordinator", also]} for also in ("s0", "d0")])


@pytest.mark.parametrize("kind", ["edu", "blob"])
@pytest.mark.parametrize("migration", MIGRATIONS)
def test_every_boundary_of_a_recovery(walk, migration: str, kind: str):
    """After a coordinator was killed at any boundary from the first move on."""
    one = {"migration": migration, "kinds": [kind], "victims": ["coordinator"]}
    with RigPool(1) as pool:
        seen = pool.find(one)["migration"]["seen"]
    first = next(i for i, row in enumerate(seen) if row[2].startswith("SET "))
    walk(
        [
            {**one, "at": at, "recovery_kills": [[0, [victim]]]}
            for at in range(first, len(seen))
            for victim in ("coordinator", "s0", "d0")
        ]
    )
