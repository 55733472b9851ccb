"""docs/groups.md: what is generated is up to date, and what is stated of files is so."""

from __future__ import annotations

import re

import groups_page
import pytest

from support.table_edits import ROOT

PAGE = groups_page.PAGE.read_text("utf-8")


def test_the_plans_and_obligations_are_those_of_the_tables():
    """If not: `python tools/groups_page.py`."""
    assert groups_page.put(PAGE, groups_page.sections()) == PAGE


def test_a_page_without_its_places_is_no_page():
    with pytest.raises(LookupError, match="has no place for plans"):
        groups_page.put("", groups_page.sections())


def test_the_figures_name_their_machine_and_have_a_row_for_each_size():
    figures = PAGE[PAGE.index("<!-- figures: generated -->") : PAGE.index("<!-- figures: end -->")]
    assert re.search(r"Measured on .*, spin \d", figures)
    rows = [line for line in figures.splitlines() if re.match(r"\| \d", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(groups_page.SIZES)


def test_the_files_it_names_are_there():
    for name in re.findall(r"`((?:model|tests|docs)/[\w./-]+)`", PAGE):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(g\d-[\w-]+)`", PAGE):
        assert (ROOT / f"tests/data/broken_plans/{name}.toml").is_file(), name
