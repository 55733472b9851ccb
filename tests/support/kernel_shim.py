"""Headers of our own in place of the kernel's, as much as the generated kernel tests need.

`kernel_shim/include` has what is fixed; `linux/vfio.h` is made of the table at hand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from support import compilers
from vfio_migration.generators import (
    c_files,
    compile_table,
    kselftest_file,
    kunit_file,
    linux_names,
)
from vfio_migration.generators.kselftest import KSELFTEST_FILE
from vfio_migration.generators.kunit import KUNIT_FILE
from vfio_migration.model import Spec

HERE = Path(__file__).parent / "kernel_shim"
FUNCTION = re.compile(r"^int vfio_mig_get_next_state\(.*?^}\n", re.DOTALL | re.MULTILINE)
"""The function in drivers/vfio/vfio_main.c."""

INCLUDES = "#include <linux/kernel.h>\n#include <linux/vfio.h>\n"
"""What the function needs, where it is alone in a file."""

WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing")

_ELSEWHERE = ("export", "jiffies", "module", "timer")

_HEADER = """\
#ifndef SHIM_LINUX_VFIO_H
#define SHIM_LINUX_VFIO_H
#include <stdint.h>

enum {{ {flags} }};
enum vfio_device_mig_state {{ {states} }};

struct vfio_device {{ uint32_t migration_flags; }};

int vfio_mig_get_next_state(struct vfio_device *device, enum vfio_device_mig_state cur_fsm,
                            enum vfio_device_mig_state new_fsm,
                            enum vfio_device_mig_state *next_fsm);

/* User space. */
enum {{ VFIO_DEVICE_FEATURE = 1, VFIO_DEVICE_RESET, VFIO_DEVICE_BIND_IOMMUFD,
        VFIO_GROUP_SET_CONTAINER, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_GROUP_GET_DEVICE_FD }};
enum {{ VFIO_DEVICE_FEATURE_MIGRATION = 1, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE }};
enum {{ VFIO_DEVICE_FEATURE_GET = 1 << 16, VFIO_DEVICE_FEATURE_SET = 1 << 17 }};
struct vfio_device_feature {{ uint32_t argsz, flags; uint8_t data[]; }};
struct vfio_device_feature_migration {{ uint64_t flags; }};
struct vfio_device_feature_mig_state {{ uint32_t device_state; int32_t data_fd; }};
struct vfio_device_bind_iommufd {{ uint32_t argsz, flags; int32_t iommufd; uint32_t devid; }};

/* Of each state what is transferred in it, and how that ends: the first letters. */
struct vfio_shim_state {{ uint32_t value; char transfer, end; }};
__attribute__((unused)) static const struct vfio_shim_state vfio_shim_states[] = {{ {shim} }};
#endif
"""


def headers(folder: Path, spec: Spec) -> None:
    """Write the headers into a folder, for a table."""
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    include = folder / "include/linux"
    for name in _ELSEWHERE:
        (include / f"{name}.h").write_text("#include <linux/kernel.h>\n", "utf-8")
    flags = (f"{linux_names.capability(row.name)} = {row.value}" for row in spec.capabilities)
    states = (f"{linux_names.state(row.name)} = {row.value}" for row in spec.states)
    (include / "vfio.h").write_text(
        _HEADER.format(flags=", ".join(flags), states=", ".join(states), shim=state_rows(spec)),
        "utf-8",
    )


def state_rows(spec: Spec) -> str:
    """Return of each state its value, what is transferred in it and how that ends."""
    rows = []
    for row in spec.states:
        end = spec.stream_end(row.name)
        transfer = spec.session(row.session).transfer
        rows.append(f"{{ {row.value}, '{transfer[0]}', '{end.kind[0] if end else '-'}' }}")
    return ", ".join(rows)


def kunit_program(folder: Path, *options: str) -> Path:
    """Build the KUnit tests of a folder, with the function in `function.c`."""
    compiler = compilers.c_compiler("gcc")
    words = [*compiler, *WARNINGS, *options, "-I", "include", KUNIT_FILE, "function.c"]
    compilers.run([*words, "-o", "kunit"], folder)
    return folder / "kunit"


def kunit_folder(folder: Path, spec: Spec, function: str) -> Path:
    """Write the KUnit tests of a table, and a function of Linux or in its place."""
    headers(folder, spec)
    files = kunit_file(compile_table(spec), "a test")
    return compilers.written(folder, files | {"function.c": f"{INCLUDES}{function}"})


def kunit_run(program: Path) -> tuple[int, str]:
    """Run KUnit tests, with what warns; return the exit status and what was printed."""
    done = subprocess.run(
        [program],
        env={"absent_states": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=compilers.TIMEOUT_S,
    )
    return done.returncode, done.stdout


def kselftest_program(folder: Path, spec: Spec) -> Path:
    """Build the kselftest of a table with a device that is no device, and the engine in C."""
    compiler = compilers.c_compiler("gcc")
    headers(folder, spec)
    compiled = compile_table(spec)
    compilers.written(folder, c_files(compiled, "engine", "a test", "0"))
    (folder / "vfio").mkdir()
    compilers.written(folder / "vfio", kselftest_file(compiled, "a test"))
    words = [*compiler, *WARNINGS, "-I", "include", "-c"]
    renamed = [f"-D{name}=fake_{name}" for name in ("open", "close", "ioctl", "read", "write")]
    compilers.run([*words, *renamed, f"vfio/{KSELFTEST_FILE}", "-o", "test.o"], folder)
    compilers.run([*words, "fake_device.c", "engine.c"], folder)
    objects = ("test.o", "fake_device.o", "engine.o")
    compilers.run([*compiler, *objects, "-o", "kselftest"], folder)
    return folder / "kselftest"
