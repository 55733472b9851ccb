"""The Promela model: what it states is what the plan does, by reading and running the text.

Nothing here needs spin. Where it is installed, `make spin` has it check the same models.
"""

from __future__ import annotations

import dataclasses
import re

import pytest

from support import explicit_group
from support.promela_reader import Model
from support.samples import sampled
from support.table_edits import ROOT
from vfio_migration.model import Spec, SpecError, load
from vfio_migration.model.plan import default_plans, loads_plans
from vfio_migration.verifier import Encoding
from vfio_migration.verifier.report.promela import MAX_DEVICES, promela
from vfio_migration.verifier.systems.plan import Discipline

GOLDEN = ROOT / "tests/data/promela"
GOLDENS = {
    "save-2.pml": ("save", 2, False),
    "recover-failing-3.pml": ("recover", 3, True),
}
DATA = explicit_group.plan_data()
PLANS = [plan["name"] for plan in DATA["plans"]]


def discipline(name: str, failing: bool = False, words=None) -> Discipline:
    encoding = Encoding(load()).widest()
    return Discipline(encoding, default_plans(load()).plan(name), failing=failing, words=words)


def text(name: str, size: int, failing: bool = False, words=None) -> str:
    return promela(discipline(name, failing, words), size)


@pytest.mark.parametrize("name", GOLDENS)
def test_the_text_is_the_one_on_record(name: str):
    """To write it anew: `python tests/support/promela_goldens.py`; read the difference."""
    assert text(*GOLDENS[name]) == (GOLDEN / name).read_text("utf-8")


def test_no_golden_is_stray():
    assert {path.name for path in GOLDEN.iterdir()} == set(GOLDENS)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("failing", [False, True])
def test_the_commands_are_the_steps_of_the_plan(name: str, failing: bool):
    plan = discipline(name, failing)
    expected = set()
    for index, phase in enumerate(plan.plan.phases):
        for word, machine in plan.machines():
            for here, there in plan.steps(phase, machine).items():
                expected.add((index, word, here, there))
                if failing:
                    expected.add((index, word, here, here if here == "ERROR" else "ERROR"))
    expected = {step for step in expected if step[2] != step[3]}
    found = Model(promela(plan, 2)).steps()
    supported = {(word, row.name) for word, m in plan.machines() for row in m.states}
    assert {step for step in found if (step[1], step[2]) in supported} == expected


# Plans that come after others begin in many situations: their three devices have a test below.
SIZES = [(plan["name"], size) for plan in DATA["plans"] for size in (1, 2, 3)
         if size < 3 or "before" in plan]  # fmt: skip


@sampled(4)
@pytest.mark.parametrize(("name", "size"), SIZES)
@pytest.mark.parametrize("failing", [False, True])
def test_the_model_does_what_the_plan_does(name: str, failing: bool, size: int):
    """Run as it is written, the text visits what the second model checker visits."""
    plan = explicit_group.find(DATA, name)
    seen = Model(text(name, size, failing)).run()
    situations, unsafe, ends = set(), False, set()
    for words in explicit_group.groups(plan, size):
        starts = _anywhere(plan, words) if "after" in plan else None
        found = explicit_group.explore(DATA, plan, words, failing=failing, starts=starts)
        situations |= {
            (phase, tuple(zip(words, where, strict=True))) for phase, where in found.situations
        }
        ends |= {tuple(zip(words, where, strict=True)) for where in found.ends}
        unsafe |= found.unsafe_after is not None
        assert not found.stuck
    assert seen.situations == situations
    assert bool(seen.met) == unsafe
    assert seen.ends == ends
    assert not seen.stuck
    if plan["sound"]:
        assert not seen.met
        assert not seen.astray
    elif size > 1:
        assert seen.met


def _anywhere(plan, words):
    """As the proof has it: each device anywhere it may be left, as long as nobody meets."""
    import itertools

    places = [set() for _ in words]
    for index, word in enumerate(words):
        for where in explicit_group.begins(DATA, plan, (word,)):
            places[index].add(where[0])
    return {where for where in itertools.product(*places) if not explicit_group.unsafe(where)}


@pytest.mark.exhaustive
def test_the_recovery_of_three_devices_is_safe_and_arrives():
    seen = Model((GOLDEN / "recover-failing-3.pml").read_text("utf-8")).run()
    assert len(seen.situations) > 3000
    assert not seen.met
    assert not seen.astray
    assert not seen.stuck


