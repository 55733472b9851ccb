"""The programs that README.md and docs/embed.md show in C, Rust and Python: each is built and run.

What one prints is the next block of text on its page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import ROOT

from support import compilers, generated
from vfio_migration.generators import c_files, python_file, rust_file
from vfio_migration.model import load
from vfio_migration.model.plan import load_plans

PAGES = ("README.md", "docs/embed.md")
BLOCK = re.compile(r"^```(c|rust|python|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MODULE = "vfio_v2"
README_LINES = 10
FUNCTIONS = ("made", "set", "reset", "gone", "step", "said")
"""What the library below calls the module by."""


def shown() -> list[tuple[str, str, str, str]]:
    """Return page, language, program and what it prints."""
    found = []
    for page in PAGES:
        blocks = [match.groups() for match in BLOCK.finditer((ROOT / page).read_text("utf-8"))]
        for at, (language, text) in enumerate(blocks):
            if language != "text":
                prints = next(other for kind, other in blocks[at:] if kind == "text")
                found.append((page, language, text, prints))
    return found


def run_c(folder: Path, program: str) -> str:
    files = c_files(generated.compiled_of("vfio-v2"), MODULE, "a test", "0")
    compilers.written(folder, {**files, "main.c": program})
    words = [*compilers.c_compiler("gcc"), "-std=c11", "-Wall", "-Wextra", "-Werror"]
    compilers.run([*words, "main.c", f"{MODULE}.c", "-o", "main"], folder)
    return compilers.run([folder / "main"], folder).stdout


def run_rust(folder: Path, program: str) -> str:
    engine = rust_file(generated.compiled_of("vfio-v2"), MODULE, "a test", "0")
    compilers.written(folder, {f"{MODULE}.rs": engine, "main.rs": program})
    words = [compilers.rustc(), "--edition", "2021", "-D", "warnings", "main.rs", "-o", "main"]
    compilers.run(words, folder)
    return compilers.run([folder / "main"], folder).stdout


def run_python(folder: Path, program: str) -> str:
    engine = python_file(generated.compiled_of("vfio-v2"), "a test", "0")
    compilers.written(folder, {f"{MODULE}.py": engine, "main.py": program})
    return compilers.run([sys.executable, "-S", "main.py"], folder).stdout


RUN: dict[str, Callable[[Path, str], str]] = {"c": run_c, "rust": run_rust, "python": run_python}


@pytest.mark.parametrize(
    ("page", "language", "program", "prints"),
    shown(),
    ids=[f"{page}-{language}" for page, language, *_ in shown()],
)
def test_a_program_prints_what_is_below_it(
    page: str, language: str, program: str, prints: str, tmp_path: Path
) -> None:
    assert RUN[language](tmp_path, program) == prints


def test_each_language_is_shown_on_each_page() -> None:
    assert [block[:2] for block in shown()] == [(page, one) for page in PAGES for one in RUN]
    short = [text for page, _, text, _ in shown() if page == "README.md"]
    assert all(len(text.splitlines()) <= README_LINES for text in short)


def test_the_example_in_c_migrates_its_devices(tmp_path: Path) -> None:
    compiler = compilers.c_compiler("gcc")
    plans = load_plans(load())
    files = c_files(generated.compiled_of("vfio-v2"), MODULE, "a test", "0", plans)
    compilers.written(tmp_path, files)
    source = ROOT / "examples" / "c" / "walk.c"
    words = [
        *compiler,
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-I",
        str(tmp_path),
    ]
    compilers.run([*words, source, f"{MODULE}.c", "-o", "walk", *compilers.SANITIZED], tmp_path)
    lines = compilers.run([tmp_path / "walk"], tmp_path).stdout.splitlines()
    assert lines[-2:] == ["destination disk: RUNNING with 42", "destination nic: RUNNING with 8"]
    steps = [line.strip() for line in lines]
    # No source is stopped before all are quiesced.
    quiesced = max(steps.index(f"source {name}") for name in QUIESCING)
    assert quiesced < min(steps.index(f"source {name}") for name in STOPPING)


QUIESCING = ("disk: PRE_COPY -> PRE_COPY_P2P", "nic: RUNNING -> RUNNING_P2P")
STOPPING = ("disk: PRE_COPY_P2P -> STOP_COPY", "nic: RUNNING_P2P -> STOP")


@pytest.mark.exhaustive
def test_its_makefile_makes_it_and_notices_a_change(tmp_path: Path) -> None:
    compilers.c_compiler("gcc")
    make = compilers.tool("make", "apt-get install make")
    for name in ("walk.c", "Makefile"):
        (tmp_path / name).write_text((ROOT / "examples" / "c" / name).read_text("utf-8"), "utf-8")
    command = f"GENERATE={sys.executable} -m vfio_migration generate c --plans -o ."
    compilers.run([make, command, "walk", "check"], tmp_path)
    header = tmp_path / f"{MODULE}.h"
    header.write_text(header.read_text("utf-8").replace("RESUMING = 4", "RESUMING = 5"), "utf-8")
    with pytest.raises(AssertionError, match=r"vfio_v2\.h: is not what the table specifies"):
        compilers.run([make, command, "check"], tmp_path)


def test_the_rust_module_has_no_way_to_a_panic(tmp_path: Path) -> None:
    library = """\
