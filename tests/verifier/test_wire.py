"""Family W: proved of the real tables, each obligation broken by tables that break it."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support.samples import sample, sampled
from support.table_edits import ROOT, apply, spec_of, table_data
from vfio_migration.model import Spec, load
from vfio_migration.model.wire import Answer, Wire
from vfio_migration.model.wire_load import load_wire, wire_from
from vfio_migration.verifier import OBLIGATIONS, Encoding, Report, Verdict, decide, verify
from vfio_migration.verifier.report.replay import replay

FILES = sorted((ROOT / "tests/data/broken_wires").glob("w*.toml"))
FAMILY = [f"W{number}" for number in range(1, 12)]
COMPARED = "W11"
"""The obligation that no runs are about."""


@pytest.fixture(scope="module")
def report() -> Report:
    return verify(load(), only=["W"])


def about(spec: Spec, wire: Wire, *names: str) -> list[Verdict]:
    """Decide family W, or some of it, over two tables."""
    encoding = Encoding(spec, wire=wire)
    chosen = [o for o in OBLIGATIONS if o.id in (names or FAMILY)]
    return [decide(obligation, encoding) for obligation in chosen]


def broken_tables(path: Path) -> tuple[dict[str, Any], Spec, Wire]:
    edit = tomllib.loads(path.read_text("utf-8"))
    if edit.get("of") == "migration":
        return edit, spec_of(apply(edit, table_data())), load_wire()
    data = tomllib.loads((ROOT / "model/wire.toml").read_text("utf-8"))
    return edit, load(), wire_from(apply(edit, data), "broken wire")


def test_the_family_is_complete():
    assert [o.id for o in OBLIGATIONS if o.id.startswith("W")] == FAMILY


@sampled(2)
@pytest.mark.parametrize("name", FAMILY)
def test_each_is_proved_with_a_witness(report: Report, name: str):
    verdict = next(verdict for verdict in report.verdicts if verdict.id == name)
    assert verdict.outcome == "proved", verdict
    assert verdict.witness is not None
    if name == COMPARED:
        assert verdict.method == "exhaustive"
        assert "rows in all" in verdict.witness.text
        return
    assert verdict.method == "induction"
    assert verdict.witness.trace is not None
    assert replay(verdict.witness.trace, load()).difference is None


def test_a_refused_stream_is_known_from_a_refused_request_by_the_state(report: Report):
    """The kit answers EINVAL for a stream that a device refuses, as a refusal is answered."""
    verdict = next(verdict for verdict in report.verdicts if verdict.id == "W7")
    assert verdict.witness is not None
    assert "fails (EINVAL)" in verdict.witness.text or "for good (EINVAL)" in verdict.witness.text


def test_all_four_capability_sets_are_covered():
    assert sorted(Encoding(load()).machines) == [1, 3, 5, 7]


@pytest.mark.exhaustive
def test_the_vfio_user_profile_is_proved_too():
    assert verify(load(), profile="vfio-user", only=["W"]).outcome == "proved"


@pytest.mark.exhaustive
def test_the_table_without_what_is_only_proposed_is_proved_too():
    old = load_wire().without("precopy_info")
    assert {verdict.outcome for verdict in about(load(), old)} == {"proved"}


def test_a_ninth_state_is_served_without_a_change_of_code(ninth_state: Spec):
    assert verify(ninth_state, only=["W"]).outcome == "proved"


@sampled(4)
@pytest.mark.parametrize("path", sample(FILES, 5), ids=lambda path: path.stem)
def test_broken_tables_are_refuted_by_the_obligation_they_break(path: Path):
    edit, spec, wire = broken_tables(path)
    (verdict,) = about(spec, wire, edit["breaks"])
    assert verdict.outcome == "violated", verdict
    assert verdict.example is not None
    assert edit["message"] in verdict.example.text
    if edit["breaks"] == COMPARED:
        assert "events" not in edit
        return
    assert verdict.example.text.startswith(f"{edit['events']} events from "), verdict.example.text
    assert verdict.example.trace is not None


def test_every_obligation_is_broken_by_some_tables():
    assert {broken_tables(path)[0]["breaks"] for path in FILES} == set(FAMILY)


@sampled(2)
@pytest.mark.parametrize("row", sample(load_wire().answers, 14), ids=lambda row: row.when)
def test_no_row_of_the_answers_can_be_spared(row: Answer):
    """What a server does not look at, some obligation finds out."""
    wire = load_wire()
    without = dataclasses.replace(wire, answers=tuple(a for a in wire.answers if a is not row))
    assert "violated" in {verdict.outcome for verdict in about(load(), without)}


def test_a_client_without_a_way_back_is_found():
    """A reset that leads nowhere useful: the claim about the way back, with no search."""
    spec = load()
    lost = dataclasses.replace(
        spec,
        arcs=tuple(row for row in spec.arcs if row.from_ != "STOP"),
        events=tuple(
            dataclasses.replace(row, to="STOP") if row.name == "reset" else row
            for row in spec.events
        ),
    )
    (verdict,) = about(lost, load_wire(), "W6")
    assert verdict.outcome == "violated"
    assert verdict.example is not None
    assert "cannot bring it to RUNNING" in verdict.example.text
