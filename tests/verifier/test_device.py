"""Family D: proved of the real table, each obligation broken by a table that breaks it."""

from __future__ import annotations

import functools

import pytest

from support.samples import sampled
from support.table_edits import BROKEN, broken, spec_of
from vfio_migration.model import Spec, Trace, load
from vfio_migration.verifier import Report, Verdict, verify
from vfio_migration.verifier.mutation.edits import mutants
from vfio_migration.verifier.report.replay import second_opinion

FILES = sorted(BROKEN.glob("d*.toml"))
FAMILY_D = [f"D{number}" for number in range(1, 13)]


@pytest.fixture(scope="module")
def report() -> Report:
    return verify(load(), only=["D"])


@functools.cache
def violated(name: str) -> tuple[Spec, Verdict]:
    edit, data = broken(BROKEN / f"{name}.toml")
    spec = spec_of(data)
    (verdict,) = verify(spec, only=[edit["breaks"]]).verdicts
    return spec, verdict


@pytest.mark.parametrize("name", FAMILY_D)
def test_each_is_proved_with_a_witness_that_the_engine_confirms(report: Report, name: str):
    verdict = next(verdict for verdict in report.verdicts if verdict.id == name)
    assert verdict.outcome == "proved", verdict
    assert verdict.witness is not None
    assert verdict.queries >= 2
    if verdict.witness.trace is not None:
        assert second_opinion(verdict.witness, report.spec).startswith("the live engine does the")


def test_the_vfio_user_profile_is_proved_too():
    assert verify(load(), profile="vfio-user", only=["D"]).outcome == "proved"


def test_every_obligation_is_broken_by_some_table_that_loads():
    assert {broken(path)[0]["breaks"] for path in FILES} == set(FAMILY_D)


@sampled(5)
@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_broken_table_is_refuted_by_the_obligation_it_breaks(name: str):
    edit, _ = broken(BROKEN / f"{name}.toml")
    _, verdict = violated(name)
    assert verdict.outcome == "violated", verdict
    assert verdict.witness is None
    assert verdict.example is not None
    assert edit["message"] in verdict.example.text
    trace = verdict.example.trace
    assert trace is not None
    assert Trace.from_json(trace.to_json()) == trace


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_the_live_engine_confirms_each_counterexample(name: str):
    spec, verdict = violated(name)
    assert verdict.example is not None
    opinion = second_opinion(verdict.example, spec)
    if name == "d8-refused-half-way":
        # The one difference: the engine looks at the whole path before it sets out, and refuses at
        # once (test_engine_is_model.py). D8 cannot be broken in any other way.
        assert opinion.startswith("the live engine differs at step 2: the trace has: arc RUNNING")
        assert "the engine: refused (EINVAL)" in opinion
    else:
        assert opinion.startswith("the live engine does the same")


@pytest.mark.parametrize(
    "id_", ["arc-removed:arcs[0]", "arc-removed:arcs[1]", "arc-added:ERROR->RUNNING_P2P"]
)
def test_a_request_that_leads_nowhere_from_where_it_begins_is_no_unknown(id_: str):
    """Without an arc, some capability sets have states that no request leaves.

    The model of the device once let requests set out there, which the engine refuses, and forgot
    which session was open where a request sets out.
    """
    (mutant,) = (one for one in mutants(load()) if one.id == id_)
    verdicts = verify(mutant.table, only=["D1", "D2", "D8", "D9"]).verdicts
    assert {v.id: v.outcome for v in verdicts} == dict.fromkeys(["D1", "D2", "D8", "D9"], "proved")


def test_a_table_that_needs_no_reset_has_a_way_back_all_the_same():
    (mutant,) = (one for one in mutants(load()) if one.id == "arc-added:ERROR->RUNNING")
    (verdict,) = verify(mutant.table, only=["D9"]).verdicts
    assert verdict.outcome == "proved"
    assert verdict.witness is not None
    assert "a request leads back" in verdict.witness.text
