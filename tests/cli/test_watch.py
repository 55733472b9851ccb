"""`vfio-migration watch`: a real process, real files, and what an editor does to them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vfio_migration.verifier
from support.table_edits import BROKEN, TABLE, broken, to_toml
from vfio_migration.cli.commands import watch
from vfio_migration.cli.main import main

GOOD = TABLE.read_text("utf-8")
BAD = to_toml(broken(BROKEN / "t2-silent-neighbours.toml")[1])
WRONG = GOOD.replace('initial = "RUNNING"', 'initial = "RUNING"')
NEVER_S = 120.0


class Watching:
    """A process that watches, with what it has printed so far."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.printed = folder / "printed"
        with self.printed.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vfio_migration", "watch", *words, "--jobs", "1"],
                stdout=out,
                stderr=out,
                cwd=folder,
            )

    def text(self) -> str:
        return self.printed.read_text("utf-8")

    def until(self, text: str, count: int = 1) -> None:
        """Wait until something has been printed so often."""
        deadline = time.monotonic() + NEVER_S
        while self.text().count(text) < count:
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(NEVER_S)


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Callable[..., Watching]]:
    started: list[Watching] = []

    def start(*words: str) -> Watching:
        started.append(Watching(tmp_path, *words))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_each_save_is_answered_however_the_file_is_saved_and_ctrl_c_ends_with_the_last_verdict(
    tmp_path: Path, watching: Callable[..., Watching]
) -> None:
    table = tmp_path / "t.toml"
    table.write_text(GOOD, "utf-8")
    program = watching("t.toml", "--only", "T1", "T2")
    program.until("proved in ")
    table.write_text(BAD, "utf-8")
    program.until("violated in ")
    assert "violated: T2 " in program.text()
    table.write_text(WRONG, "utf-8")
    program.until('initial: "RUNING": there is no such state')
    table.unlink()
    program.until("t.toml: is not there; waiting for it")
    replacement = tmp_path / "t.toml~"
    replacement.write_text(BAD, "utf-8")
    replacement.rename(table)  # it is back, and saved as an editor does that keeps the old one
    program.until("violated in ", 2)
    assert program.interrupt() == 1


def test_a_table_that_was_wrong_at_the_end_ends_with_2(
    tmp_path: Path, watching: Callable[..., Watching]
) -> None:
    (tmp_path / "t.toml").write_text(WRONG, "utf-8")
    program = watching("t.toml", "--only", "T1")
    program.until("error: ")
    assert program.interrupt() == 2


def test_only_what_is_otherwise_than_for_the_old_table_counts_and_that_is_read_again_too(
    tmp_path: Path, watching: Callable[..., Watching]
) -> None:
    (tmp_path / "new.toml").write_text(BAD, "utf-8")
    (tmp_path / "old.toml").write_text(GOOD, "utf-8")
    program = watching("new.toml", "--against", "old.toml", "--only", "T1", "T2")
    program.until("new.toml against old.toml: 1 newly violated (of 2 obligations)")
    (tmp_path / "old.toml").write_text(BAD, "utf-8")
    program.until("new.toml against old.toml: 1 still violated (of 2 obligations)")
    program.until("proved in ")
    assert program.interrupt() == 0


@pytest.mark.parametrize("name", ["missing.toml", "builtin", "git:HEAD"])
def test_what_is_no_file_is_not_waited_for(capsys, monkeypatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", name]) == 2
    assert f'SPEC: "{name}": is not a file' in capsys.readouterr().err


def test_a_name_that_is_wrong_is_reported_before_anything_is_watched(capsys) -> None:
    assert main(["watch", str(TABLE), "--only", "T99"]) == 2
    assert "there is no such obligation" in capsys.readouterr().err


@pytest.fixture
def asked(monkeypatch) -> list[object]:
    """The tables that a solver was asked about."""
    tables: list[object] = []
    verify = vfio_migration.verifier.verify

    def noted(spec, **options):
        tables.append(spec)
        return verify(spec, **options)

    monkeypatch.setattr(vfio_migration.verifier, "verify", noted)
    return tables


def session(path: Path) -> watch._Watch:
    options = {"spec": str(path), "against": None, "only": ["T1"], "timeout": None, "jobs": 1}
    return watch._Watch(Namespace(**options))


def test_a_change_of_prose_and_one_that_is_taken_back_ask_no_solver(
    tmp_path: Path, asked: list[object]
) -> None:
    path = tmp_path / "t.toml"
    one = session(path)
    for text, number in (
        (GOOD, 1),
        (GOOD.replace("The device is stopped.", "The device does nothing."), 1),
        (GOOD.replace('"RESUMING"\nvalue = 4', '"RESUMING"\nvalue = 9'), 2),
        (GOOD, 2),
    ):
        path.write_text(text, "utf-8")
        one._answer(one._signature())
        assert len(asked) == number
        assert one.status == 0


def test_what_is_saved_while_it_is_verified_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(GOOD, "utf-8")
    one = session(path)
    before = one._signature()
    path.write_text(BAD, "utf-8")
    with pytest.raises(watch._SavedAgainError):
        one._answer(before)
    one._answer(one._signature())


def test_a_tree_is_watched_by_the_files_that_are_read_of_it(tmp_path: Path) -> None:
    one = session(tmp_path)
    before = one._signature()
    (tmp_path / "notes").write_text("not read", "utf-8")
    assert one._signature()[1:] == before[1:]
    source = tmp_path / "drivers/vfio/vfio_main.c"
    source.parent.mkdir(parents=True)
    source.write_text("int x;\n", "utf-8")
    assert one._signature() != before
