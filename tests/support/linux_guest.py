"""Debian's newest kernel in QEMU, with a device of our own, led through the suite.

Nothing of the kernel is built: it and its modules are Debian's. What is compiled is ours: the
device, a module; the first process of the guest; and the program that `generate kselftest` writes.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import compilers, kernel_shim
from vfio_migration.generators import compile_table, kselftest_file
from vfio_migration.generators.kselftest import KSELFTEST_FILE
from vfio_migration.model import load

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests/kernel/guest"

MEMORY = 512  # MiB
TIMEOUT_S = 300
DEPTH = 2  # inputs after each state; as many hidden states and one
FLAGS = (1, 3, 5, 7)

# What a module is compiled with, besides the headers: no register that the kernel does not save,
# no address outside of its memory, and no type that C has otherwise.
MODULE_OPTIONS = (
    *("-nostdinc", "-D__KERNEL__", "-DMODULE", "-DINCLUDE_VERMAGIC", "-std=gnu11", "-O2", "-Wall"),
    *("-Wno-main", "-fms-extensions", "-fshort-wchar", "-funsigned-char", "-fno-common"),
    *("-fno-PIE", "-fno-strict-aliasing", "-fno-asynchronous-unwind-tables"),
    *("-fno-stack-protector", "-fcf-protection=branch", "-fno-jump-tables"),
    *("-mno-sse", "-mno-mmx", "-mno-sse2", "-mno-3dnow", "-mno-avx", "-mno-80387"),
    *("-mno-fp-ret-in-387", "-mpreferred-stack-boundary=3", "-mskip-rax-setup"),
    *("-mno-red-zone", "-mcmodel=kernel"),
)
DEVICE = "vfio_mig_device"


@dataclass(frozen=True)
class Guest:
    """What the guest printed.

    Attributes:
        suites: Per flags word, the TAP of the suite and its exit status.
        traces: Per flags word, the text of ftrace.
        console: All that was printed, the kernel's own messages among it.
    """

    suites: dict[int, str]
    traces: dict[int, str]
    console: str


def module(kernel: Path, folder: Path) -> bytes:
    """Compile the device for a kernel, of which `tests/kernel/setup` has made the folder."""
    (common,) = kernel.glob("root/usr/src/linux-headers-*-common")
    (built,) = (path for path in common.parent.glob("linux-headers-*") if path != common)
    places = [
        *(common / "arch/x86/include", built / "arch/x86/include/generated"),
        *(common / "include", built / "include"),
        *(common / "arch/x86/include/uapi", built / "arch/x86/include/generated/uapi"),
        *(common / "include/uapi", built / "include/generated/uapi"),
    ]
    first = ("compiler-version", "kconfig", "compiler_types")
    words = [*compilers.c_compiler("gcc"), *MODULE_OPTIONS]
    words += [f"-I{place}" for place in (*places, folder)]
    for name in first:
        words += ["-include", str(common / f"include/linux/{name}.h")]
    for name in ("KBUILD_BASENAME", "KBUILD_MODNAME", "KBUILD_MODFILE"):
        words.append(f'-D{name}="{DEVICE}"')
    words.append(f"-D__KBUILD_MODNAME={DEVICE}")
    compilers.written(folder, {"states.h": states_header()})
    compilers.run([*words, "-c", str(SOURCES / "device.c"), "-o", "device.ko"], folder)
    return (folder / "device.ko").read_bytes()


def states_header() -> str:
    """What the device knows of states."""
    spec = load()
    return (
        "struct mig_state { u32 value; char transfer; char end; };\n"
        f"static const struct mig_state states[] = {{ {kernel_shim.state_rows(spec)} }};\n"
        f"#define INITIAL {spec.state(spec.initial).value}\n"
    )


def programs(kernel: Path, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Build what runs in the guest."""
    compiler = compilers.c_compiler("gcc")
    options = [*compiler, "-static", "-O1", "-Wall", "-Werror"]
    compilers.run([*options, str(SOURCES / "init.c"), "-o", "init"], folder)
    yield "init", (folder / "init").read_bytes()
    (folder / "vfio").mkdir()
    compilers.written(folder / "vfio", kselftest_file(compile_table(load()), "a test"))
    shim = (kernel_shim.HERE / "kselftest.h").read_text("utf-8")
    compilers.written(folder, {"kselftest.h": shim})
    places = ("root/usr/include", "root/usr/lib/linux/uapi/x86")
    words = [*options, *(f"-isystem{kernel / place}" for place in places)]
    compilers.run([*words, f"vfio/{KSELFTEST_FILE}", "-o", "test"], folder)
    yield "vfio_mig_test", (folder / "test").read_bytes()


