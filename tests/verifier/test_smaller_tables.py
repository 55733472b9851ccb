"""Tables of history are proved: a witness may need more events, or have nothing to show."""

from __future__ import annotations

import pytest

from support.samples import sample_where
from vfio_migration.model.history import named
from vfio_migration.verifier import verify

NOTHING = {
    "linux-6.1": {
        "D10": "no arc of this table has a data session at both ends",
        "G8": "no device of this table can stream while it runs",
        "S3": "no state of this table has a temporary end of stream",
    },
    "linux-5.18-without-p2p": {
        "D10": "no arc of this table has a data session at both ends",
        "G8": "no device of this table can stream while it runs",
        "S3": "no state of this table has a temporary end of stream",
        "G1": "every device of this table lacks P2P, and plan save is for groups with 1 of those "
        "at most: no group has two devices",
    },
    "vfio-user": {
        "G1": "every device of this table lacks P2P, and plan save is for groups with 1 of those "
        "at most: no group has two devices",
    },
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sample_where(NOTHING, lambda name: "5.18" in name))
def test_a_table_of_history_is_proved_and_what_shows_nothing_states_why(name: str) -> None:
    spec = named(name)
    assert spec is not None
    found = {verdict.id: verdict for verdict in verify(spec, jobs=2).verdicts}
    assert {verdict.outcome for verdict in found.values()} == {"proved"}
    texts = {name: verdict.witness.text for name, verdict in found.items() if verdict.witness}
    assert texts.keys() == found.keys()
    idle = {one: text for one, text in texts.items() if text.startswith("nothing: ")}
    assert idle == {one: f"nothing: {why}" for one, why in NOTHING[name].items()}


OTHERWISE = {
    "libvfio-user": {"violated": {"D12", "S1", "G4"}, "unknown": {"D6", "G7"}},
    "linux-v1": {"violated": {"T1", "T2", "T8", "G6", "G7"}, "unknown": {"S1", "S4"}},
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OTHERWISE)
def test_a_table_of_history_that_differs_is_what_it_is(name: str) -> None:
    spec = named(name)
    assert spec is not None
    found = verify(spec, jobs=2).verdicts
    for outcome, ids in OTHERWISE[name].items():
        assert {verdict.id for verdict in found if verdict.outcome == outcome} == ids


def test_of_two_devices_of_version_1_one_runs_before_the_other_is_whole() -> None:
    """There RESUMING -> RUNNING judges the stream and starts the device at once."""
    spec = named("linux-v1")
    assert spec is not None
    [verdict] = verify(spec, only=["G6"]).verdicts
    assert verdict.outcome == "violated"
    assert verdict.example is not None
    assert "a device runs in RUNNING while another is still loaded in RESUMING" in (
        verdict.example.text
    )
