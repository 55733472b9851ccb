"""Several things go wrong at once: all of them are reported, and none is left under way."""

from __future__ import annotations

import threading

import pytest

from support.migration_harness import Harness
from vfio_migration.runtime.coordinator.bandwidth import Bandwidth
from vfio_migration.runtime.coordinator.pump import Stream


@pytest.mark.parametrize("migration", ["live", "offline"])
def test_every_device_that_failed_is_named(harness: Harness, migration: str):
    """Each at the same time, in a thread of its own: none of them hides the others."""
    barrier = threading.Barrier(3)

    def refuse(_data: bytes) -> list[bytes]:
        barrier.wait(60)
        raise OSError("broken")

    for number in range(3):
        harness.serve(f"s{number}")
        harness.serve(f"d{number}", mangle=refuse)
    failure = harness.fail(migration=migration, chunk=1 << 24)
    assert failure.outcome == "source"
    assert harness.running == {"s0", "s1", "s2"}
    for number in range(3):
        assert failure.why.count(f"d{number}: MIG_DATA_WRITE is refused") == 1


class Breaking:
    """A source and a destination in one, of which everything fails, each in its own way."""

    over = None
    name = "breaking"
    label = "end"
    transfer = 10

    def __init__(self) -> None:
        self.client = self
        self.waited: list[int] = []
        self.begun = 0

    def end_is_final(self) -> bool:
        return True

    def reports_pauses(self) -> bool:
        return False

    def begin(self, _call) -> int:
        self.begun += 1
        return self.begun

    def finish(self, number: int) -> None:
        self.waited.append(number)
        raise (ValueError, MemoryError)[number % 2](f"the {number}.")


def test_all_that_is_under_way_is_waited_for_whatever_fails():
    end = Breaking()
    stream = Stream(end, end, chunk=10, bandwidth=Bandwidth(None))
    stream._writes.extend([7, 8])
    with pytest.raises(MemoryError, match=r"the 1\.") as caught:
        stream.run(None, threading.Event())
    assert end.waited == [1, 2, 7, 8]
    assert caught.value.__notes__ == ["and then: the 2.", "and then: the 7.", "and then: the 8."]
