"""Ranges of DMA logging that change while logging is on: what a proposal would have to promise."""

from __future__ import annotations

import pytest

from vfio_migration.model import load
from vfio_migration.verifier import Encoding, Verdict, decide
from vfio_migration.verifier.obligations.catalogue import OBLIGATIONS
from vfio_migration.verifier.obligations.log_ranges import PROPOSED

RUN = "DMA writes to the tracking page; the ranges change; a report covers a part of it"


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    encoding = Encoding(load())
    return {obligation.id: decide(obligation, encoding) for obligation in PROPOSED}


def test_marks_that_outlive_a_change_lose_nothing(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["R1"].outcome == "proved"
    witness = verdicts["R1"].witness
    assert witness is not None
    assert witness.text == RUN


def test_a_change_that_begins_anew_loses_what_was_written_before(
    verdicts: dict[str, Verdict],
) -> None:
    assert verdicts["R2"].outcome == "violated"
    example = verdicts["R2"].example
    assert example is not None
    assert example.text == RUN


def test_a_proposal_is_no_obligation_of_a_table() -> None:
    assert not {one.id for one in PROPOSED} & {one.id for one in OBLIGATIONS}
