"""The tests for Linux, run without one: they pass where all is right, and each fault fails them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from support import compilers, generated, kernel_shim
from support.odd_tables import TABLES
from vfio_migration.generators import compile_table, kselftest_file, kunit_file, like_file
from vfio_migration.model import Spec, load
from vfio_migration.model.suite import behaviour, tour, way_back, whole_run, without

DEVICE = "/dev/vfio/devices/vfio0"
GROUP = ("/dev/vfio/7", "a-device")

FAULTS = {
    "errno": {2},
    "descriptor": {4},
    "no-descriptor": {4},
    "open-for-ever": {5},
    "temporary-end": {6},
    "final-end": {7},
    "refuses-its-own": {1},
    "second-life": {1},
    "state-once": {3},
    "refused-moves": {3},
    "reopened": {10},
    "accepts-anything": {2},
}
"""What a device does wrong, and the numbers of the lines that state it."""


def function_in_place(spec: Spec) -> str:
    (text,) = like_file(spec, "linux", None, "a test").values()
    return re.sub(r"^#include .*\n", "", text, flags=re.MULTILINE)


def run(program: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=compilers.TIMEOUT_S,
    )


# --- the function ---


@pytest.mark.parametrize("table", ["vfio-v2", "ninth-capability", "strange-names", "many-states"])
def test_the_function_of_a_table_passes_in_every_cell(table: str, tmp_path: Path) -> None:
    spec = TABLES[table]()
    kernel_shim.kunit_folder(tmp_path, spec, function_in_place(spec))
    status, printed = kernel_shim.kunit_run(kernel_shim.kunit_program(tmp_path))
    assert (status, printed.count("ok ")) == (0, 3), printed


def test_refusals_with_errors_of_their_own_are_asked_for(tmp_path: Path) -> None:
    spec = TABLES["strange-answers"]()
    kernel_shim.kunit_folder(tmp_path, spec, function_in_place(spec))
    status, printed = kernel_shim.kunit_run(kernel_shim.kunit_program(tmp_path))
    assert status == 1
    assert "flags 0x7, STOP_COPY asked for state 6" in printed  # with EBUSY, and not EINVAL


def test_a_wrong_cell_is_named(tmp_path: Path) -> None:
    spec = load()
    right = function_in_place(spec)
    rows = [line for line in right.splitlines() if line.endswith("/* RUNNING */")]
    whole = rows[-1]  # of the largest capability set
    cells = whole.split(",")
    cells[3] = " 1"  # STOP_COPY: to STOP at once, past RUNNING_P2P
    kernel_shim.kunit_folder(tmp_path, spec, ",".join(cells).join(right.rsplit(whole, 1)))
    status, printed = kernel_shim.kunit_run(kernel_shim.kunit_program(tmp_path))
    assert status == 1
    assert re.findall("EXPECTATION FAILED: (.*)", printed) == [
        "flags 0x7, RUNNING asked for state 3"
    ]
    assert "# 1 instead of 5" in printed


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_a_call_that_does_not_end_fails(level: str, tmp_path: Path) -> None:
    """As it was in Linux: a refused request went round in the loop that skips states."""
    right = function_in_place(load())
    for_ever = """\
\tif (next == REFUSED) {
\t\twhile ((~0u & device->migration_flags) != ~0u)
\t\t\t*next_fsm = 0;
\t\treturn -EINVAL;
\t}
"""
    wrong = right.replace("\tif (next == REFUSED)\n\t\treturn -EINVAL;\n", for_ever)
    assert wrong != right
    kernel_shim.kunit_folder(tmp_path, load(), wrong)
    status, printed = kernel_shim.kunit_run(kernel_shim.kunit_program(tmp_path, level))
    assert status == 1
    assert "ASSERTION FAILED: flags 0x1, state 1: the call for state 0 does not end" in printed


# --- a device ---


@pytest.fixture(scope="module")
def kselftest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernel_shim.kselftest_program(tmp_path_factory.mktemp("kselftest"), load())


@pytest.mark.parametrize("flags", [1, 3, 5, 7])
@pytest.mark.parametrize("where", [(DEVICE,), GROUP], ids=["device", "group"])
def test_a_device_that_is_right_passes(
    flags: int, where: tuple[str, ...], kselftest: Path, tmp_path: Path
) -> None:
    done = run(kselftest, "-k", *where, FLAGS=str(flags))
    lines = [line for line in done.stdout.splitlines() if line[0] != "#"]
    assert lines[:2] == ["TAP version 13", "1..10"]
    assert all(line.startswith("ok ") for line in lines[2:]), done.stdout
    skipped = [line for line in lines if "SKIP" in line]
    assert len(skipped) == (0 if flags & 4 else 1)  # no data can grow without PRE_COPY
    assert (done.returncode, done.stderr, len(lines)) == (0, "", 12)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_stated(fault: str, kselftest: Path) -> None:
    done = run(kselftest, "-k", DEVICE, FLAGS="7", FAULT=fault)
    assert done.returncode == 1
    failed = {int(number) for number in re.findall(r"^not ok (\d+) ", done.stdout, re.MULTILINE)}
    assert failed == FAULTS[fault], done.stdout


def test_a_reset_that_leads_elsewhere_ends_it(kselftest: Path) -> None:
    done = run(kselftest, DEVICE, FLAGS="7", FAULT="reset")
    assert done.returncode == 1
    assert "Bail out! a reset does not lead back to RUNNING" in done.stdout


def test_what_deviates_is_shown_with_what_came_before(kselftest: Path) -> None:
    done = run(kselftest, DEVICE, FLAGS="7", FAULT="final-end")
    assert "#   it ends with -1, No message of desired type\n" in done.stdout
    assert re.search(r"^#   in STOP_COPY: stream; after( [.]{3})? .*", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(("flags", "depth"), [(1, 1), (7, 2)])
def test_the_sequences_are_those_of_the_suite(
    flags: int, depth: int, kselftest: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    run(kselftest, "-d", str(depth), DEVICE, FLAGS=str(flags), LOG=str(log))
    tested = without(behaviour(load().machine(flags)), lambda one: one.kind == "reconnect")
    once = tour(tested)
    _, *others = whole_run(tested, depth - 1)
    runs = [(*once, *way_back(tested, once)) * 2, *others]
    final = load().state("STOP_COPY").value
    wanted = ["reset", f"set {final}"]  # a stream is read first
    for sequence in runs:
        wanted.append("reset")
        wanted += [str(one) for one in sequence if one.kind != "stream"]
    assert log.read_text("utf-8").splitlines() == [*wanted, "reset"]


def test_without_a_device_it_is_skipped(kselftest: Path) -> None:
    done = run(kselftest)
    assert (done.returncode, "1..0 # SKIP" in done.stdout) == (4, True)


# --- what is written ---


@pytest.mark.parametrize("table", TABLES)
def test_any_table_that_fits_is_written_as_the_kernel_writes_c(table: str, tmp_path: Path) -> None:
    compiled = generated.compiled_of(table)
    if compiled.all_flags >= 1 << 32:
        compiled = compile_table(compiled.spec, "STOP_COPY,P2P")
    for write in (kunit_file, kselftest_file):
        ((name, text),) = write(compiled, "vfio-migration generate").items()
        first, second, *_ = text.splitlines()
        assert first == "// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause"
        assert second == "/*"
        assert "\n\n\n" not in text, name
        assert not re.search(r"[ \t]+$|^    +", text, re.MULTILINE), name
        assert compiled.digest in text
