"""`vfio-migration migrate --dry-run`: the plan in words and as a picture, and nothing is done."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from cli_support import complains, files, until

from support.migration_harness import FaultyMemory, Harness
from support.open_descriptors import opened, opened_at_rest
from support.table_edits import ROOT
from vfio_migration.model.extras import install_command


def test_a_dry_run_is_words_and_changes_nothing(two: Harness, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cli("migrate", "s0", "d0", "s1", "d1", "--dry-run")
    before = two.states, list(two.arcs), opened_at_rest()
    ran = cli("migrate", "s0", "d0", "s1", "d1", "--dry-run")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == (ROOT / "tests/cli/golden/dry-run.txt").read_text("utf-8")
    assert before[:2] == (two.states, two.arcs)
    for _ in range(10):  # a server may have been closing some when they were counted
        cli("migrate", "s0", "d0", "s1", "d1", "--dry-run")
    until(lambda: opened() <= before[2], "a descriptor is left open")
    assert files() == ["d0", "d1", "s0", "s1"]


def test_a_dry_run_is_the_run(pair: Harness, cli):
    plan = cli("migrate", "s0", "d0", "--dry-run").out
    ran = cli("migrate", "s0", "d0", "--json")
    reported = [(one["phase"], one["side"], one["plan"]) for one in ran.of("phase")]
    assert reported == [
        match
        for match in re.findall(r"\d\. (\S+) \((\w+), plan (\S+)\)", plan)
        if match[0] != "passes"
    ]


def test_a_dry_run_as_json(pair: Harness, cli):

    ran = cli("migrate", "s0", "d0", "--dry-run", "--json")
    assert (ran.status, ran.err) == (0, "")
    plan = json.loads(ran.out)
    assert (plan["name"], plan["title"]) == ("live", "Migration live: 1 device")
    assert [(one["label"], one["state"]) for one in plan["lanes"]] == [
        ("s0", "RUNNING"),
        ("d0", "RUNNING"),
    ]
    offline = json.loads(cli("migrate", "s0", "d0", "--dry-run", "--json", "--no-pre-copy").out)
    assert offline["name"] == "offline"
    assert pair.arcs == []


@pytest.mark.parametrize(
    ("name", "begins"),
    [("x.svg", b"<svg "), ("x.png", b"\x89PNG"), ("x.dot", b"digraph"), ("x.MMD", b"")],
)
def test_a_dry_run_draws(pair: Harness, cli, name, begins):
    ran = cli("migrate", "s0", "d0", "--dry-run", "-o", name)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.endswith(f"\n{name}: the same as a picture\n")
    data = Path(name).read_bytes()
    assert begins in data[:200]
    if not name.endswith("png"):
        assert b"s0" in data
    assert pair.arcs == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x.gif", "its ending names no format; end it in .svg, .png, .pdf, .dot or .mmd"),
        ("x", "its ending names no format; end it in .svg, .png, .pdf, .dot or .mmd"),
    ],
)
def test_a_picture_of_no_kind(pair: Harness, cli, name, why):
    complains(cli("migrate", "s0", "d0", "--dry-run", "-o", name), 2, f"-o {name}: {why}")
    ran = cli("migrate", "s0", "d0", "--dry-run", "-o", "nowhere/x.svg")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("vfio-migration: error: --output: ")
    problem = "cannot be written: No such file or directory (ENOENT)"
    assert ran.err.endswith(f": {problem}; make its folder first\n")


def test_a_dry_run_of_what_cannot_be(pair: Harness, cli):
    pair.serve("d1", FaultyMemory)
    assert cli("migrate", "s0", "d1", "--dry-run").status == 1
    assert cli("migrate", "s0", "nowhere", "--dry-run").status == 2
    for name in ("s2", "d2", "s3", "d3"):
        pair.serve(name, capabilities="STOP_COPY")
    ran = cli("migrate", "s2", "d2", "s3", "d3", "--dry-run", "-o", "x.svg")
    assert ran.status == 1
    assert "obligation G3" in ran.err
    assert not Path("x.svg").exists()


def test_a_plan_that_gets_stuck_is_a_refusal(pair: Harness, cli, monkeypatch):
    from vfio_migration import diagrams

    def stuck(*_: object, **_options: object) -> None:
        raise diagrams.PlanError("s0: phase stop of plan save does not lead on from PRE_COPY")

    monkeypatch.setattr(diagrams, "migration_view", stuck)
    why = "s0: phase stop of plan save does not lead on from PRE_COPY"
    complains(cli("migrate", "s0", "d0", "--dry-run"), 1, why)


def test_a_dry_run_without_the_packages_that_draw(pair: Harness, cli, monkeypatch):
    for name in ("graphviz", "pygraphviz"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli("migrate", "s0", "d0", "--dry-run").status == 0
    ran = cli("migrate", "s0", "d0", "--dry-run", "-o", "x.svg")
    assert ran.status == 2
    assert install_command("diagrams") in ran.err
