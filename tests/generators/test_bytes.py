"""Every byte of the generated tables counts: change one, and the answers are others.

The table is found in the program that was built, and one byte of a copy of it is changed.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support import compilers, generated
from support.samples import sample, sampled

LANGUAGES = ("c", "rust")
PIECE = 1 << 16


def table_bytes() -> bytes:
    compiled = generated.compiled_of("vfio-v2")
    return bytes(cell for matrix in compiled.cells for line in matrix for cell in line)


@pytest.fixture(scope="module", params=LANGUAGES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    compiled = generated.compiled_of("vfio-v2")
    if request.param == "c":
        generated.c_folder(folder, compiled)
        return generated.c_program(folder, compilers.c_compiler("gcc"), "-O2")
    return generated.rust_program(generated.rust_folder(folder, compiled), "-O")


def pieces(program: Path) -> Iterator[bytes]:
    """Yield what a program prints; nothing more once the reader has seen enough."""
    with subprocess.Popen([program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield from iter(lambda: process.stdout.read(PIECE), b"")  # type: ignore[union-attr]
        finally:
            process.kill()


def answers_as_it_ought(program: Path) -> bool:
    wanted, at = generated.answers_of("vfio-v2").encode(), 0
    for piece in pieces(program):
        if wanted[at : at + len(piece)] != piece:
            return False
        at += len(piece)
    return at == len(wanted)


def changes() -> list[Any]:
    """Every byte, with another value for each; a few of them in `make test`."""
    return sample(range(len(table_bytes())), apart=97)


@sampled(2)
@pytest.mark.parametrize("place", changes())
def test_a_changed_byte_is_noticed(place: int, program: Path, tmp_path: Path) -> None:
    whole = program.read_bytes()
    table = table_bytes()
    assert whole.count(table) == 1
    start = whole.index(table)
    changed = tmp_path / "changed"
    for flip in (1, 2, 4, 8, 16, 32, 64, 128):
        data = bytearray(whole)
        data[start + place] ^= flip
        changed.write_bytes(data)
        changed.chmod(0o755)
        assert not answers_as_it_ought(changed), f"bit {flip} of byte {place} counts for nothing"
        changed.unlink()


def test_an_unchanged_table_answers_as_it_ought(program: Path) -> None:
    assert answers_as_it_ought(program)


@pytest.fixture(scope="module")
def python_evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The program in Python, imported: its engine's table can then be changed where it stands."""
    folder = tmp_path_factory.mktemp("python")
    generated.python_folder(folder, generated.compiled_of("vfio-v2"))
    sys.path.insert(0, str(folder))
    names = (generated.NAME, f"{generated.NAME}_evidence")
    try:
        yield importlib.import_module(names[1])
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)


def steps_as_they_ought(evidence: ModuleType, wanted: list[str]) -> bool:
    try:
        return bool(evidence.all_steps() == wanted)
    except IndexError:  # a number that the module has no state, effect or refusal for
        return False


@pytest.mark.parametrize("row", sample(range(4 * 8), apart=7))
def test_a_changed_byte_is_noticed_in_python(row: int, python_evidence: ModuleType) -> None:
    """A row of the table of Python: eight targets, and what no state has."""
    engine = python_evidence.engine
    lines = generated.answers_of("vfio-v2").splitlines()
    wanted = [line for line in lines if line.startswith("next ")]
    right = engine._CELLS
    assert len(right) == 4 * 8 * 9
    try:
        for place in range(9 * row, 9 * row + 9):
            for bit in range(8):
                engine._CELLS = (*right[:place], right[place] ^ 1 << bit, *right[place + 1 :])
                assert not steps_as_they_ought(python_evidence, wanted), (place, bit)
    finally:
        engine._CELLS = right
    assert steps_as_they_ought(python_evidence, wanted)
