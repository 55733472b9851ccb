"""What a run covers, and that reordering or leaving out rows hides nothing."""

from __future__ import annotations

from support.table_edits import spec_of, table_data
from vfio_migration.model import Spec
from vfio_migration.runtime import Engine, NullDevice
from vfio_migration.verifier import Encoding, verify


def test_without_a_profile_all_are_covered_in_whatever_order_they_are(spec: Spec):
    data = table_data()
    data["profiles"].reverse()
    assert sorted(Encoding(spec_of(data)).machines) == [1, 3, 5, 7]
    assert sorted(Encoding(spec_of(data), "vfio-user").machines) == [1, 5]


def test_a_profile_that_comes_first_hides_no_broken_obligation():
    data = table_data()
    data["profiles"].reverse()
    data["refusals"].pop()
    (verdict,) = verify(spec_of(data), only=["T2"]).verdicts
    assert verdict.outcome == "violated"


def test_an_activity_that_is_named_nowhere_is_missed():
    data = table_data()
    data["activities"] = [row for row in data["activities"] if row["name"] != "raise_interrupt"]
    for row in data["operations"]:
        row["may"] = [name for name in row["may"] if name != "raise_interrupt"]
    (verdict,) = verify(spec_of(data), only=["T8"]).verdicts
    assert verdict.outcome == "violated"
    assert verdict.example is not None
    assert 'the role "interrupt"' in verdict.example.text


def test_the_engine_runs_a_table_that_takes_requests_for_absent_states_lightly():
    data = table_data()
    row = next(row for row in data["requests"] if row["when"] == "target_unsupported")
    row["outcome"] = "nothing"
    del row["errno"]
    engine = Engine(spec_of(data), "STOP_COPY", NullDevice())
    before = engine.situation
    assert engine.set_state("PRE_COPY") == before
    assert engine.situation == before
