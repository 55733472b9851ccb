"""The site that was built, and the directive in a manual of somebody else's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vfio_migration.model
from support.table_edits import ROOT

SITE = ROOT / os.environ["VFIO_MIGRATION_SITE"]
PAGE = """\
A manual
========

.. vfio-figure::

.. vfio-figure:: mine.toml
   :route: RUNNING STOP_COPY
   :flags: STOP_COPY
   :alt: From running to saving
   :name: a-path
   :no-title:
   :no-legend:

   The *path*, and :ref:`itself <a-path>`.

.. vfio-figure::
   :migration: live
"""

WRONG = """\
A manual
========

.. vfio-figure:: nowhere.toml

.. vfio-figure::
   :route: RUNNING STOPP

.. vfio-figure::
   :route: RUNNING

.. vfio-figure::
   :flags: PRECOPY

.. vfio-figure::
   :migration: slow

.. vfio-figure::
   :migration: live
   :route: STOP RUNNING
"""
Build = Callable[..., str]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build a manual of one page; return what Sphinx warned of."""
    table = Path(vfio_migration.model.__file__).parent / "vfio_v2.toml"

    def build(page: str, builder: str = "html") -> str:
        source = tmp_path / "source"
        source.mkdir()
        shutil.copy(table, source / "mine.toml")
        (source / "index.rst").write_text(page, "utf-8")
        extension = "extensions=vfio_migration.diagrams.sphinx_directive"
        words = [sys.executable, "-m", "sphinx", "-q", "-C", "-D", extension, "-b", builder]
        done = subprocess.run(
            [*words, source, tmp_path / builder],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
        return done.stderr

    return build


def test_the_site_has_pages_and_reference() -> None:
    for name in ("index", "obligations", "findings", "report", "decisions/README", "CHANGELOG"):
        assert (SITE / f"{name}.html").is_file(), name
    reference = (SITE / "reference" / "model.html").read_text("utf-8")
    assert 'id="vfio_migration.model.Machine.route"' in reference
    assert "<svg" in next((SITE / "_images").glob("vfio-*.svg")).read_text("utf-8")


def test_the_directive_draws_for_html(build: Build, tmp_path: Path) -> None:
    assert build(PAGE) == ""
    page = (tmp_path / "html" / "index.html").read_text("utf-8")
    pictures = sorted((tmp_path / "html" / "_images").iterdir())
    assert len(pictures) == 3
    assert {path.suffix for path in pictures} == {".svg"}
    assert all(path.name in page for path in pictures)
    texts = [path.read_text("utf-8") for path in pictures]
    assert sum(">STOP_COPY</text>" in text for text in texts) >= 2
    with_legend = [">arc that opens a data session</text>" in text for text in texts]
    assert sum(with_legend) == 2  # one of the three is drawn without
    assert 'alt="From running to saving"' in page
    assert "State STOP_COPY, value 3, stopped, session saving." in page


def test_the_directive_draws_for_latex(build: Build, tmp_path: Path) -> None:
    assert build(PAGE, "latex") == ""
    assert len(list((tmp_path / "latex").glob("vfio-*.pdf"))) == 3


def test_what_is_wrong_is_named_at_its_place(build: Build) -> None:
    warned = build(WRONG)
    problems = re.findall(r"index.rst:(\d+): ERROR: (.*)", warned)
    wanted = [
        (4, "cannot be read"),
        (6, 'did you mean "STOP"?'),
        (9, "`route` takes two states"),
        (12, 'did you mean "PRE_COPY"?'),
        (15, "slow"),
        (18, "one of them"),
    ]
    assert [int(line) for line, _ in problems] == [line for line, _ in wanted]
    for (_, found), (_, expected) in zip(problems, wanted, strict=True):
        assert expected in found
    assert "Traceback" not in warned
