"""A table with names of its own: what cannot be stated of it is unknown, with the reason."""

from __future__ import annotations

import re

import pytest

from support.table_edits import TABLE, spec_of, table_data
from vfio_migration.model import Spec, loads
from vfio_migration.verifier import Report, verify

LISTED = "include/uapi/linux/vfio.h: enum vfio_device_mig_state, VFIO_MIGRATION_*"


def renamed(**names: str) -> Spec:
    text = TABLE.read_text("utf-8")
    for old, new in names.items():
        text = re.sub(rf'"{old}"', f'"{new}"', text)
    return loads(text)


def reasons(report: Report) -> dict[str, str]:
    assert "violated" not in {verdict.outcome for verdict in report.verdicts}
    return {v.id: str(v.reason) for v in report.verdicts if v.outcome == "unknown"}


def test_a_state_that_plans_and_listings_speak_of():
    found = reasons(verify(renamed(RUNNING="ACTIVE"), only=["T8", "D", "G"]))
    assert set(found) == {"T8", *(f"G{number}" for number in range(1, 9))}
    assert found["T8"] == (
        f'linux-names: "ACTIVE" has the number of "RUNNING" in {LISTED}: what is listed can be '
        "compared once it is declared by that name in [[states]]"
    )
    assert found["G1"] == (
        "it cannot be asked of this table: group_plan.toml: plans[0].before[0].to and 8 more "
        'places speak of the state "RUNNING", which this table lacks: declare what is meant by '
        "that name in [[states]]"
    )


def test_a_capability():
    """T8 once had it that a device without the capability has states that require it."""
    found = reasons(verify(renamed(P2P="QUIESCE"), only=["T8", "G1"]))
    assert found["T8"].startswith('linux-names: "QUIESCE" has the number of "P2P" in include/')
    assert found["T8"].endswith("once it is declared by that name in [[capabilities]]")
    assert 'speak of the capability "P2P", which this table lacks' in found["G1"]


def without_role(role: str) -> Spec:
    return loads(TABLE.read_text("utf-8").replace(f'role = "{role}"', 'role = "none"'))


@pytest.mark.parametrize("role", ["peer_dma", "accept_peer_dma"])
def test_the_roles_by_which_devices_meet(role: str):
    """A device none of whose activities accepts DMA was once taken for a stopped one."""
    found = reasons(verify(without_role(role), only=["G1", "G2", "G6"]))
    assert set(found) == {"G1", "G2", "G6"}
    message = f'family G speaks of the role "{role}", which this table lacks'
    assert all(message in reason for reason in found.values())
    assert "declare what is meant by that name in [[activities]]" in found["G1"]


def test_an_activity_that_is_forbidden_while_stopped():
    spec = without_role("peer_dma")
    assert reasons(verify(spec, only=["D"])) == {
        "D4": 'premise: specifications speak of the role "peer_dma", which this table '
        "lacks: declare what is meant by that name in [[activities]]"
    }
    (verdict,) = verify(spec, only=["T8"]).verdicts
    assert verdict.example is not None
    assert 'the role "peer_dma", which this table lacks' in verdict.example.text


@pytest.mark.exhaustive
def test_activities_may_be_called_anything():
    names = ("start_dma", "raise_interrupt", "change_state", "accept_p2p_dma")
    spec = renamed(**{name: f"x_{name}" for name in names})
    only = ["T8", "D3", "D4", "D5", "S", "G1", "G2"]
    assert verify(spec, only=only).outcome == "proved"


@pytest.mark.exhaustive
def test_all_states():
    names = ("ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P", "PRE_COPY")
    found = reasons(verify(renamed(**{name: f"X_{name}" for name in names}), only=["T", "D"]))
    # D3 and D4 ask what the table has a state mean, whatever it is called.
    assert set(found) == {"T8", "D5"}
    assert found["D5"] == (
        'premise: specifications speak of the states "STOP", "STOP_COPY", "RESUMING", which this '
        "table lacks: declare what is meant by that name in [[states]]"
    )


def test_a_table_that_has_less_lacks_no_name(spec: Spec):
    """A state nobody has under another name is simply not there: T8 is silent about it."""
    ended = "PRE_COPY_P2P"
    data = table_data()
    data["states"] = [row for row in data["states"] if row["name"] != ended]
    for section in ("arcs", "refusals"):
        data[section] = [row for row in data[section] if ended not in (row["from"], row["to"])]
    (verdict,) = verify(spec_of(data), only=["T8"]).verdicts
    assert verdict.reason is None
    assert verify(spec, only=["T8"]).outcome == "proved"
