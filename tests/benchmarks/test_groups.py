"""Groups in spin, beside the proof that needs no size. Run with `make spin`.

Spin and gcc are no development dependencies: this is skipped with the other benchmarks, and where
it is asked for and they are missing, it fails and states how to get them.
"""

from __future__ import annotations

import pytest
import spin

from support import explicit_group
from vfio_migration.model import load
from vfio_migration.model.plan import default_plans, loads_plans
from vfio_migration.verifier import OBLIGATIONS, Encoding, decide
from vfio_migration.verifier.report.promela import promela
from vfio_migration.verifier.systems.plan import Discipline

PLANS = {plan["name"]: plan["sound"] for plan in explicit_group.plan_data()["plans"]}
BROKEN = sorted(explicit_group.BROKEN.glob("g1-*.toml"))


@pytest.fixture
def checked(benchmark, tmp_path):
    """Checks a model with spin, once, under the eyes of the benchmark."""

    def check(discipline: Discipline, size: int, *options: str) -> spin.Found:
        if (lacking := spin.missing()) is not None:
            pytest.fail(lacking)
        arguments = (promela(discipline, size), tmp_path, *options)
        found = benchmark.pedantic(spin.check, args=arguments, rounds=1)
        benchmark.extra_info.update(states=found.states, running=round(found.running, 3))
        assert found.gave_up is None
        return found

    return check


def discipline(name: str, failing: bool = False) -> Discipline:
    return Discipline(Encoding(load()).widest(), default_plans(load()).plan(name), failing=failing)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("size", [2, 3])
def test_spin_agrees(checked, name: str, size: int):
    found = checked(discipline(name), size)
    if PLANS[name]:
        assert (found.errors, found.error) == (0, None)
    else:
        assert found.errors == 1
        assert found.error is not None
        assert found.error.startswith("assertion violated")
        assert "starts" in found.error or "state" in found.error


@pytest.mark.parametrize("name", [name for name, sound in PLANS.items() if sound])
def test_spin_agrees_where_arcs_fail(checked, name: str):
    assert checked(discipline(name, failing=True), 3).errors == 0


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_spin_refutes_broken_plans(checked, path):
    edit, data = explicit_group.broken(path)
    plan = loads_plans(load(), explicit_group.to_toml(data)).plan(edit["plan"])
    found = checked(Discipline(Encoding(load()).widest(), plan), 2)
    assert found.errors == 1
    assert "assertion violated" in str(found.error)


def test_spin_sees_a_phase_that_never_ends(checked):
    _, data = explicit_group.broken(explicit_group.BROKEN / "g5-asks-what-it-cannot.toml")
    plan = loads_plans(load(), explicit_group.to_toml(data)).plan("save")
    found = checked(Discipline(Encoding(load()).widest(), plan), 2)
    assert found.errors == 1
    assert found.error == "invalid end state"


@pytest.mark.parametrize("name", ["save", "resume", "recover"])
@pytest.mark.parametrize("failing", [False, True])
def test_spin_stores_the_situations_there_are(checked, name: str, failing: bool):
    """It counts those of `init` too, and of a manager about to begin a phase or done with the last.

    So it stores more than there are; how many there are the second model checker knows.
    """
    from support.promela_reader import Model

    model = discipline(name, failing)
    there = len(Model(promela(model, 3)).run().situations)
    found = checked(model, 3)
    assert found.states is not None
    assert there < found.states < 3 * there


@pytest.mark.parametrize("obligation_id", ["G1", "G4"])
def test_the_proof_needs_no_size(benchmark, obligation_id: str):
    obligation = next(o for o in OBLIGATIONS if o.id == obligation_id)
    verdict = benchmark.pedantic(lambda: decide(obligation, Encoding(load())), rounds=5)
    assert verdict.outcome == "proved"
