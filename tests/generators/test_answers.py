"""Each generated engine answers every request as the engine of this package does, byte for byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from support import compilers, generated
from support.odd_tables import TABLES
from support.samples import sample_where, sampled

QUICK = ("vfio-v2", "strange-answers")
"""The tables of `make test`; `make exhaustive` takes the others."""


def tables() -> list[Any]:
    return sample_where(TABLES, lambda name: name in QUICK)


def assert_same(answer: str, table: str) -> None:
    wanted = generated.answers_of(table)
    if answer != wanted:  # not `assert ==`: the difference of two megabytes takes minutes
        pairs = zip(answer.splitlines(), wanted.splitlines(), strict=False)
        number, (is_, ought) = next(
            (at, pair) for at, pair in enumerate(pairs) if len(set(pair)) > 1
        )
        pytest.fail(f"line {number}: {is_}\n    ought to be: {ought}")


@pytest.mark.parametrize("table", tables())
@pytest.mark.parametrize("compiler", compilers.C_COMPILERS)
def test_in_c(table: str, compiler: str, tmp_path: Path) -> None:
    called = compilers.c_compiler(compiler)
    folder = generated.c_folder(tmp_path, generated.compiled_of(table))
    assert_same(compilers.run([generated.c_program(folder, called, "-O2")], folder).stdout, table)


@sampled(2)
@pytest.mark.parametrize("table", tables())
def test_in_c_under_sanitizers(table: str, tmp_path: Path) -> None:
    called = compilers.c_compiler("gcc")
    folder = generated.c_folder(tmp_path, generated.compiled_of(table))
    program = generated.c_program(folder, called, *compilers.SANITIZED)
    assert_same(compilers.run([program], folder).stdout, table)


@sampled(3)
@pytest.mark.parametrize("table", tables())
@pytest.mark.parametrize("options", [("-O",), ("-C", "debug-assertions=on")], ids=["-O", "checked"])
def test_in_rust(table: str, options: tuple[str, ...], tmp_path: Path) -> None:
    folder = generated.rust_folder(tmp_path, generated.compiled_of(table))
    assert_same(compilers.run([generated.rust_program(folder, *options)], folder).stdout, table)


@pytest.mark.parametrize("table", tables())
def test_in_python(table: str, tmp_path: Path) -> None:
    folder = generated.python_folder(tmp_path, generated.compiled_of(table))
    # -S: not even what is installed beside it.
    words = [sys.executable, "-S", f"{generated.NAME}_evidence.py"]
    assert_same(compilers.run(words, folder).stdout, table)


@pytest.mark.parametrize("capabilities", ["STOP_COPY", "STOP_COPY,PRE_COPY", "STOP_COPY,P2P"])
def test_with_what_a_device_never_has_left_out(capabilities: str, tmp_path: Path) -> None:
    compiled = generated.compile_table(TABLES["vfio-v2"](), capabilities)
    folder = generated.python_folder(tmp_path, compiled)
    words = [sys.executable, "-S", f"{generated.NAME}_evidence.py"]
    answered = compilers.run(words, folder).stdout
    assert answered == generated.answers(compiled)
    assert answered.count("\n") < generated.answers_of("vfio-v2").count("\n")


def test_the_answers_hold_every_cell_that_linux_answers(linux_paths: dict[str, Any]) -> None:
    values = {row.name: row.value for row in generated.compiled_of("vfio-v2").states}
    lines = dict(line.split(": ", 1) for line in generated.answers_of("vfio-v2").splitlines())
    cells = 0
    for flags, rows in linux_paths.items():
        for from_, row in rows.items():
            for to, path in row.items():
                cells += 1
                answer = lines[f"next {flags} {values[from_]} {values[to]}"]
                if path is None:
                    assert answer.startswith("refused "), (flags, from_, to)
                else:
                    step = values[path[0] if path else from_]
                    assert answer.startswith(f"to {step} "), (flags, from_, to)
    assert cells == 256


def test_every_place_is_asked_everything() -> None:
    lines = generated.answers_of("vfio-v2").splitlines()
    kinds = {kind: sum(line.startswith(f"{kind} ") for line in lines) for kind in ("set", "reset")}
    # 25 states in four capability sets, six fates each.
    assert kinds["reset"] == 25 * 6
    targets = {line.split()[2].rstrip(":") for line in lines if line.startswith("set ")}
    assert targets >= {str(value) for value in range(9)} | {str((1 << 32) - 1)}
    assert any(" failed 28 at " in line for line in lines)
    assert any("session 3" in line or "opens 3" in line for line in lines)