def probes() -> str:
    """The probes that docs/recording.md names for this kernel."""
    text = (ROOT / "docs/recording.md").read_text("utf-8")
    found = re.findall(r"^r:vfio/vfio_(?:next_state|ioctl) .*\n", text, re.MULTILINE)
    assert len(found) == 2
    return "".join(found)


def modules(kernel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the kernel's modules that are needed, each after those that it depends on."""
    texts = {path.stem: path.read_bytes() for path in (kernel / "modules").glob("*.ko")}
    order: list[str] = []

    def add(name: str) -> None:
        found = re.search(rb"\0depends=([\w,-]*)\0", texts[name])
        for needed in found[1].decode().split(",") if found else ():
            if needed:
                add(needed)
        if name not in order:
            order.append(name)

    add("vfio_iommu_type1")
    for number, name in enumerate(order):
        yield f"modules/{number}-{name}.ko", texts[name]


def archive(files: dict[str, bytes], folders: tuple[str, ...]) -> bytes:
    """Return an initramfs: a cpio archive of the form newc."""
    made = bytearray()

    def add(name: str, mode: int, data: bytes = b"") -> None:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        made.extend(b"070701" + b"".join(b"%08X" % field for field in fields))
        made.extend(name.encode() + b"\0")
        made.extend(bytes(-len(made) % 4))
        made.extend(data)
        made.extend(bytes(-len(made) % 4))

    for name in folders:
        add(name, 0o040755)
    for name, data in files.items():
        add(name, 0o100755, data)
    add("TRAILER!!!", 0)
    return bytes(made)


def run(qemu: str, kernel: Path, folder: Path) -> Guest:
    """Run the guest; build it in a folder before."""
    files = dict(programs(kernel, folder)) | dict(modules(kernel))
    files |= {"device.ko": module(kernel, folder), "probes": probes().encode()}
    (folder / "initrd").write_bytes(archive(files, ("dev", "sys", "modules")))
    command = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"]
    # The firmware is a package of its own; QEMU does not look where `tests/interop/setup` has it.
    command += ["-L", str(Path(qemu).parent / "root/usr/share/seabios")]
    command += ["-machine", "pc", "-m", str(MEMORY), "-no-reboot", "-serial", "stdio"]
    command += ["-kernel", str(kernel / "kernel"), "-initrd", str(folder / "initrd")]
    words = "console=ttyS0 loglevel=5 oops=panic panic=-1 rdinit=/init --"
    command += ["-append", " ".join([words, str(DEPTH), *map(str, FLAGS)])]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as late:
        printed = (late.stdout or b"")[-4000:].decode(errors="replace")
        pytest.fail(f"the guest did not finish in {TIMEOUT_S} s:\n{printed}", pytrace=False)
    console = ran.stdout.decode(errors="replace").replace("\r", "")
    assert "=== end\n" in console, f"{console[-4000:]}{ran.stderr.decode(errors='replace')}"
    parts = {"suite": {}, "trace": {}}
    for kind, flags, text in re.findall(
        r"^=== (suite|trace) (\d+)\n(.*?)(?=^=== )", console, re.MULTILINE | re.DOTALL
    ):
        parts[kind][int(flags)] = text
    return Guest(parts["suite"], parts["trace"], console)
