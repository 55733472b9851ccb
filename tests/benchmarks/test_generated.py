"""The generated engines against the function of the Linux kernel, and the engine in Python.

Run with `pytest tests/benchmarks/test_generated.py --benchmark-only`. The kernel's function is
taken out of its source when this runs: the file that VFIO_MIGRATION_VFIO_MAIN names
(drivers/vfio/vfio_main.c), or the source package of Debian in /usr/src (apt-get install
linux-source-6.12). Nothing of it is kept. Around it stands what a driver does: a loop, and a call
for each arc; the engine in addition counts sessions, answers why it refuses, and notices who calls
it from a callback.

The targets: at most the time of the kernel's function, and at least 30 times as fast as the engine
in Python. Nothing here asserts a time; that all cells are the same is asserted.
"""

from __future__ import annotations

import os
import re
import tarfile
import timeit
from pathlib import Path

import pytest

from support import compilers, generated
from vfio_migration import Engine, NullDevice, load
from vfio_migration.generators import like_file

HERE = Path(__file__).parent / "generated"
FUNCTION = re.compile(r"^int vfio_mig_get_next_state\(.*?^}\n", re.DOTALL | re.MULTILINE)
TARGET = 1.0
TARGET_PYTHON = 30
TURNS = 20_000

AROUND = """\
#include <errno.h>
#include <stdint.h>
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define WARN_ON(condition) (condition)
#define EXPORT_SYMBOL_GPL(name) extern int name ## _exported
typedef uint8_t u8;
enum {{ {flags} }};
enum vfio_device_mig_state {{ {states} }};
struct vfio_device {{ uint32_t migration_flags; }};
#define vfio_mig_get_next_state {name}
{function}
"""


def vfio_main() -> str:
    """Return the text of vfio_main.c; skip if there is none here."""
    named = os.environ.get("VFIO_MIGRATION_VFIO_MAIN")
    if named:
        return Path(named).read_text("utf-8")
    for package in sorted(Path("/usr/src").glob("linux-source-*.tar.xz"), reverse=True):
        with tarfile.open(package) as archive:
            for member in archive:
                if member.name.endswith("/drivers/vfio/vfio_main.c"):
                    file = archive.extractfile(member)
                    assert file is not None
                    return file.read().decode()
    pytest.skip("there is no source of Linux here; apt-get install linux-source-6.12")


def around(function: str, name: str) -> str:
    """Return a function with the few names of the kernel that it needs, under another name."""
    spec = load()
    flags = [f"VFIO_MIGRATION_{row.name} = {row.value}" for row in spec.capabilities]
    states = [f"VFIO_DEVICE_STATE_{row.name} = {row.value}" for row in spec.states]
    return AROUND.format(
        flags=", ".join(flags), states=", ".join(states), name=name, function=function
    )


def figures(program: Path) -> dict[str, float]:
    lines = compilers.run([program], program.parent).stdout.split()
    return dict(zip(lines[::2], map(float, lines[1::2]), strict=True))


@pytest.fixture(scope="module", params=compilers.C_COMPILERS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The programs that measure, in C by one compiler and in Rust."""
    compiler = compilers.c_compiler(request.param)
    found = FUNCTION.search(vfio_main())
    assert found is not None
    folder = tmp_path_factory.mktemp("generated")
    compiled = generated.compiled_of("vfio-v2")
    generated.c_folder(folder, compiled)
    generated.rust_folder(folder, compiled)
    (like,) = like_file(load(), "linux", None, "a test").values()
    like = re.sub(r"^#include .*\n", "", like, flags=re.MULTILINE)
    sources = {
        "kernel.c": around(found[0], "kernel_next_state"),
        "like.c": around(like, "like_next_state"),
        "measure.c": (HERE / "measure.c").read_text("utf-8"),
        "measure.rs": (HERE / "measure.rs").read_text("utf-8"),
    }
    compilers.written(folder, sources)
    units = ("kernel", "like", "engine", "measure")
    for unit in units:
        words = [*compiler, "-std=gnu11", "-O2", "-c", f"{unit}.c", "-o", f"{unit}.o"]
        compilers.run(words, folder)
    compilers.run([*compiler, *(f"{unit}.o" for unit in units), "-o", "measure_c"], folder)
    rust = [compilers.rustc(), "--edition", "2021", "-O", "-C", "codegen-units=1"]
    compilers.run([*rust, "measure.rs", "-o", "measure_rs"], folder)
    return [folder / "measure_c", folder / "measure_rs"]


def python_ns(there: str, back: str) -> float:
    engine = Engine(load(), 7, NullDevice())
    engine.set_state(back)

    def turn() -> None:
        engine.set_state(there)
        engine.set_state(back)

    return min(timeit.repeat(turn, number=TURNS, repeat=10)) / TURNS / 2 * 1e9


def section_bytes(folder: Path, unit: str) -> dict[str, int]:
    """Return the bytes of each symbol of an object: what nm prints of it."""
    lines = compilers.run([compilers.tool("nm", "apt-get install binutils"), "-S", unit], folder)
    rows = (line.split() for line in lines.stdout.splitlines())
    return {row[3]: int(row[1], 16) for row in rows if len(row) == 4}


def test_one_arc_and_four_arcs(built: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    best: dict[str, float] = {}
    for _ in range(5):  # in turns, so that whatever else the machine does falls on all alike
        for program in built:
            for name, value in figures(program).items():
                best[name] = min(best.get(name, value), value)
    assert best["differ"] == 0
    python = {"one": python_ns("RUNNING_P2P", "RUNNING"), "four": python_ns("RESUMING", "PRE_COPY")}
    engine = section_bytes(built[0].parent, "engine.o")
    kernel = section_bytes(built[0].parent, "kernel.o")
    code = {name: size for name, size in engine.items() if name.startswith("engine_")}
    texts = sum(size for name, size in code.items() if name.endswith(("_name", "_reason")))
    with capsys.disabled():
        print()
        for arcs in ("one", "four"):
            theirs = best[f"kernel_{arcs}"]
            print(
                f"{arcs} arc(s): kernel {theirs:.1f} ns; target {TARGET} times, Python's /", end=""
            )
            print(f" {TARGET_PYTHON}")
            for language in ("c", "rust"):
                ours = best[f"{language}_{arcs}"]
                print(
                    f"    {language:5}{ours:6.1f} ns: {ours / theirs:.2f} times the kernel's, "
                    f"{python[arcs] / ours:.0f} times as fast as Python ({python[arcs]:.0f} ns)"
                )
        for name in ("like_next", "next_step"):
            ratio = best[name] / best["kernel_next"]
            print(f"{name}: {best[name]:.2f} ns, {ratio:.2f} times the kernel's function")
        print(
            f"bytes: table {engine['cells']}, code {sum(code.values()) - texts}, "
            f"functions for texts {texts}; kernel: tables "
            f"{sum(size for name, size in kernel.items() if 'table' in name)}, code "
            f"{kernel['kernel_next_state']}"
        )
