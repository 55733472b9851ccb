"""Mutation of the table of the connection: every field is mutated, and each mutant has its fate."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest
from made_page import differences
from mutants_page import WIRE_PAGE, page

from vfio_migration.model import load
from vfio_migration.model.spec import Row
from vfio_migration.model.wire import Occasion, Wire
from vfio_migration.model.wire_load import load_wire, wire_from
from vfio_migration.verifier.mutation.mutate import LOAD, mutate
from vfio_migration.verifier.mutation.row_edits import Form, fields_of, row_mutants
from vfio_migration.verifier.mutation.subjects import as_data
from vfio_migration.verifier.mutation.wire_edits import (
    ARGUED,
    WIRE_FORM,
    WIRE_KINDS,
    answered_alike,
    argued,
)

ROOT = Path(__file__).resolve().parents[2]
WIRE = load_wire()
ALL = row_mutants(WIRE, WIRE_FORM)
BY_ID = {mutant.id: mutant for mutant in ALL}
FIELD = re.compile(r"(\w+)\[\d+\]\.(\w+)[=+-]")


def fields_edited() -> set[str]:
    found = [FIELD.match(mutant.id) for mutant in ALL]
    return {f"{match[1]}.{match[2]}" for match in found if match is not None}


# --- the edits ---


def test_each_field_of_the_table_is_mutated_or_excused():
    assert fields_edited() | WIRE_FORM.excused == set(fields_of(Wire))
    assert not fields_edited() & WIRE_FORM.excused


def test_each_row_is_dropped_and_neighbours_among_the_answers_are_swapped():
    rows = {section: len(getattr(WIRE, section)) for section in WIRE_KINDS}
    dropped = [mutant for mutant in ALL if re.fullmatch(r"\w+\[\d+\]-", mutant.id)]
    assert len(dropped) == sum(rows.values())
    assert sum(mutant.id.endswith("<=>") for mutant in ALL) == rows["answers"] - 1


def test_no_two_mutants_are_the_same():
    for values in (
        [mutant.id for mutant in ALL],
        [mutant.sentence for mutant in ALL],
        [mutant.table for mutant in ALL],
    ):
        assert len(set(values)) == len(values)
    assert WIRE not in {mutant.table for mutant in ALL}


def test_every_occasion_has_its_row():
    assert sorted(row.when for row in WIRE.answers) == sorted(get_args(Occasion))


def test_an_edit_is_found_by_its_place_and_what_is_written_there():
    assert BY_ID["commands[1].request=33"].sentence == "commands[1].request (DMA_MAP) 32 => 33"
    assert BY_ID["choices[1].least=1"].kind == "choices"
    assert BY_ID["commands[1].whole=false"].table.commands[1].whole is False
    swapped = BY_ID["answers[0]<=>"]
    assert swapped.sentence == (
        "answers[0] (size_below_header) and the (size_over_limit) below it swapped"
    )
    assert swapped.table.answers[:2] == (WIRE.answers[1], WIRE.answers[0])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wheel(Row):
    name: str
    spokes: int = 3
    tyre: str | None = None
    marks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cart(Row):
    wheels: tuple[Wheel, ...]
    spare: Wheel | None = None


def test_edits_follow_from_the_classes_whatever_the_table():
    cart = Cart(
        wheels=(Wheel(name="a", tyre="wide", marks=("x",)), Wheel(name="b", marks=("y",))),
        spare=Wheel(name="c"),
    )
    form = Form(
        labels={"names": frozenset({"wheels.name", "spare.name"})}, ordered=frozenset({"wheels"})
    )
    assert {mutant.id for mutant in row_mutants(cart, form)} == {
        *("wheels[0].spokes=4", "wheels[0].tyre=nothing", "wheels[0].marks-x"),
        *("wheels[0].marks+y", "wheels[1].spokes=4", "wheels[1].tyre=wide"),
        *("wheels[1].marks-y", "wheels[1].marks+x", "wheels[0]-", "wheels[1]-", "wheels[0]<=>"),
        *("spare.spokes=4", "spare-"),
    }


# --- their fates ---


def test_a_table_goes_to_data_and_back():
    assert wire_from(as_data(WIRE)) == WIRE


def test_two_answers_to_different_messages_may_change_places():
    assert answered_alike(WIRE, BY_ID["answers[0]<=>"].table, load())


def test_an_answer_with_another_errno_is_not_taken_for_equivalent():
    assert not answered_alike(WIRE, BY_ID["answers[15].errno=ENOMSG"].table, load())


def test_an_edit_of_anything_but_the_answers_is_never_taken_for_equivalent():
    assert not answered_alike(WIRE, BY_ID["holdings[0].full=waits"].table, load())


@pytest.mark.exhaustive
def test_numbers_sizes_and_methods_are_caught_by_what_is_listed():
    survey = mutate(load(), wire=WIRE, kinds=["header", "features"], against=["W11"], jobs=1)
    assert survey.kills["W11"] > survey.kills[LOAD]
    assert survey.caught is True
    # A feature that Linux has and vfio-user has not, and what comes with STOP, nothing demands.
    assert {fate.id for fate in survey.of("argued")} == {
        "features[3].set_request_item=2",
        "features[5]-",
        "features[6]-",
    }


def test_an_argument_is_about_fields_that_there_are():
    known = {*fields_of(Wire), *WIRE_KINDS}
    for fields in ARGUED.values():
        assert {name.partition(":")[0] for name in fields} <= known


def test_what_specifications_state_is_not_argued_away():
    for name in ("commands[0].number=20", "features[1].set=false", "flags[4].mask=3"):
        found = [mutant for mutant in ALL if mutant.id.startswith(name.partition("=")[0])]
        assert found
        assert {argued(WIRE, mutant) for mutant in found} == {None}


def test_the_page_has_as_many_mutants_as_there_are():
    shown = (ROOT / "docs" / WIRE_PAGE).read_text("utf-8")
    assert f"\n**{len(ALL)}** mutants of {WIRE.title}: " in shown
    assert "**0** survived" in shown


@pytest.mark.exhaustive
def test_nothing_survives():
    """Made anew by `python tools/mutants_page.py`."""
    survey = mutate(load(), wire=WIRE)
    assert [fate.sentence for fate in survey.of("survived")] == []
    assert survey.caught is True
    assert "".join(differences(page(survey, of_wire=True), ROOT / "docs" / WIRE_PAGE)) == ""
