"""The design page is true: its picture is that of the imports, and each decision is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import rooms_picture
from repository import ROOT

DECISIONS = ROOT / "docs" / "decisions"


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    """Made anew by `python tools/rooms_picture.py`."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    assert rooms_picture.page(text) == text


@pytest.mark.exhaustive
def test_an_import_that_runs_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upward = tmp_path / "arc.py"
    upward.write_text("from vfio_migration.runtime.server import Server\n")
    modules = {**rooms_picture.modules(), "runtime.engine.arc": upward}
    monkeypatch.setattr(rooms_picture, "modules", lambda: modules)
    with pytest.raises(ValueError, match=r"in a circle: .*runtime\.engine"):
        rooms_picture.picture()


@pytest.mark.exhaustive
def test_an_import_that_goes_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rooms_picture.picture()
    modules = {
        name: path for name, path in rooms_picture.modules().items() if "coordinator" not in name
    }
    monkeypatch.setattr(rooms_picture, "modules", lambda: modules)
    assert rooms_picture.picture() != before


def test_each_decision_is_listed_with_its_title() -> None:
    listed = dict(re.findall(r"\]\((\d.*\.md)\) \| (.*) \|", (DECISIONS / "README.md").read_text()))
    records = {path.name: path.read_text("utf-8") for path in DECISIONS.glob("0*.md")}
    titles = {name: text.splitlines()[0].partition(". ")[2] for name, text in records.items()}
    assert listed == titles
    for text in records.values():
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Rejected"))
