"""Proposals and history that come with the package: tables as edits of others, with a source."""

from __future__ import annotations

import pytest

from vfio_migration.model import from_data, load
from vfio_migration.model.edited import edits, proposals
from vfio_migration.model.history import named
from vfio_migration.model.load import to_data

NAMES = [edit.name for edit in edits()]


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_is_a_table_by_its_name_and_states_where_it_is_from(name: str) -> None:
    spec = named(name)
    [edit] = [edit for edit in edits() if edit.name == name]
    assert spec is not None
    assert (spec.name, spec.title) == (name, edit.title)
    assert spec != named(edit.base)
    assert edit.source
    assert from_data(to_data(spec)) == spec


def test_what_has_an_answer_is_a_proposal_and_the_rest_is_history() -> None:
    history = {"libvfio-user", "linux-v1"}
    assert {edit.name for edit in edits() if edit not in proposals()} == history
    assert all(edit.answer for edit in proposals())


def test_the_table_of_the_package_is_written_as_the_data_it_is_read_from() -> None:
    assert from_data(to_data(load())) == load()
