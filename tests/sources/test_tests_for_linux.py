"""The tests for Linux against what Linux has: its function, its header, its style.

Nothing of it is kept: the function is taken out of the source when this runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import c_sources, compilers, kernel_shim
from vfio_migration.generators import compile_table, kselftest_file, kunit_file
from vfio_migration.generators.kselftest import KSELFTEST_FILE
from vfio_migration.model import load
from vfio_migration.model.history import named

SOURCES = Path(os.environ.get("VFIO_MIGRATION_SOURCES", ""))
MAIN = c_sources.PLACES["linux"]
STOP_AT_ERROR = re.compile(r"\*next_fsm != VFIO_DEVICE_STATE_ERROR &&\s*")
"""What ends the loop of the function that skips states: without it a refused request never ends."""


def function_of(tree: str) -> str:
    found = kernel_shim.FUNCTION.search((SOURCES / tree / MAIN).read_text("utf-8"))
    assert found is not None
    return found[0]


@pytest.mark.parametrize(("tree", "table"), [("linux-6.12", "builtin"), ("linux-6.1", "linux-6.1")])
def test_the_function_of_linux_passes_in_every_cell(tree: str, table: str, tmp_path: Path) -> None:
    spec = named(table)
    assert spec is not None
    kernel_shim.kunit_folder(tmp_path, spec, function_of(tree))
    status, printed = kernel_shim.kunit_run(kernel_shim.kunit_program(tmp_path, "-O2"))
    assert (status, printed.count("ok ")) == (0, 3), printed


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os"])
def test_the_loop_that_never_ended_fails_in_bounded_time(level: str, tmp_path: Path) -> None:
    """Linux 6.2 to 2026; a refused request hung the kernel."""
    before, times = STOP_AT_ERROR.subn("", function_of("linux-6.12"))
    assert times == 1
    kernel_shim.kunit_folder(tmp_path, load(), before)
    status, printed = kernel_shim.kunit_run(kernel_shim.kunit_program(tmp_path, level))
    assert status == 1
    found = re.findall(r"ASSERTION FAILED: (.*)", printed)
    assert found[0] == "flags 0x5, state 3: the call for state 6 does not end", printed


def test_the_program_is_built_with_the_headers_of_linux(tmp_path: Path) -> None:
    compiler = compilers.c_compiler("gcc")
    shutil.copy(SOURCES / "linux-6.12/tools/testing/selftests/kselftest.h", tmp_path)
    (tmp_path / "vfio").mkdir()
    compilers.written(tmp_path / "vfio", kselftest_file(compile_table(load()), "a test"))
    words = [*compiler, "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    compilers.run([*words, "-I", SOURCES, f"vfio/{KSELFTEST_FILE}", "-o", "test"], tmp_path)
    done = subprocess.run(
        [tmp_path / "test", "/no/such/device"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "# SKIP /no/such/device cannot be opened" in done.stdout) == (4, True)


@pytest.mark.parametrize("write", [kunit_file, kselftest_file])
def test_checkpatch_has_nothing_to_remark(write, tmp_path: Path) -> None:
    perl = compilers.tool("perl", "apt-get install perl")
    files = write(compile_table(load()), "vfio-migration generate")
    compilers.written(tmp_path, files)
    checkpatch = SOURCES / "linux-6.12/scripts/checkpatch.pl"
    words = [perl, str(checkpatch), "--no-tree", "--strict", "--terse", "-f", *files]
    assert compilers.run(words, tmp_path).stdout == ""
    (name,) = files
    (tmp_path / name).write_text(f"{files[name]}int  unused = 0;\n", "utf-8")
    with pytest.raises(AssertionError, match="do not initialise globals to 0"):
        compilers.run(words, tmp_path)
