"""The plans of groups: what they state of a device, and what is wrong with a bad file of them."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from pathlib import Path

import pytest

from support.plan_texts import GOOD, mistakes
from vfio_migration.model import Spec, SpecError, UnknownNameError, load
from vfio_migration.model.plan import (
    Limit,
    Move,
    Phase,
    Plan,
    applying,
    default_plans,
    exceeds,
    load_plans,
    loads_plans,
    state_before,
    step,
)

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "model/group_plan.toml"
NAMES = ["save", "resume", "prepare", "recover", "retire", "one-by-one", "pre-copy-to-stop-copy",
         "start-at-once", "reset-among-stopped"]  # fmt: skip

# --- reading ---


def test_the_plans_of_the_package_are_those_of_the_file(spec: Spec):
    plans = default_plans(spec)
    assert [plan.name for plan in plans.plans] == NAMES
    assert load_plans(spec) is plans
    assert load_plans(spec, FILE) == plans
    assert loads_plans(spec, FILE.read_bytes()) == plans
    assert len(plans.plans) == len(tomllib.loads(FILE.read_text("utf-8"))["plans"])


def test_a_plan_is_found_by_its_name(spec: Spec):
    plans = default_plans(spec)
    assert plans.plan("save").phases[0].name == "pre-copy"
    with pytest.raises(UnknownNameError, match='did you mean "recover"') as caught:
        plans.plan("recovr")
    assert caught.value.known == tuple(NAMES)


def test_every_row_names_what_it_is_and_where_it_is_from(spec: Spec):
    for plan in default_plans(spec).plans:
        assert plan.summary.endswith(".")
        assert plan.source
        assert all(phase.summary.endswith(".") for phase in plan.phases)


def test_plans_are_frozen_and_comparable(spec: Spec):
    save = default_plans(spec).plan("save")
    assert hash(save) == hash(dataclasses.replace(save))
    with pytest.raises(dataclasses.FrozenInstanceError):
        save.sound = False  # type: ignore[misc]


# --- files that are wrong ---


def test_the_file_the_bad_ones_are_made_of_is_good(spec: Spec):
    assert loads_plans(spec, GOOD).plans[0].name == "there"


WRONG = [
    (
        '"STOP"',
        '"STOPP"',
        'plans[0].phases[0].moves[0].to: "STOPP": there is no such state in this table; '
        'did you mean "STOP"?',
    ),
    (
        '{ to = "STOP" }',
        '{ needs = ["P2"], to = "STOP" }',
        'plans[0].phases[0].moves[0].needs[0]: "P2": there is no such capability in this '
        "table; did "
        'you mean "P2P"?',
    ),
    (
        '{ to = "STOP" }',
        '{ lacks = ["fly"], to = "STOP" }',
        'plans[0].phases[0].moves[0].lacks[0]: "fly": there is no such capability in this '
        "table; it "
        "has STOP_COPY, P2P, PRE_COPY",
    ),
    (
        '{ to = "STOP" }',
        '{ may = "start_p2p", to = "STOP" }',
        'plans[0].phases[0].moves[0].may: "start_p2p": there is no such activity in this '
        "table; did "
        'you mean "start_p2p_dma"?',
    ),
    (
        '{ to = "STOP" }',
        '{ to = "STOP", event = "reset" }',
        "plans[0].phases[0].moves[0]: must lead somewhere; give either to or event",
    ),
    (
        '{ to = "STOP" }',
        '{ needs = ["P2P"] }, { to = "STOP" }',
        "plans[0].phases[0].moves[0]: must lead somewhere; give either to or event",
    ),
    (
        '{ to = "STOP" }',
        '{ event = "rest" }, { to = "STOP" }',
        'plans[0].phases[0].moves[0].event: "rest": is not an event that a manager brings '
        "about; reset is one",
    ),
    (
        '{ to = "STOP" }',
        '{ failed = true, event = "reset" }',
        "plans[0].phases[0]: has no state it leads to, so it is open where a sound "
        'plan ends; give a move with "to"',
    ),
    (
        '[{ to = "STOP" }]',
        "[]",
        "plans[0].phases[0].moves: has no rows; add a move, or drop the phase",
    ),
    (
        'before = [{ to = "RUNNING" }]',
        "",
        'plans[0]: "there": must have either before or after; give one of the two',
    ),
    (
        'before = [{ to = "RUNNING" }]',
        'after = ["there"]',
        'plans[0].after[0]: "there": is a plan that itself comes after others; name the '
        "plans with before that lead there",
    ),
    (
        'before = [{ to = "RUNNING" }]',
        'after = ["thre"]',
        'plans[0].after[0]: "thre": there is no such plan in this file; did you mean "there"?',
    ),
    (
        '[{ to = "RUNNING" }]',
        '[{ needs = ["P2P"], to = "RUNNING" }]',
        "plans[0].before: has no row for a device with STOP_COPY; add a last row without "
        "needs and lacks",
    ),
    (
        '[{ to = "RUNNING" }]',
        '[{ to = "PRE_COPY" }]',
        'plans[0].before[0].to: "PRE_COPY": is not a state of a device with STOP_COPY; '
        'needs = ["STOP_COPY", "PRE_COPY"] leaves it out',
    ),
    (
        '[{ to = "RUNNING" }]',
        '[{ to = "RUNNING", may = "start_dma" }]',
        "plans[0].before[0].may: has no meaning before a plan; take needs, lacks, to",
    ),
    (
        "sound = true",
        'sound = "yes"',
        'plans[0].sound: "yes": is a string where true or false is expected',
    ),
    (
        "sound = true",
        "sond = true",
        'plans[0].sond: is a key that nothing reads; did you mean "sound"?',
    ),
    (
        '{ to = "STOP" }',
        '{ too = "STOP" }',
        'plans[0].phases[0].moves[0].too: is a key that nothing reads; did you mean "to"?',
    ),
    (
        'name = "go"',
        'nam = "go"',
        'plans[0].phases[0].nam: is a key that nothing reads; did you mean "name"?',
    ),
    (
        'name = "there"',
        'name = "over there"',
        'plans[0].name: "over there": is not a name; a name is a letter, then letters, '
        "digits, _ and -",
    ),
    (
        "sound = true",
        'sound = true\nlimits = [{ lacks = "P2P", count = -1 }]',
        "plans[0].limits[0].count: -1: is less than no device; 0 allows none",
    ),
    (
        "sound = true",
        'sound = true\nlimits = [{ lacks = "P3P", count = 1 }]',
        'plans[0].limits[0].lacks: "P3P": there is no such capability in this table; did '
        'you mean "P2P"?',
    ),
    (
        'source = "made up"',
        "",
        'plans[0].source: is missing; add source = "..."',
    ),
]
"""What to replace in the good file, by what, and what must be stated."""


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_a_mistake_is_named_with_its_place_and_a_way_out(
    spec: Spec, old: str, new: str, message: str
):
    assert old in GOOD
    assert message in mistakes(spec, GOOD.replace(old, new, 1))


def test_each_name_occurs_once(spec: Spec):
    twice = GOOD + GOOD
    assert mistakes(spec, twice) == [
        'plans[1].name: "there": is already in plans[0]; give it another'
    ]
    phases = GOOD + GOOD[GOOD.index("[[plans.phases]]") :]
    assert mistakes(spec, phases) == [
        'plans[0].phases[1].name: "go": is already in plans[0].phases[0]; give it another'
    ]


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(spec: Spec):
    text = GOOD.replace('"STOP"', '"STOPP"').replace("true", "1") + GOOD.replace(
        "RUNNING", "RUNING"
    )
    recorded = mistakes(spec, text)
    assert len(recorded) == 4
    places = [line.split(":")[0] for line in recorded]
    assert places == sorted(places, key=lambda place: place[:8])
    assert {place.split(".")[-1] for place in places} == {"sound", "to", "name"}


@pytest.mark.parametrize(
    "text",
    ["", "plans = 3", "plans = []", "plans = [3]", "[[plans]]", "[[plans]]\nphases = 3",
     "[[plans]]\nphases = [[]]", "[[plans]]\nbefore = [{to = 3}]\nafter = 4\nlimits = [{}]",
     "[[plans]]\nphases = [{moves = [{needs = 3, lacks = [4], to = [], failed = 1}]}]",
     "plans", "[[plans]]\nname = 2020-01-01", "other = 1", "\0", "[[plans]]\nafter = [[]]"],
)  # fmt: skip
def test_garbage_is_a_spec_error(spec: Spec, text: str):
    for line in mistakes(spec, text):
        assert ": " in line
        assert "Traceback" not in line


def test_a_file_that_is_not_there(spec: Spec):
    with pytest.raises(SpecError, match=r"/no/such/plans.toml.*cannot be read"):
        load_plans(spec, "/no/such/plans.toml")


def test_a_file_that_is_no_text(spec: Spec):
    with pytest.raises(SpecError, match="not UTF-8"):
        loads_plans(spec, b"\xff")


# --- what they state of a device ---


def test_where_a_device_is_before_a_plan(spec: Spec):
    plans = default_plans(spec)
    assert state_before(plans.plan("save"), spec.machine(1)) == "RUNNING"
    leaving = plans.plan("pre-copy-to-stop-copy")
    assert [state_before(leaving, spec.machine(word)) for word in (1, 3, 5, 7)] == [
        *("RUNNING", "RUNNING", "PRE_COPY", "PRE_COPY")
    ]
    assert state_before(plans.plan("recover"), spec.machine(7)) is None


def test_the_first_move_that_is_meant_applies(spec: Spec):
    quiesce = default_plans(spec).plan("save").phases[1]
    first, second = quiesce.moves
    assert applying(quiesce, spec.machine(7), "PRE_COPY") is first
    assert applying(quiesce, spec.machine(3), "RUNNING") is second
    assert applying(quiesce, spec.machine(1), "RUNNING") is None
    assert applying(quiesce, spec.machine(7), "PRE_COPY_P2P") is None  # it is there already
    assert applying(quiesce, spec.machine(7), "ERROR") is None  # it failed, and none means it


def test_a_move_may_mean_what_failed(spec: Spec):
    recover = default_plans(spec).plan("recover")
    reset = next(phase for phase in recover.phases if phase.name == "reset")
    (move,) = reset.moves
    for word in (1, 3, 5, 7):
        machine = spec.machine(word)
        assert applying(reset, machine, "ERROR") is move
        assert step(move, machine, "ERROR") == "RUNNING"
        assert all(
            applying(reset, machine, row.name) is None for row in machine.states if row.value
        )


def test_a_move_may_ask_what_a_device_does(spec: Spec):
    hold = default_plans(spec).plan("recover").phases[0]
    machine = spec.machine(7)
    meant = [row.name for row in machine.states if applying(hold, machine, row.name) is not None]
    assert meant == ["RUNNING", "PRE_COPY"]


def test_a_step_is_one_arc_towards_where_the_move_leads(spec: Spec):
    stop = Move(to="STOP_COPY")
    assert step(stop, spec.machine(7), "RUNNING") == "RUNNING_P2P"
    assert step(stop, spec.machine(1), "RUNNING") == "STOP"
    assert step(Move(to="PRE_COPY"), spec.machine(7), "STOP_COPY") is None  # refused by name
    assert step(Move(to="PRE_COPY"), spec.machine(1), "RUNNING") is None  # it has no such state
    assert step(Move(event="reset"), spec.machine(1), "STOP") == "RUNNING"
    for word, plan in itertools.product((1, 3, 5, 7), default_plans(spec).plans):
        machine = spec.machine(word)
        for phase, state in itertools.product(plan.phases, machine.states):
            move = applying(phase, machine, state.name)
            if move is not None and move.to is not None:
                to = step(move, machine, state.name)
                assert to is None or machine.arc(state.name, to) is not None


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_limit_is_exceeded_by_one_more(spec: Spec, count: int):
    save = default_plans(spec).plan("save")
    limit = Limit(lacks="P2P", count=count)
    plan: Plan = dataclasses.replace(save, limits=(limit,))
    able, unable = frozenset({"STOP_COPY", "P2P"}), frozenset({"STOP_COPY", "PRE_COPY"})
    for others in (1, 2):
        assert exceeds(plan, [unable] * count + [able] * others) is None
        assert exceeds(plan, [unable] * (count + 1) + [able] * others) is limit
    assert exceeds(plan, [unable]) is None  # it has no peers
    assert exceeds(plan, []) is None
    assert exceeds(dataclasses.replace(plan, limits=()), [unable] * 5) is None


def test_a_phase_whose_move_means_nobody_is_over_at_once(spec: Spec):
    phase = Phase(name="none", moves=(Move(needs=("P2P",), lacks=("P2P",), to="STOP"),), summary="")
    for word in (1, 3, 5, 7):
        machine = spec.machine(word)
        assert all(applying(phase, machine, row.name) is None for row in machine.states)


def test_the_plans_fit_a_table_with_a_ninth_state(ninth_state: Spec):
    assert default_plans(ninth_state) == default_plans(load())


def test_a_table_that_lacks_what_the_plans_name_is_reported():
    small = load(ROOT / "tests/data/small.toml")
    with pytest.raises(
        SpecError, match='"P2P": there is no such capability in this table'
    ) as caught:
        default_plans(small)
    assert caught.value.origin == "group_plan.toml"
