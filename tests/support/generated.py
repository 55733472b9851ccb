"""Generated engines for the tests: each table compiled and answered once a process."""

from __future__ import annotations

import functools
from pathlib import Path

from support import compilers
from support.odd_tables import TABLES
from vfio_migration.generators import (
    Compiled,
    answers,
    c_evidence,
    c_files,
    compile_table,
    python_evidence,
    python_file,
    rust_evidence,
    rust_file,
)
from vfio_migration.generators.answers import ANSWERS_FILE
from vfio_migration.model.plan import Plans

NAME = "engine"


@functools.cache
def compiled_of(table: str) -> Compiled:
    """Return a table of `TABLES`, compiled."""
    return compile_table(TABLES[table]())


@functools.cache
def answers_of(table: str) -> str:
    """Return what the engine of this package answers for it."""
    return answers(compiled_of(table))


def c_folder(folder: Path, compiled: Compiled, plans: Plans | None = None) -> Path:
    """Write the engine in C and its evidence into a folder."""
    files = c_files(compiled, NAME, "a test", "0", plans) | c_evidence(compiled, NAME, "a test")
    return compilers.written(folder, files | {ANSWERS_FILE: answers(compiled)})


def rust_folder(folder: Path, compiled: Compiled) -> Path:
    """Write the engine in Rust and its evidence into a folder."""
    files = {f"{NAME}.rs": rust_file(compiled, NAME, "a test", "0")}
    return compilers.written(folder, files | rust_evidence(compiled, NAME, "a test"))


def python_folder(folder: Path, compiled: Compiled) -> Path:
    """Write the engine in Python and its evidence into a folder."""
    files = {f"{NAME}.py": python_file(compiled, "a test", "0")}
    return compilers.written(folder, files | python_evidence(compiled, NAME, "a test"))


def c_program(folder: Path, compiler: list[str], *options: str) -> Path:
    """Build the evidence of a folder that `c_folder` has written."""
    sources = (f"{NAME}_evidence.c", f"{NAME}.c")
    compilers.run([*compiler, *compilers.STRICT, *options, *sources, "-o", "evidence"], folder)
    return folder / "evidence"


def rust_program(folder: Path, *options: str) -> Path:
    """Build the evidence of a folder that `rust_folder` has written."""
    words = [compilers.rustc(), "--edition", "2021", "-D", "warnings", *options]
    compilers.run([*words, f"{NAME}_evidence.rs", "-o", "evidence"], folder)
    return folder / "evidence"
