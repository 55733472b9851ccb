"""`vfio-migration completion`, tried in a real bash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vfio_migration.cli.commands import completion
from vfio_migration.cli.main import main
from vfio_migration.model import load
from vfio_migration.model.edited import edits
from vfio_migration.model.history import forms
from vfio_migration.verifier import OBLIGATIONS

# As bash calls it: what is typed so far in COMP_WORDS, the answer in COMPREPLY.
TYPED = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
set -- $(complete -p vfio-migration)
while [ "$1" != -F ]; do shift; done
"$2" vfio-migration "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
STATES = {row.name for row in load().states}
IDS = {obligation.id for obligation in OBLIGATIONS}
TABLES = {form.name for form in forms()} | {edit.name for edit in edits()}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(params=completion._SHELLS)
def script(request, scripts: Path, capsys) -> Path:
    path = scripts / request.param
    if not path.exists():
        assert main(["completion", request.param]) == 0
        path.write_text(capsys.readouterr().out, "utf-8")
    return path


def offered(script: Path, folder: Path, *typed: str) -> set[str]:
    """Return what bash offers for the last word."""
    words = ["bash", "--norc", "-c", TYPED, "bash", str(script), "vfio-migration", *typed]
    done = subprocess.run(words, capture_output=True, check=True, text=True, cwd=folder)
    assert done.stderr == ""
    return {line.rstrip() for line in done.stdout.splitlines() if line}


def test_a_script_knows_commands_states_obligations_and_tables(script: Path) -> None:
    text = script.read_text("utf-8")
    for name in ("watch", *STATES, *IDS):
        assert name in text
    if script.name != "tcsh":  # there a file or a name is a file
        assert all(name in text for name in TABLES)


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_what_the_table_and_the_catalogue_have(script: Path, tmp_path: Path) -> None:
    (tmp_path / "stop.toml").touch()
    families = {name.rstrip("0123456789") for name in IDS}
    for typed, wanted in (
        (("wat",), {"watch"}),
        (("verify", "--only", ""), IDS | families),
        (("verify", "--only", "T4", "D1"), {name for name in IDS if name.startswith("D1")}),
        (("watch", "t.toml", "--only", "W"), {n for n in IDS | families if n.startswith("W")}),
        (("route", ""), STATES),
        (("route", "STOP", "PRE"), {name for name in STATES if name.startswith("PRE")}),
        (("diagram", "--route", "STOP", "STOP_"), {"STOP_COPY"}),
        (("diff", "builtin", "stop"), {"stop.toml", *(n for n in TABLES if n.startswith("stop"))}),
        (("diff", "a", "b", "--require", ""), set("123456")),
        (("mutate", "--only", "arc-r"), {"arc-removed", "arc-redirected"}),
        (("route", "--flags", "STOP_COPY,PR"), {"STOP_COPY,PRE_COPY"}),
        (("verify", "--aga"), {"--against"}),
        (("verify", "--plans", "st"), {"stop.toml"}),
        (("generate", "prom"), {"promela"}),
    ):
        assert offered(script, tmp_path, *typed) == wanted, typed


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_without_the_extra_everything_but_obligations_is_completed(
    script: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    for name in ("obligations.catalogue", "comparison.definitions", "mutation.edits"):
        monkeypatch.setitem(sys.modules, f"vfio_migration.verifier.{name}", None)
    assert main(["completion", "bash"]) == 0
    poor = tmp_path / "poor"
    poor.write_text(capsys.readouterr().out, "utf-8")
    assert offered(poor, tmp_path, "route", "PRE_COPY_") == {"PRE_COPY_P2P"}
    assert offered(poor, tmp_path, "verify", "--only", "T") == set()
    assert offered(script, tmp_path, "verify", "--only", "T4") == {"T4"}
