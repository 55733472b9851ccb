"""`--journal` names a file, and no other: what is there is neither followed nor removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_support import complains

from support.migration_harness import Harness

LONG = "x" * 300
NONE = ("migrate", "s0", "d0"), ("recover", "s0", "d0"), ("recover", "s0", "d0", "--keep", "source")


@pytest.mark.parametrize("command", NONE)
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket"])
def test_a_journal_that_is_no_file(pair: Harness, cli, command, kind):
    Path("folder").mkdir()
    os.mkfifo("pipe")
    name = "d0" if kind == "socket" else kind
    why = f'--journal: "{name}": is a {kind}, and no journal; name a file'
    complains(cli(*command, "--journal", name), 2, why)
    assert Path(name).exists()
    assert pair.states == {"s0": "RUNNING", "d0": "RUNNING"}


@pytest.mark.parametrize("command", NONE)
def test_a_folder_beside_the_source(pair: Harness, cli, command):
    Path("s0.migration").mkdir()
    ran = cli(*command)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.endswith('s0.migration": is a folder, and no journal; name a file\n')


@pytest.mark.parametrize("command", NONE)
@pytest.mark.parametrize(
    ("name", "why"), [(LONG, "File name too long"), ("s0/j", "Not a directory"), ("a\0b", "null")]
)
def test_a_name_that_no_file_can_have(pair: Harness, cli, command, name, why):
    ran = cli(*command, "--journal", name)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith('vfio-migration: error: --journal: "')
    assert why in ran.err


@pytest.mark.parametrize("keep", [(), ("--keep", "source"), ("--keep", "destination")])
def test_a_socket_of_a_name_that_none_can_have(cli, keep):
    ran = cli("recover", LONG, *keep)
    assert (ran.status, "Traceback" in ran.err) == (1 if "source" in keep else 2, False)


def test_a_file_that_is_no_journal_is_not_removed(pair: Harness, cli):
    """With `--keep` a journal that cannot be read is given up; a recording is not, by mistake."""
    Path("run.jsonl").write_text('{"kind": "recording"}\n')
    why = "run.jsonl: this is not a journal of a migration, or it is damaged"
    hint = "  leave --journal out, or remove it yourself"
    complains(
        cli("recover", "s0", "d0", "--keep", "source", "--journal", "run.jsonl"), 2, why, hint
    )
    assert Path("run.jsonl").read_text() == '{"kind": "recording"}\n'


def test_a_damaged_journal_that_a_device_belongs_to_is_given_up(pair: Harness, cli):
    Path("journal").write_text("damaged")
    Path("s0.migration").symlink_to(Path("journal").resolve())
    arguments = ("recover", "s0", "d0", "--journal", "journal", "--keep", "source")
    assert cli(*arguments).status == 0
    assert not Path("journal").exists()
