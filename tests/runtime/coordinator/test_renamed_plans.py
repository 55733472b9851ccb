"""The coordinator finds its plans by what the rows specify of them, and never by their names."""

from __future__ import annotations

import pkgutil

import pytest

from support.migration_harness import SPEC, Harness
from vfio_migration.model.plan import DEFAULT, Plans, loads_plans
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailedError, Settings
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Restorer, Saver

NAMES = ("live", "offline", "save", "resume", "prepare", "recover", "retire")


def renamed() -> Plans:
    """The plans of the package, each under a name that states nothing."""
    text = (pkgutil.get_data("vfio_migration.model", DEFAULT) or b"").decode()
    for number, name in enumerate(NAMES):
        text = text.replace(f'"{name}"', f'"plan-{number}"')
    return loads_plans(SPEC, text)


@pytest.mark.parametrize("pre_copy", [True, False], ids=["pre-copy", "no-pre-copy"])
def test_a_migration_is_chosen_by_whether_it_may_pre_copy(harness: Harness, pre_copy: bool) -> None:
    harness.serve("s0")
    harness.serve("d0")
    settings = Settings(pre_copy=pre_copy, downtime=5.0)
    coordinator = Coordinator(harness.pairs, spec=SPEC, plans=renamed(), settings=settings)
    coordinator.run()
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
    assert ("s0", "RUNNING", "PRE_COPY") in harness.arcs or not pre_copy
    assert pre_copy or all(to != "PRE_COPY" for _, _, to in harness.arcs)


@pytest.mark.parametrize(("then", "state"), [("run", "RUNNING"), ("stop", "STOP")])
def test_a_save_leads_its_device_where_a_handover_does(harness: Harness, then, state: str) -> None:
    harness.serve("s0")
    harness.serve("d0")
    Saver(["s0"], spec=SPEC, plans=renamed()).run("a.save", then=then)
    assert harness.states["s0"] == state
    Restorer(["d0"], spec=SPEC, plans=renamed()).run("a.save")
    assert harness.hosts["d0"].whole


def test_a_restore_that_is_given_up_leaves_its_device_stopped(harness: Harness) -> None:
    harness.serve("s0")
    harness.serve("d0", faults={("RUNNING_P2P", "RUNNING"): (1, False)})
    Saver(["s0"], spec=SPEC, plans=renamed()).run("a.save")
    with pytest.raises(MigrationFailedError):
        Restorer(["d0"], spec=SPEC, plans=renamed()).run("a.save")
    assert harness.states["d0"] == "STOP"


def test_once_no_handover_is_left_the_row_of_loss_is_followed(harness: Harness) -> None:
    harness.serve("s0")
    harness.serve("d0")
    Coordinator(harness.pairs, spec=SPEC, plans=renamed()).run()
    harness.hosts["d0"].stop()
    harness.hosts.pop("d0")
    # Anybody who asks gives up the source, which is stopped, for a destination that is gone.
    outcome = recover([("s0", "d0")], keep="destination", spec=SPEC, plans=renamed(), timeout_s=5.0)
    assert outcome.outcome == "lost"
    assert harness.states["s0"] == "STOP"
