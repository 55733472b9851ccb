"""The finite suite finds each real defect that a client can see; docs/conform.md has by which K."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from support.historical_machines import DEFECTS, Defect
from support.table_edits import ROOT
from vfio_migration.model import Spec
from vfio_migration.model.suite import (
    Behaviour,
    Input,
    behaviour,
    expected,
    sequences,
    whole_run,
)

PAGE: Path = ROOT / "docs/conform.md"
SEEN = [one for one in DEFECTS if one.machine is not None]
RESET = Input("reset")


@pytest.fixture(scope="module")
def tested(spec: Spec) -> Behaviour:
    return behaviour(spec.machine(7), failing=True)


def found(defect: Defect, tested: Behaviour, run: Iterable[tuple[Input, ...]]) -> bool:
    """Lead one device through sequences; return whether it deviates."""
    assert defect.machine is not None
    device = defect.machine(tested)
    device.start()
    for number, sequence in enumerate(run):
        if number and device.make(RESET).state != tested.initial:
            return True
        pairs = zip(sequence, expected(tested, sequence), strict=True)
        if any(device.make(one) != right for one, right in pairs):
            return True
    return False


def smallest(defect: Defect, tested: Behaviour) -> tuple[str, str]:
    """Return the least K whose sequences find it, each with a fresh device, and whose run does."""
    alone = next(
        (
            str(bound)
            for bound in (0, 1, 2)
            if any(found(defect, tested, (one,)) for one in sequences(tested, bound))
        ),
        "-",
    )
    whole = next(str(bound) for bound in (0, 1) if found(defect, tested, whole_run(tested, bound)))
    return alone, whole


def rows(tested: Behaviour) -> Iterator[str]:
    """Yield the rows of the table of docs/conform.md."""
    for one in DEFECTS:
        if one.machine is None:
            yield f"| {one.where} | {one.about} | - | - | {one.seen_by} |"
        else:
            alone, whole = smallest(one, tested)
            yield f"| {one.where} | {one.about} | {alone} | {whole} | {one.seen_by or '-'} |"


@pytest.mark.parametrize("defect", SEEN, ids=lambda one: one.about)
def test_a_real_defect_that_a_client_can_see_is_found_with_one_hidden_state(
    defect: Defect, tested: Behaviour
) -> None:
    assert found(defect, tested, whole_run(tested, 1))


@pytest.mark.exhaustive
def test_the_page_states_by_which_bound_each_is_found(tested: Behaviour) -> None:
    page = PAGE.read_text("utf-8")
    missing = [row for row in rows(tested) if row not in page]
    assert not missing, "\n".join(missing)


if __name__ == "__main__":
    from vfio_migration.model import load

    print("\n".join(rows(behaviour(load().machine(7), failing=True))))
