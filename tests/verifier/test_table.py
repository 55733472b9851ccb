"""Family T: proved of the real table, each obligation broken by a table that breaks it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from support.samples import sample, sampled
from support.table_edits import BROKEN, broken, spec_of
from vfio_migration.model import Spec, load
from vfio_migration.verifier import (
    OBLIGATIONS,
    Encoding,
    Report,
    Solving,
    Verdict,
    decide,
    verify,
)

FILES = sorted(BROKEN.glob("t*.toml"))
FAMILY_T = [f"T{number}" for number in range(1, 12)]


@pytest.fixture(scope="module")
def report() -> Report:
    return verify(load(), only=["T"])


@functools.cache
def violated(path: Path) -> Verdict:
    """What is found of the obligation that a table breaks."""
    edit, data = broken(path)
    (verdict,) = verify(spec_of(data), only=[edit["breaks"]]).verdicts
    return verdict


def test_the_family_is_complete():
    assert [o.id for o in OBLIGATIONS if o.id.startswith("T")] == FAMILY_T


@pytest.mark.parametrize("name", FAMILY_T)
def test_each_is_proved_with_a_witness(report: Report, name: str):
    verdict = next(verdict for verdict in report.verdicts if verdict.id == name)
    assert verdict.outcome == "proved", verdict
    assert verdict.witness is not None
    assert verdict.witness.text
    assert verdict.queries >= 2  # at least one claim and one witness


def test_all_four_capability_sets_are_covered():
    encoding = Encoding(load())
    assert sorted(encoding.machines) == [1, 3, 5, 7]


def test_the_vfio_user_profile_is_proved_too():
    report = verify(load(), profile="vfio-user", only=["T"])
    assert report.outcome == "proved", report.verdicts
    assert sorted(Encoding(load(), "vfio-user").machines) == [1, 5]


@sampled(5)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_broken_table_is_refuted_by_the_obligation_it_breaks(path):
    edit, _ = broken(path)
    verdict = violated(path)
    assert verdict.outcome == "violated", verdict
    assert verdict.witness is None
    assert verdict.example is not None
    assert edit["message"] in verdict.example.text
    if "steps" in edit:
        assert verdict.example.trace is not None
        arcs = [step for step in verdict.example.trace.steps if step.kind == "arc"]
        assert len(arcs) == edit["steps"]


def test_every_obligation_is_broken_by_some_table():
    assert {broken(path)[0]["breaks"] for path in FILES} == set(FAMILY_T)


def test_a_row_that_is_to_blame_is_named():
    _, data = broken(BROKEN / "t9-dead-refusal.toml")
    (verdict,) = verify(spec_of(data), only=["T9"]).verdicts
    assert verdict.example is not None
    assert verdict.example.row == "refusals[2]"


def test_the_literal_rule_contradicts_the_kernels_table_in_exactly_one_cell(report: Report):
    (variant,) = report.variants
    assert variant.rule.name == "literal"
    assert variant.compared == 256
    assert variant.cells == ((7, "PRE_COPY", "STOP_COPY", ("PRE_COPY_P2P", "STOP_COPY")),)
    assert report.outcome == "proved"  # a finding, not a failure of the table


def test_the_kernels_recorded_paths_hold_the_same_single_contradiction(spec: Spec, linux_paths):
    """The finding again without any solver: from the recorded answers of Linux."""
    guarded = {row.name for row in spec.states if row.session == "saving"}
    cells = [
        (int(word), from_, to)
        for word, rows in linux_paths.items()
        for from_, row in rows.items()
        for to, path in row.items()
        if path and set(path[:-1]) & guarded
    ]
    assert cells == [(7, "PRE_COPY", "STOP_COPY")]


def test_a_solver_that_gives_up_is_unknown_and_never_a_pass():
    obligation = next(o for o in OBLIGATIONS if o.id == "T5")
    verdict = decide(obligation, Encoding(load()), Solving(timeout=0.0005))
    assert verdict.outcome == "unknown"
    assert verdict.reason is not None
    assert "gave up" in verdict.reason
    assert verdict.witness is None


def test_a_proof_without_a_witness_is_unknown(spec: Spec):
    """Without refusals and arcs that could meet it, a premise never happens: that is no proof."""
    import dataclasses

    silent = dataclasses.replace(
        spec,
        states=tuple(dataclasses.replace(row, name=f"X_{row.name}") for row in spec.states),
        arcs=tuple(
            dataclasses.replace(row, from_=f"X_{row.from_}", to=f"X_{row.to}") for row in spec.arcs
        ),
        refusals=(),
        initial="X_RUNNING",
        events=tuple(
            dataclasses.replace(row, to=f"X_{row.to}" if row.to else None) for row in spec.events
        ),
    )
    (verdict,) = verify(silent, only=["T8"]).verdicts  # no listing knows any of these states
    assert verdict.outcome == "unknown"
    assert verdict.reason is not None
    assert "can be compared once it is declared by that name" in verdict.reason


@pytest.mark.exhaustive
@pytest.mark.parametrize("only", sample([["T", "D"], None], 2), ids=["T and D", "all"])
def test_ninth_state_is_verified_without_a_change_of_code(ninth_state: Spec, only):
    report = verify(ninth_state, only=only)
    assert report.outcome == "proved", [v for v in report.verdicts if v.outcome != "proved"]


@pytest.mark.exhaustive
def test_traces_of_violations_survive_json():
    from vfio_migration.model import Trace

    for path in FILES:
        verdict = violated(path)
        assert verdict.example is not None
        if verdict.example.trace is not None:
            text = verdict.example.trace.to_json()
            assert Trace.from_json(text) == verdict.example.trace
            assert json.loads(text)["steps"]
