"""Outputs that cannot take what is written, and inputs without an end."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.samples import sample, sampled
from support.table_edits import ROOT
from vfio_migration.cli.main import main


def test_a_full_disk_is_no_answer():
    command = [sys.executable, "-m", "vfio_migration.cli.main", "tables"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_output_is_no_crash():
    shell = f"{sys.executable} -m vfio_migration.cli.main verify --only T1 >&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@sampled(3)
@pytest.mark.parametrize(
    ("command", "closed"),
    sample(
        itertools.product(
            ["verify --only T1", "mutate --list", "tables"],
            ["2>&-", "<&- 2>&-", "<&-", ">&- 2>&- <&-"],
        ),
        apart=5,
        spread=True,
    ),
)
def test_a_closed_stream_is_no_crash(command, closed):
    shell = f"{sys.executable} -m vfio_migration.cli.main {command} {closed}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (not closed.startswith(">&-"))


@pytest.mark.exhaustive
def test_a_complaint_with_nowhere_to_go_is_not_put_into_the_output():
    for words in ("route A B", "route", "replay nowhere", "serve /no/such/folder/socket"):
        shell = f"{sys.executable} -m vfio_migration.cli.main {words} 2>&-"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, ""), words


def test_a_diagram_is_written_to_a_pipe_and_does_not_replace_it(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert main(["diagram", "-o", str(pipe), "--format", "dot"]) == 0
    reader.join(timeout=60)
    assert read[0].startswith(b"digraph")
    assert pipe.is_fifo()


def test_a_diagram_goes_where_a_link_leads(tmp_path):
    link, target = tmp_path / "link.dot", tmp_path / "target.dot"
    target.write_text("old", "utf-8")
    link.symlink_to(target)
    assert main(["diagram", "-o", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_text("utf-8").startswith("digraph")


def test_a_file_without_an_end_is_no_table(capsys):
    assert main(["verify", "/dev/zero"]) == 2
    assert "so this is not a table" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["-1", "x", "", "9" * 20, "\u0663"])
def test_what_is_no_descriptor_is_refused(capsys, given):
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--fd", given])
    assert stop.value.code == 2
    assert "is not a descriptor" in capsys.readouterr().err


def test_the_table_itself_is_not_too_large():
    from vfio_migration.model.bounds import MAX_TABLE_BYTES

    assert (ROOT / "model/vfio_v2.toml").stat().st_size * 10 < MAX_TABLE_BYTES
