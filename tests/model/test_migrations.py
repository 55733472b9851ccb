"""Whole migrations and handovers: who is to run, and what is wrong with a bad file of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.plan_texts import GOOD, STEPS, mistakes
from vfio_migration.model import Spec, SpecError, UnknownNameError
from vfio_migration.model.plan import (
    FIRST_HOLDER,
    Holder,
    Side,
    deciding,
    default_plans,
    loads_plans,
)

WHOLE, FAILED = ("STOP", "STOP"), ("STOP", "ERROR")


def test_a_migration_is_found_by_its_name(spec: Spec):
    plans = default_plans(spec)
    live = plans.migration("live")
    assert [row.name for row in plans.migrations] == ["live", "offline"]
    with pytest.raises(UnknownNameError, match='did you mean "live"') as caught:
        plans.migration("life")
    assert caught.value.known == ("live", "offline")
    moved = [(step.side, [row.name for row in plans.phases(step)]) for step in live.steps]
    assert moved == [
        ("destination", ["quiesce", "stop-the-one", "stop", "load"]),
        ("source", ["pre-copy"]),
        (None, []),
        ("source", ["quiesce", "stop-the-one", "stop"]),
        (None, []),
        ("destination", ["judge"]),
        ("destination", ["wake", "start-the-one", "run"]),
        ("source", ["quiesce", "stop-the-one", "stop"]),
    ]


WRONG_STEPS = [
    (
        'side = "source", plan = "there", phases',
        'side = "sauce", plan = "there", phases',
        'migrations[0].steps[0].side: "sauce": is not allowed here; take one of "source", '
        '"destination"',
    ),
    (
        'side = "source", plan = "there", phases',
        'plan = "there", phases',
        "migrations[0].steps[0]: must name the side whose devices move; give side",
    ),
    (
        'plan = "there", phases',
        'plan = "thre", phases',
        'migrations[0].steps[0].plan: "thre": there is no such plan in this file; did you '
        'mean "there"?',
    ),
    (
        'plan = "there", phases',
        'plan = "astray", phases',
        'migrations[0].steps[0].plan: "astray": is a plan marked unsound; mark it sound, and run '
        "the verifier",
    ),
    (
        'phases = ["go"]',
        'phases = ["got"]',
        'migrations[0].steps[0].phases[0]: "got": is not a phase of plan there; did you mean "go"?',
    ),
    (
        'plan = "there", phases = ["go"]',
        'plan = "astray", phases = ["on", "go"]',
        'migrations[0].steps[0].phases[1]: "go": does not come after the one before it; the plan '
        "goes go, on",
    ),
    (
        '{ transfer = "rest" }',
        '{ holder = "delivered" }',
        "migrations[0].steps[1]: must do one thing; give either plan or transfer",
    ),
    (
        '{ transfer = "rest" }',
        '{ transfer = "rest", side = "source", plan = "there" }',
        "migrations[0].steps[1]: must do one thing; give either plan or transfer",
    ),
    (
        '{ transfer = "rest" }',
        '{ transfer = "rest", side = "source" }',
        "migrations[0].steps[1].side: has no meaning for a transfer; drop it",
    ),
    (
        '{ transfer = "rest" }',
        '{ transfer = "all" }',
        'migrations[0].steps[1].transfer: "all": is not allowed here; take one of "passes", "rest"',
    ),
    (
        '{ transfer = "rest" }',
        "{ transfer = 3 }",
        "migrations[0].steps[1].transfer: 3: is a whole number where one of "
        '"passes", "rest" is expected',
    ),
    (
        '{ transfer = "rest" }',
        '{ transfers = "rest" }',
        'migrations[0].steps[1].transfers: is a key that nothing reads; did you mean "transfer"?',
    ),
    (
        '{ transfer = "rest" }',
        '{ transfer = "rest", holder = "bath" }',
        'migrations[0].steps[1].holder: "bath": is not allowed here; take one of "source", '
        '"delivered", "destination"',
    ),
    (
        'steps = [{ side = "source", plan = "there", holder = "source" }]',
        "steps = []",
        "handovers[0].steps: has no rows; add a step",
    ),
    (
        'winner = "source"',
        'winner = "nobody"',
        'handovers[0].winner: "nobody": is not allowed here; take one of "source", "destination"',
    ),
    (
        'holders = ["delivered"]',
        "holders = []",
        "handovers[0].holders: names nobody; name one of source, delivered, destination",
    ),
    (
        'holders = ["delivered"]',
        'holders = ["delivered", "bath"]',
        'handovers[0].holders[1]: "bath": is not allowed here; take one of "source", "delivered", '
        '"destination"',
    ),
    (
        'holders = ["delivered"]',
        'holders = "delivered"',
        'handovers[0].holders: "delivered": is a string where a list is expected',
    ),
    (
        'name = "over"',
        'name = "over there"',
        'migrations[0].name: "over there": is not a name; a name is a letter, then '
        "letters, digits, "
        "_ and -",
    ),
    (
        'source = "made up"',
        "",
        'migrations[0].source: is missing; add source = "..."',
    ),
]
"""The same, in migrations and handovers."""


@pytest.mark.parametrize(("old", "new", "message"), WRONG_STEPS)
def test_a_mistake_of_a_step_is_named_too(spec: Spec, old: str, new: str, message: str):
    loads_plans(spec, GOOD + STEPS)
    assert old in STEPS
    assert message in mistakes(spec, GOOD + STEPS.replace(old, new, 1))


@pytest.mark.parametrize(
    ("holder", "source", "destination", "winners"),
    [
        ("source", WHOLE, WHOLE, ["source", "source"]),
        ("source", FAILED, WHOLE, ["source"]),
        ("source", None, WHOLE, []),
        ("delivered", WHOLE, WHOLE, ["destination", "source", "source"]),
        ("delivered", WHOLE, FAILED, ["source", "source"]),
        ("delivered", None, WHOLE, ["destination"]),
        ("delivered", WHOLE, None, ["source", "source"]),
        ("destination", WHOLE, WHOLE, ["destination", "source", "destination", "source"]),
        ("destination", WHOLE, FAILED, ["source", "destination", "source"]),
        ("destination", None, FAILED, ["destination"]),
        ("destination", WHOLE, None, ["source", "source"]),
        ("destination", FAILED, FAILED, ["destination", "source"]),
        ("destination", None, None, []),
    ],
)
def test_the_journal_states_who_is_to_run(
    spec: Spec, holder: Holder, source: tuple[str, ...], destination: tuple[str, ...], winners
):
    """A side that is not there (None) never is; one that failed only where nobody is whole."""
    rows = list(
        deciding(
            default_plans(spec),
            spec,
            holder,
            {"source": source or FAILED, "destination": destination or FAILED},
            {"source": source is not None, "destination": destination is not None},
        )
    )
    assert [row.winner for row in rows] == winners
    failed = [row.failed for row in rows]
    assert failed == sorted(failed)


def test_each_holder_has_its_rows_and_its_step(spec: Spec):
    plans = default_plans(spec)
    assert FIRST_HOLDER == "source"
    for migration in plans.migrations:
        assert [step.holder for step in migration.steps if step.holder] == [
            "delivered",
            "destination",
        ]
    for row in plans.handovers:
        steps = [step for step in row.steps if step.side == row.winner]
        assert steps
        # Nobody starts before the journal records that it may have run.
        reported = {"source", "destination"} if row.holders == ("destination",) else set()
        assert row.winner in reported | {step.holder for step in row.steps}


def test_the_migration_to_follow_is_the_first_that_will_do(spec: Spec):
    plans = default_plans(spec)
    assert plans.choose() is plans.migrations[0]
    assert plans.choose(pre_copy=False).name == "offline"
    assert plans.choose("offline").name == "offline"
    only_live = replace(plans, migrations=plans.migrations[:1])
    with pytest.raises(SpecError, match="has no row that transfers nothing while the source runs"):
        only_live.choose(pre_copy=False)
    with pytest.raises(SpecError, match="migrations: has no row; add one"):
        replace(plans, migrations=()).choose()


@pytest.mark.parametrize(
    ("side", "winner", "plan"),
    [
        ("source", "source", "recover"),
        ("source", "destination", "retire"),
        ("destination", "source", "retire"),
    ],
)
def test_handovers_state_what_becomes_of_a_side(spec: Spec, side: Side, winner: Side, plan: str):
    plans = default_plans(spec)
    assert [step.plan for step in plans.leads(side, winner)] == [plan]
    message = f'no row with winner = "{winner}" and a step of the {side}'
    with pytest.raises(SpecError, match=message):
        replace(plans, handovers=()).leads(side, winner)


def test_the_steps_of_a_loss_are_checked_as_all_others(spec: Spec):
    loss = """
    [loss]
    winner = "source"
    summary = "Nothing is left."
    steps = [{ side = "source", plan = "thre" }]
    """
    assert mistakes(spec, GOOD + loss) == [
        'loss.steps[0].plan: "thre": there is no such plan in this file; did you mean "there"?'
    ]
    [empty] = mistakes(spec, GOOD + loss.replace('{ side = "source", plan = "thre" }', ""))
    assert empty == "loss.steps: has no rows; add a step"
