"""What no table decides: each fault of a model is noticed by the obligation that speaks of it."""

from __future__ import annotations

import pytest

from support.samples import sampled
from vfio_migration.model import Spec
from vfio_migration.verifier import OBLIGATIONS, Encoding, Solving, decide
from vfio_migration.verifier.systems.faults import FAULTS, Fault

NOTICED: dict[Fault, str] = {
    "refusal-renews-session": "D8",
    "second-stream-unread": "D12",
    "failure-unanswered": "W2",
    "refusal-answered-twice": "W2",
    "refusal-resets": "W4",
    "refusal-forgets-size": "W4",
    "failure-loses-session": "W7",
    "reset-ends-logging": "W10",
}


def test_each_fault_has_an_obligation_that_notices_it():
    assert NOTICED.keys() == FAULTS.keys()


@sampled(8)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed_by_one_obligation_and_by_no_other(spec: Spec, fault: Fault):
    noticing = NOTICED[fault]
    encoding, solving = Encoding(spec, faults=[fault]), Solving()
    family = [one for one in OBLIGATIONS if one.id[0] == noticing[0]]
    found = {one.id: decide(one, encoding, solving) for one in family}
    assert found[noticing].outcome == "violated", found[noticing]
    assert {name for name, one in found.items() if one.outcome != "proved"} == {noticing}
    example = found[noticing].example
    assert example is not None
    assert example.trace is not None
