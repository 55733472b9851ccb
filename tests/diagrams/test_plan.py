"""The plan shown is the plan that live devices follow: every state, every arc, every transfer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from support.plan_walk import DATA, NAMES, P2P, ROOT, mixtures, pairs, walk
from vfio_migration.diagrams import Pair, PlanError, migration_view, to_json
from vfio_migration.model import SpecError, UnknownNameError, load
from vfio_migration.model.plan import load_plans, loads_plans

GROUPS = [group for count in (1, 2, 3) for group in mixtures(count)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_the_view_is_what_live_engines_do(spec, name, group):
    view = migration_view(spec, pairs(group), name)
    walked = walk(name, group)
    shown = []
    streams = {state.name: state.streams for state in view.states}
    for stage in view.stages:
        arcs: dict[tuple[str, int], list[tuple[str, str]]] = {}
        for hop in stage.hops:
            lane = view.lanes[hop.lane]
            arcs.setdefault((lane.side, lane.device), []).append((hop.from_, hop.to))
        states_after = {
            (lane.side, lane.device): state
            for lane, state in zip(view.lanes, stage.states_after, strict=True)
        }
        shown.append(
            (stage.name, arcs, states_after, {key: streams[s] for key, s in states_after.items()})
        )
    # What does nothing is left out of the view: phases without arcs, transfers without data.
    kept = [
        (phase, arcs, states_after, sessions)
        for (phase, arcs), states_after, sessions in zip(
            walked.phases, walked.states_after, walked.sessions, strict=True
        )
        if arcs or (phase in ("passes", "rest") and _streaming(states_after))
    ]
    assert shown == kept
    left_out = [
        phase for phase, arcs in walked.phases if not arcs and phase not in ("passes", "rest")
    ]
    assert [row.name for row in view.idle if row.transfer is None] == left_out


def _streaming(states_after: dict[tuple[str, int], str]) -> bool:
    saving = {"PRE_COPY", "PRE_COPY_P2P", "STOP_COPY"}
    return any(
        state in saving and states_after["destination", number] == "RESUMING"
        for (side, number), state in states_after.items()
        if side == "source"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_data_flows_where_there_is_some(spec, name, group):
    view = migration_view(spec, pairs(group), name)
    flows = {stage.name: set(stage.flows) for stage in view.stages if stage.side is None}
    assert flows.pop("rest") == set(range(len(group)))
    pre_copying = {number for number, word in enumerate(group) if word & 4}
    if name == "live" and pre_copying:
        assert flows.pop("passes") == pre_copying
    assert flows == {}


# --- downtime and the point of no return ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_downtime_is_while_somebody_is_stopped(spec, name, group):
    """By the names of the states, which the view does not know."""
    moving = {"RUNNING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P"}
    view = migration_view(spec, pairs(group), name)
    lanes = range(len(group))
    first = next(
        s.number for s in view.stages if not all(s.states_after[n] in moving for n in lanes)
    )
    last = max(
        s.number
        for s in view.stages
        if not all(s.states_after[n + len(group)] in moving for n in lanes)
    )
    assert view.downtime.first == first
    assert view.downtime.last == last + 1
    assert view.downtime.activities == ("change_state",)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_beyond_the_point_of_no_return_the_destination_may_run(spec, name, group):
    view = migration_view(spec, pairs(group), name)
    assert [stage.holder for stage in view.stages] == sorted(
        (stage.holder for stage in view.stages), key=["source", "delivered", "destination"].index
    )
    assert view.no_return == next(s.number for s in view.stages if s.holder == "destination")
    before = view.stages[view.no_return - 2]
    assert {before.states_after[n + len(group)] for n in range(len(group))} == {"STOP"}


def test_without_handovers_nothing_is_known_of_a_way_back(spec):
    plans = replace(load_plans(spec), handovers=())
    assert migration_view(spec, pairs((7,)), "live", plans).no_return is None


def test_a_migration_that_stops_nothing_has_no_downtime(spec):
    plans = load_plans(spec)
    steps = plans.migration("live").steps[1:2]
    view = migration_view(spec, pairs((7,)), replace(plans.migration("live"), steps=steps), plans)
    assert [stage.name for stage in view.stages] == ["pre-copy"]
    assert (view.downtime, view.no_return) == (None, None)


def test_a_migration_that_starts_nothing_has_no_end_of_downtime(spec):
    plans = load_plans(spec)
    steps = plans.migration("live").steps[:6]
    view = migration_view(spec, pairs((7,)), replace(plans.migration("live"), steps=steps), plans)
    assert view.downtime.last is None


def test_a_destination_that_is_never_stopped_prolongs_no_downtime(spec):
    plans = load_plans(spec)
    steps = plans.migration("live").steps[3:4]
    view = migration_view(spec, pairs((7,)), replace(plans.migration("live"), steps=steps), plans)
    assert [stage.name for stage in view.stages] == ["quiesce", "stop"]
    assert (view.downtime.first, view.downtime.last) == (2, 2)


# --- which groups ---


def test_devices_may_be_where_retiring_left_them(spec):
    pair = Pair("/a", "/b", 7, destination_state="STOP")
    view = migration_view(spec, [pair])
    assert view.stages[0].name == "load"
    assert view.lanes[1].state == "STOP"
    assert [row.name for row in view.idle[:3]] == ["quiesce", "stop-the-one", "stop"]


def test_the_two_sides_may_offer_different_things(spec):
    view = migration_view(spec, [Pair("/a", "/b", 7, 1), Pair("/c", "/d", "STOP_COPY,P2P", 7)])
    assert [lane.capabilities for lane in view.lanes] == [
        ("STOP_COPY", "P2P", "PRE_COPY"),
        ("STOP_COPY", "P2P"),
        ("STOP_COPY",),
        ("STOP_COPY", "P2P", "PRE_COPY"),
    ]
    assert view.stages[-1].states_after == ("STOP", "STOP", "RUNNING", "RUNNING")


def test_capabilities_are_those_of_the_first_profile_if_none_are_given(spec):
    (lane, _) = migration_view(spec, [Pair("/a", "/b")]).lanes
    assert lane.capabilities == ("STOP_COPY", "P2P", "PRE_COPY")


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "a group of no devices has nothing to migrate"),
        (
            [Pair("/a", "/b", 7), Pair("/c", "/d", 1), Pair("/e", "/f", 5)],
            "plan prepare is for groups with at most 1 device without P2P, and 2 of the "
            "destination lack it: /d, /f",
        ),
        (
            [Pair("/a", "/b", 1, source_state="PRE_COPY")],
            "/a: PRE_COPY is not a state of a device with STOP_COPY",
        ),
        (
            [Pair("/a", "/b", 7, source_state="ERROR")],
            "/a in ERROR and /b in RESUMING: nothing can be transferred between them",
        ),
    ],
)
def test_a_group_that_cannot_be_migrated_learns_why(spec, devices, message):
    with pytest.raises(PlanError) as caught:
        migration_view(spec, devices)
    assert str(caught.value) == message


def test_names_nobody_knows(spec):
    with pytest.raises(UnknownNameError, match="live"):
        migration_view(spec, pairs((7,)), "life")
    with pytest.raises(SpecError):
        migration_view(spec, [Pair("/a", "/b", "STOP_COPY,P3P")])
    with pytest.raises(UnknownNameError):
        migration_view(spec, [Pair("/a", "/b", 7, source_state="RUNNIN")])


def test_a_phase_that_leads_nowhere_is_reported(spec):
    text = (ROOT / "model/group_plan.toml").read_text("utf-8")
    wrong = text.replace('moves = [{ to = "RESUMING" }]', 'moves = [{ to = "PRE_COPY" }]', 1)
    assert wrong != text
    # A device with STOP_COPY alone has no such state.
    plans = loads_plans(spec, wrong)
    with pytest.raises(PlanError) as caught:
        migration_view(spec, pairs((1,)), "live", plans)
    assert str(caught.value) == (
        "/run/vfio/target/device-1.sock: phase load of plan prepare does not lead on from STOP"
    )


def test_labels_are_what_can_be_drawn(spec):
    view = migration_view(spec, [Pair("/a\x00b\nc", "/\udcff", 7)])
    assert [lane.label for lane in view.lanes] == ["/a\ufffdb\ufffdc", "/\ufffd"]


# --- another table ---


def test_a_ninth_state_is_walked_through(ninth_state):
    view = migration_view(ninth_state, [Pair("/a", "/b", 7), Pair("/c", "/d", 7)])
    assert view.stages[-1].states_after[2:] == ("RUNNING", "RUNNING")


# --- as data ---


def test_json_holds_everything(spec):
    view = migration_view(spec, pairs((7, 1)))
    data = json.loads(to_json(view))
    assert data["format"] == 1
    assert len(data["stages"]) == len(view.stages)
    assert data["lanes"][1] == {
        "side": "source",
        "device": 1,
        "label": "/run/vfio/source/device-2.sock",
        "capabilities": ["STOP_COPY"],
        "state": "RUNNING",
    }
    assert data["stages"][0]["hops"] == [
        {
            "lane": 2,
            "from": "RUNNING",
            "to": "RUNNING_P2P",
            "kind": "moves",
            "summary": "Stop starting peer-to-peer DMA and finish what is outstanding.",
        }
    ]
    assert data["downtime"] == {"first": 8, "last": 13, "activities": ["change_state"]}
    assert data["no_return"] == 12


def test_the_walk_that_these_tests_rest_on_knows_every_migration():
    assert set(NAMES) == {row.name for row in load_plans(load()).migrations}
    assert {"live", "offline"} <= set(NAMES)
    assert any(word & P2P for group in GROUPS for word in group)
    assert len(DATA["plans"]) > 5
