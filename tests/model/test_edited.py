"""Proposals that come with the package: tables as edits of others, each with its source."""

from __future__ import annotations

import pytest

from vfio_migration.model import from_data, load
from vfio_migration.model.edited import edits
from vfio_migration.model.history import named
from vfio_migration.model.load import to_data

NAMES = [edit.name for edit in edits()]


@pytest.mark.parametrize("name", NAMES)
def test_a_proposal_is_a_table_by_its_name_and_states_where_it_is_from(name: str) -> None:
    spec = named(name)
    [edit] = [edit for edit in edits() if edit.name == name]
    assert spec is not None
    assert (spec.name, spec.title) == (name, edit.title)
    assert spec != named(edit.base)
    assert edit.source
    assert edit.answer
    assert from_data(to_data(spec)) == spec


def test_the_table_of_the_package_is_written_as_the_data_it_is_read_from() -> None:
    assert from_data(to_data(load())) == load()
