"""What the operator answers for, because nothing on the wire shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.migration_harness import SPEC, Harness
from vfio_migration.model.errors import UnknownNameError
from vfio_migration.model.plan import Limit, default_plans, exceeds, loads_plans
from vfio_migration.model.spec import SpecError
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    Hooks,
    MigrationFailedError,
    Settings,
)
from vfio_migration.runtime.coordinator import journal as journals
from vfio_migration.runtime.coordinator.save import Restorer, Saver

ASSERTED = ("no_peer_dma",)
PLANS = default_plans(SPEC)


def without_p2p(harness: Harness) -> None:
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name, capabilities="STOP_COPY,PRE_COPY")


@pytest.mark.parametrize("migration", ["live", "offline"])
def test_two_devices_without_p2p_are_moved_if_somebody_answers_for_it(
    harness: Harness, migration: str
):
    without_p2p(harness)
    with pytest.raises(CannotMigrateError, match="lack P2P") as refused:
        harness.coordinator(migration=migration).run()
    assert refused.value.hints[-1] == (
        "or give --no-peer-dma, if you can answer for it: No device of the group does DMA to "
        "another device of it."
    )
    summary = harness.coordinator(migration=migration, asserted=ASSERTED).run()
    assert harness.running == {"d0", "d1"}
    assert all(harness.hosts[name].whole for name in ("d0", "d1"))
    assert summary.to_data()["asserted"] == ["no_peer_dma"]
    [event] = [one for one in harness.events if one.name == "asserted"]
    assert event.fields["option"] == "--no-peer-dma"


def test_it_is_in_the_journal_and_recover_states_that_it_goes_by_it(harness: Harness):
    without_p2p(harness)
    read: list[journals.Journal | None] = []

    def pause() -> None:
        read.append(journals.read(Path("s0.migration")))
        Path("left").write_bytes(Path("s0.migration").read_bytes())

    harness.coordinator(asserted=ASSERTED, hooks=Hooks(pause=pause)).run()
    assert read[0] is not None
    assert read[0].asserted == ASSERTED
    harness.events.clear()
    finished = harness.recover(journal=Path("left"))
    assert [one.fields["name"] for one in harness.events if one.name == "asserted"] == [
        "no_peer_dma"
    ]
    assert finished.outcome == "source"
    assert harness.running == {"s0", "s1"}


def test_devices_without_p2p_are_saved_and_restored(harness: Harness):
    without_p2p(harness)
    settings = Settings(asserted=ASSERTED)
    with pytest.raises(CannotMigrateError, match="lack P2P"):
        Saver(["s0", "s1"], spec=SPEC).run("file")
    Saver(["s0", "s1"], spec=SPEC, settings=settings).run("file")
    with pytest.raises(CannotMigrateError, match="lack P2P"):
        Restorer(["d0", "d1"], spec=SPEC).run("file")
    Restorer(["d0", "d1"], spec=SPEC, settings=settings).run("file")
    assert harness.running == {"d0", "d1"}


def test_a_failed_migration_of_them_goes_back(harness: Harness):
    without_p2p(harness)
    harness.hosts["d1"].device.faults[("RESUMING", "STOP")] = (1 << 30, False)
    with pytest.raises(MigrationFailedError) as failed:
        harness.coordinator(asserted=ASSERTED).run()
    assert failed.value.outcome == "source"
    assert harness.running == {"s0", "s1"}


def test_only_what_the_table_names_can_be_asserted(harness: Harness):
    without_p2p(harness)
    with pytest.raises(UnknownNameError, match="no_peer_dma"):
        harness.coordinator(asserted=("no_peer_dmb",))
    row = '[[plans.limits]]\nlacks = "P2P"\ncount = 1\nunless = "no_such"\n'
    text = (
        '[[plans]]\nname = "p"\nsound = true\nsummary = ""\nsource = ""\nbefore = [{to = "STOP"}]\n'
        f'{row}[[plans.phases]]\nname = "x"\nsummary = ""\nmoves = [{{to = "RUNNING"}}]\n'
    )
    with pytest.raises(
        SpecError, match=r'limits\[0\].unless: "no_such": there is no such assertion'
    ):
        loads_plans(SPEC, text)


def test_a_limit_holds_unless_its_assertion_is_made():
    unable = frozenset({"STOP_COPY"})
    for plan in PLANS.plans:
        for limit in plan.limits:
            assert (
                exceeds(plan, [unable] * 2)
                == limit
                == Limit(lacks="P2P", count=1, unless="no_peer_dma")
            )
            assert exceeds(plan, [unable] * 2, ("another",)) == limit
            assert exceeds(plan, [unable] * 2, ASSERTED) is None
