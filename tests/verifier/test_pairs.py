"""Every pair of tables that come with the package is decided, and every "no" is run."""

from __future__ import annotations

import itertools

import pytest

from support.samples import sample
from vfio_migration.model.edited import edits
from vfio_migration.model.history import forms, named
from vfio_migration.verifier.comparison.report import compare

NAMES = [*(form.name for form in forms()), *(edit.name for edit in edits())]


@pytest.mark.parametrize(
    ("old", "new"), sample(itertools.permutations(NAMES, 2), apart=40, spread=True)
)
def test_a_pair_is_decided_and_live_engines_agree(old: str, new: str) -> None:
    one, other = named(old), named(new)
    assert one is not None
    assert other is not None
    comparison = compare(one, other, (old, new))
    assert comparison.compatible is not None
    assert {judged.verdict for judged in comparison.judgements} <= {"holds", "fails"}


def test_the_known_answers_come_out() -> None:
    def verdicts(old: str, new: str) -> str:
        one, other = named(old), named(new)
        assert one is not None
        assert other is not None
        found = compare(one, other)
        return "".join(j.definition.id for j in found.judgements if j.verdict == "fails")

    assert verdicts("linux-5.18-without-p2p", "builtin") == "14"
    assert verdicts("builtin", "stop-copy-to-pre-copy-p2p") == "12456"
    assert verdicts("linux-6.2", "builtin") == ""
