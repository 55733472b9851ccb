"""The patches for other manuals: up to date, applied by git, and read by docutils as they stand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path, PurePosixPath

import adopt_page
import pygraphviz
import pytest

from vfio_migration.diagrams import tables

ROOT = Path(__file__).resolve().parents[2]
NAMES = [tree.name for tree in adopt_page.trees()]


@pytest.fixture(params=NAMES)
def tree(request) -> adopt_page.Tree:
    return next(one for one in adopt_page.trees() if one.name == request.param)


def test_the_page_and_the_patches_are_as_they_would_be_made(capsys):
    """If not: `python tools/adopt_page.py`."""
    assert adopt_page.main(["--check", "--output", str(ROOT / "docs")]) == 0, (
        capsys.readouterr().out
    )
    kept = {path.name for path in (ROOT / "docs/adopting").iterdir()}
    assert kept == {f"{name}.patch" for name in NAMES}


def test_a_changed_byte_of_a_patch_is_noticed(tmp_path, capsys):
    shutil.copytree(ROOT / "docs/adopting", tmp_path / "adopting")
    shutil.copy(ROOT / "docs/adopting.md", tmp_path)
    assert adopt_page.main(["--check", "--output", str(tmp_path)]) == 0
    patch = tmp_path / "adopting/qemu.patch"
    patch.write_text(patch.read_text("utf-8").replace("PRE_COPY", "PRE_C0PY", 1), "utf-8")
    assert adopt_page.main(["--check", "--output", str(tmp_path)]) == 1
    assert "PRE_C0PY" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_patch_adds_the_files_of_the_page(tree, whole, tmp_path):
    """To a tree of any version, for it changes no file; and no line ends in a space."""
    patch = ROOT / "docs/adopting" / f"{tree.name}.patch"
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", "--whitespace=error-all", str(patch)], cwd=tmp_path, check=True)
    for path, content in adopt_page.added(tree, whole).items():
        assert (tmp_path / path).read_text("utf-8") == content


def test_a_page_of_a_manual_is_read_by_docutils_without_a_complaint(tree, whole):
    """Where the kernel has `kernel-figure`, `figure` takes its place."""
    core = pytest.importorskip("docutils.core")
    files = adopt_page.added(tree, whole)
    text = files[tree.page]
    if not tree.page.endswith(".rst"):
        assert text.count("```") == 2
        return
    text = text.replace(".. kernel-figure::", ".. figure::")
    settings = {"report_level": 2, "halt_level": 2}
    document = core.publish_doctree(text, settings_overrides=settings)
    assert tree.heading in document.astext()
    tables = [part for part in tree.parts if "table" in part]
    assert len(list(document.findall(lambda node: node.tagname == "table"))) == len(tables)
    images = list(document.findall(lambda node: node.tagname == "image"))
    for image in images:
        assert all(state.name in image["alt"] for state in whole.states)
        path = PurePosixPath(tree.page).with_name(image["uri"])
        assert pygraphviz.AGraph(string=files[str(path)]).number_of_edges() > len(whole.arcs)


def test_a_finding_that_is_answered_is_on_the_page_of_findings(tree):
    headings = (ROOT / "docs/findings.md").read_text("utf-8").split("\n")
    for finding in tree.findings:
        assert f"## {finding.title}" in headings
    proposed = [part["proposal"] for part in tree.parts if "proposal" in part]
    assert set(proposed) <= {finding.id for finding in tree.findings}


def test_the_next_steps_are_those_of_a_device_with_everything(tree, whole):
    document = "rst" if tree.page.endswith(".rst") else "md"
    wanted = tables(whole.spec, document, only=["next-steps"], flags=7)
    asked = any(part.get("table") == "next-steps" for part in tree.parts)
    assert (wanted.strip() in adopt_page.added(tree, whole)[tree.page]) == asked
