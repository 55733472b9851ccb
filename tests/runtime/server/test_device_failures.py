"""What a device's own exception said reaches the log: once, on one line, with the hook."""

from __future__ import annotations

import logging

import pytest

from support.raw_client import RefusedError
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.failures import Failures
from vfio_migration.runtime.server.log import LOGGER
from vfio_migration.runtime.server.repeats import INTERVAL_S, MAX_KINDS


class Failing(Edu):
    """Fails in a hook of an arc, in a register and when its client goes."""

    def stop(self) -> None:
        try:
            raise KeyError("engine")
        except KeyError as error:
            raise ValueError("the engine is busy") from error

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        raise ZeroDivisionError(f"register {offset:#x}")


class Choosy(Edu):
    """Takes no state."""

    def load(self, state: bytes, version: int) -> None:
        raise OverflowError("too long a state")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture):
    """What is logged, as event and fields."""
    caplog.set_level("INFO")

    def log(event: str) -> list[dict]:
        return [row.fields for row in caplog.records if getattr(row, "event", "") == event]

    return log


def test_a_failed_arc_is_logged_with_what_the_device_raised_and_in_which_hook(serve, log) -> None:
    served = serve(Failing())
    with served.client() as client, pytest.raises(RefusedError):
        client.set_state(1)
    [failed] = [row for row in log("transition") if row["outcome"] == "failed"]
    assert failed["what"] == "RUNNING_P2P -> STOP"
    assert (failed["error"], failed["why"]) == ("ValueError", "the engine is busy")
    assert failed["at"].startswith("Failing.stop (test_device_failures.py line ")
    assert failed["cause"] == "KeyError: 'engine'"


def test_a_refused_load_is_logged_with_what_the_device_raised(serve, log) -> None:
    source = serve(Edu())
    with source.client() as client:
        client.set_state(3)
        stream = client.mig_read(1 << 20)
    served = serve(Choosy())
    with served.client() as client:
        client.set_state(4)
        client.mig_write(stream)
        with pytest.raises(RefusedError):
            client.set_state(1)
    [failed] = [row for row in log("transition") if row["outcome"] == "failed"]
    assert failed["cause"] == "OverflowError: too long a state"


def test_what_a_guest_can_have_fail_is_logged_once_and_then_counted(serve, log) -> None:
    served = serve(Failing())
    with served.client() as client:
        for _ in range(50):
            with pytest.raises(RefusedError):
                client.read(0, 0, 4)
    with served.client():
        first, *rest = log("device_failed")
    assert first["where"] == "REGION_READ"
    assert (first["error"], first["why"]) == ("ZeroDivisionError", "register 0x0")
    assert first["at"].startswith("Failing.bar_read (test_device_failures.py line ")
    # A slow machine takes longer for them than a failure is left out.
    assert sum("why" in row for row in rest) + sum(row["left_out"] for row in rest) >= 49


@pytest.mark.parametrize(("level", "shown"), [("INFO", False), ("DEBUG", True)])
def test_a_traceback_is_logged_at_debug_level_only(serve, caplog, level, shown) -> None:
    caplog.set_level(level)
    served = serve(Failing())
    with served.client() as client:
        with pytest.raises(RefusedError):
            client.read(0, 0, 4)
        with pytest.raises(RefusedError):
            client.set_state(1)
    with served.client():
        found = {row.event for row in caplog.records if row.exc_info and hasattr(row, "event")}
    assert found == ({"device_failed", "transition"} if shown else set())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_after_an_interval_it_is_logged_again_with_what_was_left_out(log) -> None:
    clock = Clock()
    failures = Failures(clock)
    for _ in range(3):
        failures.report("tick", ValueError("a"))
    failures.report("tick", KeyError("b"))
    clock.now = INTERVAL_S
    failures.report("tick", ValueError("c"))
    reported = [(row["error"], row["why"], row.get("left_out")) for row in log("device_failed")]
    assert reported == [
        ("ValueError", "a", None),
        ("KeyError", "'b'", None),
        ("ValueError", "c", 2),
    ]
    failures.flush()
    assert len(log("device_failed")) == 3, "nothing was left out"


def test_the_number_of_kinds_that_are_counted_is_bounded(log) -> None:
    failures = Failures(Clock())
    for number in range(3 * MAX_KINDS):
        failures.report(f"hook {number}", ValueError())
    assert len(failures._repeats) == MAX_KINDS


def test_an_exception_without_a_traceback_is_described_too(log) -> None:
    LOGGER.setLevel(logging.INFO)
    Failures(Clock()).report("tick", ValueError("never raised"))
    [row] = log("device_failed")
    assert "at" not in row
