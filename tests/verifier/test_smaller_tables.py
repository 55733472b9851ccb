"""Tables of history are proved: a witness may need more events, or have nothing to show."""

from __future__ import annotations

import pytest

from support.samples import sample_where
from vfio_migration.model.history import named
from vfio_migration.verifier import verify

NOTHING = {
    "linux-6.1": {
        "D10": "no arc of this table has a data session at both ends",
        "S3": "no state of this table has a temporary end of stream",
    },
    "linux-5.18-without-p2p": {
        "D10": "no arc of this table has a data session at both ends",
        "S3": "no state of this table has a temporary end of stream",
        "G1": "every device of this table lacks P2P, and plan save is for groups with 1 of those "
        "at most: no group has two devices",
    },
    "vfio-user": {
        "G1": "every device of this table lacks P2P, and plan save is for groups with 1 of those "
        "at most: no group has two devices",
    },
}


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
