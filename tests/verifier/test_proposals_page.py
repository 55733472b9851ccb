"""docs/proposals.md: a section for each proposal, each as its verdicts make it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.samples import sampled
from support.table_edits import ROOT
from vfio_migration.model import load
from vfio_migration.model.edited import apply, proposals
from vfio_migration.model.plan import plans_from
from vfio_migration.verifier import verify

TEXT = (ROOT / "docs/proposals.md").read_text("utf-8")
PLANS = sorted((ROOT / "docs/examples/proposed-plans").glob("*.toml"))
NAMES = [edit.name for edit in proposals()]


def section(text: str, name: str) -> str:
    found = re.search(rf"^## {name}: .*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_every_proposal_has_a_section_in_order() -> None:
    assert re.findall(r"^## ([\w-]+): ", TEXT, re.MULTILINE) == NAMES


@pytest.mark.exhaustive
def test_what_no_table_of_states_expresses_is_as_the_verdicts_make_it() -> None:
    tool = [sys.executable, "tools/proposals_page.py", "others"]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=True)
    assert TEXT.endswith(done.stdout)
    for outcome in ("| G4 | **violated** |", "| G5 | **proved** |", "| R1 | **proved** |"):
        assert outcome in done.stdout


@sampled(2)
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_reset_among_stopped_devices_is_what_a_changed_plan_does_wrong(path: Path) -> None:
    group = tomllib.loads((ROOT / "model/group_plan.toml").read_text("utf-8"))
    plans = plans_from(load(), apply(tomllib.loads(path.read_text("utf-8")), group))
    [verdict] = verify(load(), plans=plans, only=["G4"]).verdicts
    assert verdict.outcome == "violated"
    assert verdict.example is not None
    first = re.search(r"device (\d): reset; then device \1 in RUNNING may", verdict.example.text)
    assert first is not None, verdict.example.text
    assert f"### {path.stem}: " in TEXT


@pytest.mark.exhaustive  # two tables are verified for each
@pytest.mark.parametrize("name", NAMES)
def test_a_section_is_as_the_verdicts_make_it(name: str) -> None:
    tool = [sys.executable, "tools/proposals_page.py", name]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=True)
    assert section(done.stdout, name) == section(TEXT, name)
