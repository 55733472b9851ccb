"""Linux, running: what it answers to the complete suite, and each step that it selects."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.linux_guest import DEVICE, FLAGS, Guest
from vfio_migration.cli.main import main
from vfio_migration.model import Machine, Spec, load

STEP = re.compile(r" vfio_next_state: .* cur=(\d+) new=(\d+) next=(\d+) ret=(-?\d+)$", re.MULTILINE)
REFUSED = -22
REMARK = re.compile(r"WARNING|BUG|Oops|panic|failed:")


def test_the_kernel_has_nothing_to_remark(guest: Guest) -> None:
    assert [line for line in guest.console.splitlines() if REMARK.search(line)] == []


@pytest.mark.parametrize("flags", FLAGS)
def test_a_device_of_linux_passes_the_complete_suite(flags: int, guest: Guest) -> None:
    printed = guest.suites[flags]
    assert re.findall(r"^not ok .*", printed, re.MULTILINE) == [], printed
    assert len(re.findall(r"^ok \d+ ", printed, re.MULTILINE)) == 10, printed
    assert printed.endswith("status 0\n"), printed


def steps(text: str) -> set[tuple[int, int, int]]:
    """Return present state, target and what was selected: a state, or `REFUSED`."""
    return {
        (int(cur), int(new), int(next_) if ret == "0" else int(ret))
        for cur, new, next_, ret in STEP.findall(text)
    }


def steps_of(machine: Machine, targets: set[int]) -> set[tuple[int, int, int]]:
    """Return what the table selects, wherever a driver has to ask."""
    values = {row.name: row.value for row in machine.spec.states}
    found = set()
    for here in machine.states:
        for target in targets - {here.value}:
            route = machine.route(here.name, target)
            if here.settable:
                step = REFUSED if route.refused else values[route.path[0]]
                found.add((here.value, target, step))
    return found


def targets(spec: Spec) -> set[int]:
    return {row.value for row in spec.states} | {8, 255, (1 << 32) - 1}


@pytest.mark.parametrize("flags", FLAGS)
def test_each_step_that_linux_selects_is_that_of_the_table(flags: int, guest: Guest) -> None:
    """Both ways: no other one is selected, and every cell that drivers ask for was."""
    wanted = steps_of(load().machine(flags), targets(load()))
    assert steps(guest.traces[flags]) == wanted
    assert len(wanted) == {1: 40, 3: 50, 5: 50, 7: 70}[flags]


@pytest.mark.parametrize("flags", FLAGS)
def test_another_table_would_not_do(flags: int, guest: Guest) -> None:
    other = FLAGS[(FLAGS.index(flags) + 1) % len(FLAGS)]
    wanted = steps_of(load().machine(other), targets(load()))
    assert steps(guest.traces[flags]) != wanted


@pytest.mark.parametrize("flags", FLAGS)
def test_check_trace_reads_what_ftrace_recorded(
    flags: int, guest: Guest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace"
    path.write_text(guest.traces[flags], "utf-8")
    status = main(["check-trace", str(path), "--format", "ftrace", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (status, found) == (0, found), found
    assert DEVICE in guest.traces[flags]
