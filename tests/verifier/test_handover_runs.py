"""The runs that G7 shows: every step, and whom it names, against a second model of the plans."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from support import explicit_group
from support.explicit_handover import HandoverModel
from support.explicit_handover_runs import follow
from support.samples import sample, sample_where, sampled
from vfio_migration.model import Spec, Trace, load
from vfio_migration.model.plan import loads_plans
from vfio_migration.verifier import Encoding
from vfio_migration.verifier.report.replay import replay
from vfio_migration.verifier.report.text import steps
from vfio_migration.verifier.systems.handover import Journey
from vfio_migration.verifier.systems.handover_arrival import Stranded, stranded
from vfio_migration.verifier.systems.handover_runs import (
    deciding_runs,
    shortest_of,
    stranding,
    undisturbed,
)

DATA = explicit_group.plan_data()
FILES = [
    path
    for path in sorted(explicit_group.BROKEN.glob("g7-*.toml"))
    if "does not get on from"
    not in explicit_group.broken(path)[0]["message"]  # see `stranding` below
]
GROUPS = [(7,), (5,), (3,), (1,), (7, 5), (7, 3), (7, 7)]


def journey(data: dict[str, Any]) -> Journey:
    spec = load()
    return Journey(Encoding(spec).widest(), loads_plans(spec, explicit_group.to_toml(data)))


def edits() -> Iterator[tuple[str, dict[str, Any]]]:
    """Steps dropped, swapped and not written down; handovers dropped, swapped, for the other."""

    def edited(name: str) -> tuple[str, dict[str, Any]]:
        return name, copy.deepcopy(DATA)

    for section in ("migrations", "handovers"):
        for row, about in enumerate(DATA[section]):
            for step in range(len(about["steps"])):
                name, data = edited(f"{section}[{row}].steps[{step}]-dropped")
                del data[section][row]["steps"][step]
                if data[section][row]["steps"]:
                    yield name, data
                name, data = edited(f"{section}[{row}].steps[{step}]-swapped")
                parts = data[section][row]["steps"]
                if step + 1 < len(parts):
                    parts[step], parts[step + 1] = parts[step + 1], parts[step]
                    yield name, data
                name, data = edited(f"{section}[{row}].steps[{step}]-not-written-down")
                if data[section][row]["steps"][step].pop("holder", None):
                    yield name, data
                name, data = edited(f"{section}[{row}].steps[{step}]-other-side")
                part = data[section][row]["steps"][step]
                if "side" in part:
                    part["side"] = "source" if part["side"] == "destination" else "destination"
                    yield name, data
    for row, about in enumerate(DATA["handovers"]):
        name, data = edited(f"handovers[{row}]-dropped")
        del data["handovers"][row]
        yield name, data
        name, data = edited(f"handovers[{row}]-swapped")
        rows = data["handovers"]
        if row + 1 < len(rows):
            rows[row], rows[row + 1] = rows[row + 1], rows[row]
            yield name, data
        name, data = edited(f"handovers[{row}]-other-winner")
        other = "source" if about["winner"] == "destination" else "destination"
        data["handovers"][row]["winner"] = other
        yield name, data


EDITS = dict(edits())


def checked(data: dict[str, Any], words: tuple[int, ...]) -> str | None:
    run = shortest_of(journey(data), words)
    if run is None:
        return None
    assert run.trace is not None
    assert Trace.from_json(run.trace.to_json()) == run.trace
    reported = follow(data, run.trace)
    assert run.text.endswith(reported)
    again = replay(run.trace, load())
    assert again.agrees, again.difference
    return reported


@sampled(5)
@pytest.mark.parametrize("path", sample(FILES, 4), ids=lambda path: path.stem)
def test_every_step_of_a_run_is_one_the_broken_plans_let_happen(path):
    edit, data = explicit_group.broken(path)
    found = [reported for words in GROUPS if (reported := checked(data, words)) is not None]
    for _, arrives, run in undisturbed(journey(data)):
        assert run.trace is not None
        found += [] if arrives else [follow(data, run.trace)]
    assert any(edit["message"] in reported for reported in found)


def test_a_device_that_a_handover_does_not_bring_on_is_shown_as_a_run():
    _, data = explicit_group.broken(explicit_group.BROKEN / "g7-failed-devices-are-not-reset.toml")
    found = journey(data)
    lost = stranded(found, 4)
    assert lost is not None
    run = stranding(found, lost)
    assert run.text.startswith(f"{lost.text}: migration ")
    assert run.trace is not None
    assert run.text.endswith(follow(data, run.trace))
    again = replay(run.trace, load())
    assert again.agrees, again.difference
    assert "handover 4 decides" in str(run.trace.steps[-2].note)
    assert "destination device 0 in ERROR" in str(run.trace.steps[-1].note)


def test_where_no_run_leads_to_such_a_device_that_is_stated():
    found = journey(DATA)
    nowhere = Stranded("nobody", found.begun[0], "source", 7, ("ERROR", True))
    run = stranding(found, nowhere)
    assert (run.text, run.trace) == ("nobody; no run of one device a side leads there", None)


@pytest.mark.parametrize("name", sample(EDITS, 5))
def test_a_single_edit_of_the_plans_is_reported_as_it_happens(name: str):
    """Where something goes wrong with one device that has every capability: most edits."""
    checked(EDITS[name], (7,))


@pytest.mark.exhaustive
@pytest.mark.parametrize("apart", sample([3, 1], 2))
def test_the_single_edits_are_reported_in_every_way_there_is(apart: int):
    tried = list(EDITS.values())[::apart]
    runs = [shortest_of(journey(data), (7,)) for data in tried]
    traces = [run.trace for run in runs if run is not None and run.trace is not None]
    assert len(traces) > len(tried) / 2
    recorded = [step for trace in traces for step in trace.steps]
    assert {step.kind for step in recorded} == {"arc", "arc_failed_for_good", "reset", "note"}
    notes = {str(step.note) for step in recorded}
    for words in (
        "the server of source",
        "the server of destination",
        "the stream of destination",
        "the coordinator",
        "the journal has: delivered",
        "no handover holds",
        "its maps are taken away",
    ):
        assert any(note.startswith(words) for note in notes), words


@pytest.mark.parametrize("name", sample(EDITS, 5))
def test_a_migration_arrives_where_the_second_model_has_it_arrive(name: str):
    data = EDITS[name]
    found = list(undisturbed(journey(data)))
    for index, (about, arrives, run) in enumerate(found):
        assert about == data["migrations"][index]["name"]
        models = [HandoverModel(data, (word,)) for word in explicit_group.WORDS]
        assert arrives == all(
            model.arrives(world)
            for model in models
            for world in model.starts()
            if world.program == ("migration", index)
        )
        assert run.trace is not None
        assert replay(run.trace, load()).agrees
        if not arrives:
            assert follow(data, run.trace).endswith(" does not get on")


# After how many events it goes wrong decides how long the search takes: here 3, there 10 and more.
SOON = ["migrations[0].steps[0]-dropped", "migrations[1].steps[1]-swapped"]
LATE = ["handovers[3]-dropped", "migrations[0].steps[5]-not-written-down"]


@pytest.mark.parametrize("name", sample_where([*SOON, *LATE], lambda name: name in SOON))
def test_a_run_of_three_devices_is_reported_right_too(name: str):
    assert checked(EDITS[name], (7, 7, 5)) is not None


def test_the_runs_in_which_each_handover_decides_are_what_happens(spec: Spec):
    for index, run in deciding_runs(Journey.of(Encoding(spec).widest())).items():
        assert run.trace is not None
        *some, last = run.trace.steps
        assert last.note == f"so it ends as handover {index} requires"
        # The follower wants an end that can be so: that the side that decides is there.
        winner = DATA["handovers"][index]["winner"]
        state = {step.device: step.state for step in some}.get(
            winner == "destination", run.trace.start[winner == "destination"]
        )
        note = f"not for {winner} device 0 in {state}"
        end = dataclasses.replace(last, device=int(winner == "destination"), state=state, note=note)
        for bare in ("", ", which holds no state"):
            recorded = dataclasses.replace(end, note=note + bare)
            trace = dataclasses.replace(run.trace, steps=(*some, recorded))
            try:
                follow(DATA, trace)
                break
            except AssertionError as error:
                wrong = error
        else:
            raise wrong


def test_who_follows_a_run_notices_a_wrong_name():
    """A step of another device, another side in a note, another handover: none can happen."""
    _, data = explicit_group.broken(explicit_group.BROKEN / "g7-both-run.toml")
    run = shortest_of(journey(data), (7, 5))
    assert run is not None
    assert run.trace is not None
    follow(data, run.trace)

    def wrong(index: int, **changes: Any) -> None:
        recorded = list(run.trace.steps)
        recorded[index] = dataclasses.replace(recorded[index], **changes)
        with pytest.raises(AssertionError):
            follow(data, dataclasses.replace(run.trace, steps=tuple(recorded)))

    for index, step in enumerate(run.trace.steps):
        wrong(index, device=(step.device + 1) % len(run.trace.start))
        if step.note:
            swapped = {"source": "destination", "destination": "source", "3": "2", "1": "0"}
            for one, other in swapped.items():
                if one in step.note.partition('"')[0]:
                    wrong(index, note=step.note.replace(one, other, 1))


def test_a_note_of_nobody_is_laid_at_no_device():
    _, data = explicit_group.broken(explicit_group.BROKEN / "g7-blank-devices-win.toml")
    run = shortest_of(journey(data), (7,))
    assert run is not None
    assert run.trace is not None
    assert list(steps(run.trace)) == [
        "0. source device 0 RUNNING (STOP_COPY,P2P,PRE_COPY)",
        "0. destination device 0 RUNNING (STOP_COPY,P2P,PRE_COPY)",
        "1. the journal has: delivered",
        "2. destination device 0: arc RUNNING -> RUNNING_P2P   [state RUNNING => RUNNING_P2P]",
        "3. destination device 0 starts without the state it is to have",
    ]
