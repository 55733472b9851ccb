"""The text of a plan, to the letter, and how it fits a terminal."""

from __future__ import annotations

import pytest

from support.plan_walk import ROOT, mixtures, pairs
from vfio_migration.diagrams import Pair, migration_view, to_text
from vfio_migration.diagrams.plan.text import NARROWEST
from vfio_migration.model import load

GOLDEN = ROOT / "tests/data/plans"
GOLDENS: dict[str, tuple[str, list[Pair], int]] = {
    "live-one.txt": ("live", pairs((1,)), 80),
    "live-two.txt": ("live", pairs((7, 7)), 80),
    "live-mixed-narrow.txt": ("live", [*pairs((7, 1)), Pair("/c", "/d", 3, 7)], 50),
    "offline-eight-wide.txt": ("offline", pairs((3, 3, 5, 7, 7, 7, 3, 7)), 120),
}


def text(name: str, group: list[Pair], width: int) -> str:
    return to_text(migration_view(load(), group, name), width)


@pytest.mark.parametrize("name", GOLDENS)
def test_the_text_is_the_one_on_record(name):
    """`python tests/support/plan_goldens.py` writes them anew; read the difference."""
    assert text(*GOLDENS[name]) == (GOLDEN / name).read_text("utf-8")


def test_no_text_on_record_is_of_no_use():
    assert {path.name for path in GOLDEN.iterdir()} == set(GOLDENS)


@pytest.mark.parametrize("width", [0, NARROWEST, 63, 80, 200])
def test_lines_fit_the_width(spec, width):
    for group in [*mixtures(1), *mixtures(2), *mixtures(8)]:
        for line in to_text(migration_view(spec, pairs(group, "/d")), width).splitlines():
            assert len(line) <= max(width, NARROWEST)
            assert line == line.rstrip()


def test_a_name_is_not_broken(spec):
    long = "/" + "x" * 90
    lines = to_text(migration_view(spec, [Pair(long, "/b", 7)]), 60).splitlines()
    assert f"     {long}" in lines or f"  1  {long} →" in lines or any(long in row for row in lines)


def test_what_does_not_happen_is_stated(spec):
    from dataclasses import replace

    view = migration_view(spec, pairs((7, 7)))
    assert "There is no downtime." in to_text(replace(view, downtime=None))
    endless = replace(view, downtime=replace(view.downtime, last=None))
    assert "the downtime does not end." in to_text(endless)
    assert "downtime ends" not in to_text(endless)
    assert "Left out" not in to_text(replace(view, idle=()))
    assert to_text(replace(view, stages=(), downtime=None)).startswith("Migration live: 2 devices.")
