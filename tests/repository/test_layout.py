"""The files of the repository: what must be there, and what pre-commit runs."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest
import yaml
from repository import ROOT, rooms


@pytest.mark.parametrize("room", rooms())
def test_a_room_is_a_typed_package(room: str) -> None:
    folder = rooms()[room]
    assert (folder / "py.typed").is_file()
    for path in folder.rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path
    assert (ROOT / "tests" / folder.name).is_dir()


def modules() -> list[str]:
    return sorted(
        ".".join((room, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        for room, folder in rooms().items()
        for path in folder.rglob("*.py")
        if ">>> " in path.read_text("utf-8")
    )


@pytest.mark.parametrize("module", modules())
def test_examples_in_docstrings_do_what_they_show(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_pre_commit_fetches_nothing() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repo["repo"] == "local"
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        program, *arguments = hook["entry"].split()
        if program == "make":
            target = next(word for word in arguments if not word.startswith("-"))
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        else:
            assert program.startswith(".venv/bin/")
