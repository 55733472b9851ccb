"""The design page is true: its picture is that of the imports, and each decision is listed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from repository import ROOT

DECISIONS = ROOT / "docs" / "decisions"


@pytest.fixture
def tool() -> ModuleType:
    about = importlib.util.spec_from_file_location("picture", ROOT / "tools" / "rooms_picture.py")
    assert about is not None
    assert about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


def test_the_picture_of_the_rooms_is_that_of_the_imports(tool: ModuleType) -> None:
    """Made anew by `python tools/rooms_picture.py`."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    assert tool.page(text) == text


def test_an_import_that_runs_up_is_named(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upward = tmp_path / "arc.py"
    upward.write_text("from vfio_migration.runtime.server import Server\n")
    modules = {**tool.modules(), "runtime.engine.arc": upward}
    monkeypatch.setattr(tool, "modules", lambda: modules)
    with pytest.raises(ValueError, match=r"in a circle: .*runtime\.engine"):
        tool.picture()


def test_an_import_that_goes_is_missed(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tool.picture()
    modules = {name: path for name, path in tool.modules().items() if "coordinator" not in name}
    monkeypatch.setattr(tool, "modules", lambda: modules)
    assert tool.picture() != before


def test_each_decision_is_listed_with_its_title() -> None:
    listed = dict(re.findall(r"\]\((\d.*\.md)\) \| (.*) \|", (DECISIONS / "README.md").read_text()))
    records = {path.name: path.read_text("utf-8") for path in DECISIONS.glob("0*.md")}
    titles = {name: text.splitlines()[0].partition(". ")[2] for name, text in records.items()}
    assert listed == titles
    for text in records.values():
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Rejected"))