ALONE = [
    path
    for path in sorted(explicit_group.BROKEN.glob("g1-*.toml"))
    if "plan" in explicit_group.broken(path)[0]
]


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)
def test_a_broken_plan_shows_in_its_model(spec: Spec, path):
    edit, data = explicit_group.broken(path)
    plan = loads_plans(spec, explicit_group.to_toml(data)).plan(edit["plan"])
    seen = Model(promela(Discipline(Encoding(spec).widest(), plan), 2)).run()
    assert seen.met


def test_a_phase_that_never_ends_shows_as_stuck(spec: Spec):
    edit, data = explicit_group.broken(explicit_group.BROKEN / "g5-asks-what-it-cannot.toml")
    assert edit["breaks"] == "G5"
    plan = loads_plans(spec, explicit_group.to_toml(data)).plan("save")
    seen = Model(promela(Discipline(Encoding(spec).widest(), plan), 2)).run()
    assert seen.stuck
    assert not seen.ends & {where for _, where in seen.stuck}


# --- how it is written ---


def test_the_same_tables_give_the_same_text():
    assert text("save", 4) == text("save", 4)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_the_group_is_as_large_as_was_asked(size: int):
    model = text("save", size)
    assert f"#define N {size}\n" in model
    assert Model(model).size == size
    assert ("without_P2P" in model) == (size > 1)  # a group of one has no peers, and no limit


def test_each_phase_is_explained_in_the_words_of_the_plan():
    for plan in default_plans(load()).plans:
        model = text(plan.name, 2)
        for phase in plan.phases:
            assert f"/* {phase.name}: {phase.summary} */" in model


def test_flags_restrict_the_group():
    model = Model(text("save", 2, words=[7]))
    assert {word for where in model.begins() for word, _ in where} == {7}
    with pytest.raises(SpecError, match=r"2 lack P2P.*at most 1 do"):
        text("save", 2, words=[1])
    assert Model(text("save", 1, words=[1])).begins()


@pytest.mark.parametrize("size", [0, -1, MAX_DEVICES + 1])
def test_a_group_of_no_size_is_refused(size: int):
    with pytest.raises(SpecError, match="is not a size of a group; take 1 to 32"):
        text("save", size)


def test_names_that_promela_keeps_for_itself_are_written_otherwise(spec: Spec):
    """A table may call a state anything; the model still states which is which."""
    renamed = {"STOP": "run", "RESUMING": "N", "PRE_COPY": "re-sume", "PRE_COPY_P2P": "re_sume"}

    def name(old):
        return renamed.get(old, old)

    states = tuple(dataclasses.replace(row, name=name(row.name)) for row in spec.states)
    arcs = tuple(dataclasses.replace(a, from_=name(a.from_), to=name(a.to)) for a in spec.arcs)
    refusals = tuple(
        dataclasses.replace(r, from_=name(r.from_), to=name(r.to)) for r in spec.refusals
    )
    table = dataclasses.replace(spec, states=states, arcs=arcs, refusals=refusals)
    plans = explicit_group.PLANS.read_text("utf-8")
    for old, new in sorted(renamed.items(), key=len, reverse=True):
        plans = plans.replace(f'to = "{old}"', f'to = "{new}"')
    plan = loads_plans(table, plans).plan("save")
    model = Model(promela(Discipline(Encoding(table).widest(), plan), 2))
    assert model.states == [
        *("ERROR", "run_", "RUNNING", "STOP_COPY", "N_", "RUNNING_P2P", "re_sume", "re_sume_")
    ]
    assert not model.run().met
    assert len(model.run().situations) == len(Model(text("save", 2)).run().situations)


def test_a_summary_cannot_end_its_comment(spec: Spec):
    plan = default_plans(spec).plan("save")
    phase = dataclasses.replace(plan.phases[0], summary="One */ two\n#define N 9")
    plan = dataclasses.replace(plan, phases=(phase, *plan.phases[1:]), summary="*/ x")
    model = promela(Discipline(Encoding(spec).widest(), plan), 2)
    assert re.findall(r"^#define N .*$", model, re.MULTILINE) == ["#define N 2"]
    assert "/* pre-copy: One * / two #define N 9 */" in model
