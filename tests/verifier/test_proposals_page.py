"""docs/proposals.md: a section for each proposal, each as its verdicts make it."""

from __future__ import annotations

import re

import pytest
from proposals_page import PAGE, page

from support.table_edits import ROOT
from vfio_migration.model.edited import edits

TEXT = (ROOT / PAGE).read_text("utf-8")
NAMES = [edit.name for edit in edits()]


def section(text: str, name: str) -> str:
    found = re.search(rf"^## {name}: .*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_every_proposal_has_a_section_in_order() -> None:
    assert re.findall(r"^## ([\w-]+): ", TEXT, re.MULTILINE) == NAMES


@pytest.mark.exhaustive  # two tables are verified for each
@pytest.mark.parametrize("name", NAMES)
def test_a_section_is_as_the_verdicts_make_it(name: str) -> None:
    [edit] = [edit for edit in edits() if edit.name == name]
    assert section(page([edit]), name) == section(TEXT, name)
