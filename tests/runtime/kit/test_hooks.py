"""The hooks by which a device loses and gains a right, and what follows if one fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noting_device import Noting
from sample_device import Sample

from support.examples import examples
from vfio_migration.runtime import (
    ArcError,
    Engine,
    RequestFailedError,
    RequestRefusedError,
    ResetFailedError,
)
from vfio_migration.runtime.kit.pci_device import PciDevice


def engine(device: PciDevice) -> Engine:
    return Engine(device.spec, device.capabilities, device)


def test_hooks_follow_what_the_table_permits() -> None:
    device = Noting()
    run = engine(device)
    assert device.recorded == ["start", "resume"]
    device.recorded.clear()
    for target, recorded in (
        ("RUNNING_P2P", ["quiesce"]),
        ("RUNNING", ["resume"]),
        ("PRE_COPY", []),
        ("STOP_COPY", ["quiesce", "stop"]),
        ("STOP", []),
        ("RUNNING", ["start", "resume"]),
    ):
        run.set_state(target)
        assert device.recorded == recorded, target
        device.recorded.clear()


def test_without_p2p_both_go_in_one_arc() -> None:
    device = Noting(capabilities="STOP_COPY")
    run = engine(device)
    device.recorded.clear()
    run.set_state("STOP")
    run.set_state("RUNNING")
    assert device.recorded == ["quiesce", "stop", "start", "resume"]


@pytest.mark.parametrize("hook", ["quiesce", "stop", "start", "resume"])
@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_a_hook_that_fails_is_rolled_back(hook: str, flags: int) -> None:
    device = Noting(capabilities=flags)
    run = engine(device)
    if hook in ("start", "resume"):
        run.set_state("STOP")
    before = run.situation
    target = "STOP" if hook in ("quiesce", "stop") else "RUNNING"
    device.script[hook] = ArcError("no")
    with pytest.raises(RequestFailedError):
        run.set_state(target)
    assert run.state == device.state
    if flags in (1, 5):
        assert run.situation == before, "there is but one arc"
    device.recorded.append(f"failed {hook}")
    run.set_state(target)
    run.set_state("RUNNING")
    assert device.may("start_p2p_dma")


@given(
    st.lists(
        st.tuples(
            st.integers(1, 7),
            st.sampled_from([None, None, "quiesce", "resume", "stop", "start"]),
            st.sampled_from(["back", "for good", "slip"]),
        ),
        max_size=15,
    )
)
@examples(150)
def test_hooks_alternate_whatever_happens(steps: list[tuple[int, str | None, str]]) -> None:
    device = Noting()
    run = engine(device)
    faults: dict[str, Callable[[], BaseException]] = {
        "back": lambda: ArcError("back"),
        "for good": lambda: ArcError("gone", for_good=True),
        "slip": lambda: ValueError("slip"),
    }
    recorded = list(device.recorded)
    for target, hook, how in steps:
        device.recorded.clear()
        if hook:
            device.script = {hook: faults[how]()}
        with contextlib.suppress(RequestRefusedError, RequestFailedError):
            run.set_state(target)
        if hook in device.recorded and not device.script and how == "back":
            # As if it had not been called.
            device.recorded.remove(hook)
        device.script = {}
        recorded += device.recorded
        assert run.state == device.state
        if not run.machine.arcs_from(run.state):
            device.recorded.clear()
            run.reset()
            recorded += device.recorded
    device.recorded = recorded
    assert device.alternates(), recorded
    device.close()


def test_a_failure_while_rolling_back_is_for_good() -> None:
    device = Noting(capabilities="STOP_COPY")
    run = engine(device)
    device.script = {"stop": ArcError("no"), "resume": ArcError("nor that")}
    with pytest.raises(RequestFailedError, match="ERROR"):
        run.set_state("STOP")
    assert (run.state, device.state) == ("ERROR", "ERROR")
    run.reset()


def test_a_reset_that_fails_leaves_it_lost_and_can_be_repeated() -> None:
    class Stubborn(Sample):
        tries = 0

        def reset_device(self) -> None:
            super().reset_device()
            self.tries += 1
            if self.tries == 2:
                raise OSError(5, "no")

    device = Stubborn()
    run = engine(device)
    with pytest.raises(ResetFailedError):
        run.reset()
    assert run.state == device.state == "ERROR"
    assert run.reset().state == device.state == "RUNNING"