#![no_std]
pub mod engine;
use engine::{Arc, Device, Effect, Engine, Failure, RequestError, State, Step, Refusal};
pub struct Nothing(pub u32);
impl Device for Nothing {
    fn take(&mut self, arc: Arc, _: Option<u64>, _: Effect) -> Result<(), Failure> {
        self.0 = arc.to.value();
        if self.0 == 9 { Err(Failure::Back(None)) } else { Ok(()) }
    }
    fn reset(&mut self, to: State) -> Result<(), Failure> { self.0 = to.value(); Ok(()) }
}
#[inline(never)]
pub fn made(flags: u64) -> Result<Engine<Nothing>, Refusal> { Engine::new(flags, Nothing(0)) }
#[inline(never)]
pub fn set(engine: &mut Engine<Nothing>, target: u32) -> Result<State, RequestError> {
    engine.set_state(target)
}
#[inline(never)]
pub fn reset(engine: &mut Engine<Nothing>) -> bool { engine.reset().is_ok() }
#[inline(never)]
pub fn gone(engine: &mut Engine<Nothing>) -> bool { engine.disconnect().is_ok() }
#[inline(never)]
pub fn step(flags: u64, from: u32, to: u32) -> Result<Option<Step>, Refusal> {
    engine::next_step(flags, from, to)
}
#[inline(never)]
pub fn said(refusal: Refusal) -> (&'static str, &'static str, i32) {
    (refusal.name(), refusal.reason(), refusal.errno())
}
"""
    for table in ("vfio-v2", "gaps"):
        engine = rust_file(generated.compiled_of(table), "engine", "a test", "0")
        compilers.written(tmp_path, {"engine.rs": engine, "lib.rs": library})
        words = [compilers.rustc(), "--edition", "2021", "-O", "--crate-type", "lib"]
        compilers.run([*words, "--emit", "asm", "lib.rs", "-o", "lib.s"], tmp_path)
        assembly = (tmp_path / "lib.s").read_text("utf-8")
        assert all(f"3lib{len(name)}{name}" in assembly for name in FUNCTIONS)
        assert "panic" not in assembly
        assert "unsafe" not in re.sub(r"//.*|forbid\(unsafe_code\)", "", engine)


def test_a_panic_would_be_found(tmp_path: Path) -> None:
    text = "#![no_std]\n#[inline(never)]\npub fn at(rows: &[u8], n: usize) -> u8 { rows[n] }\n"
    compilers.written(tmp_path, {"lib.rs": text})
    words = [compilers.rustc(), "--edition", "2021", "-O", "--crate-type", "lib"]
    compilers.run([*words, "--emit", "asm", "lib.rs", "-o", "lib.s"], tmp_path)
    assert "panic" in (tmp_path / "lib.s").read_text("utf-8")
