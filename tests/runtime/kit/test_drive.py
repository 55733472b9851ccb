"""The suite in one line, without a drive of one's own: what it finds, and how it states it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from forgetful_devices import (
    ForgetsTheSecond,
    HidesTheSecond,
    SavesTheSecondTooNarrow,
    Two,
)
from sample_device import Sample

from support.samples import sampled
from vfio_migration.model import Spec
from vfio_migration.runtime.kit.pci_device import Bar, PciDevice
from vfio_migration.runtime.kit.region import Area
from vfio_migration.runtime.testing.observe import (
    LOOK,
    SIZES,
    WORDS,
    Sight,
    differing,
    look,
    unlike,
)
from vfio_migration.runtime.testing.suite import Guest, Problem, Setup, find_problems, fuzz

ALL = 7


def found(
    device: type[Two], spec: Spec, *where: int, width: int | None = None, flags: int = ALL
) -> Problem:
    made = type(device.__name__, (device,), {"where": where, "width": width})
    problems = find_problems(made, spec, capabilities=[flags])
    return next(problems, Problem("", "", "", "nothing is found"))


# --- what it finds ---


@sampled(7)
@pytest.mark.parametrize(("bar", "offset"), [(0, at) for at in (0, 8, 24, 64, 100, 256, 516)])
def test_a_register_that_is_not_saved(bar: int, offset: int, spec: Spec) -> None:
    problem = found(ForgetsTheSecond, spec, bar, offset)
    assert problem.obligation == "S1"
    assert problem.words.startswith(f"BAR {bar} at {offset:#x}")


@sampled(6)
@pytest.mark.parametrize(("bar", "offset"), [(0, LOOK - 4), (5, 12)])
@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_the_last_register_of_a_bar(flags: int, bar: int, offset: int, spec: Spec) -> None:
    assert found(ForgetsTheSecond, spec, bar, offset, flags=flags).obligation == "S1"


@sampled(4)
@pytest.mark.parametrize(("width", "offset"), [(1, 3), (2, 6), (4, 24), (4, 516), (8, 512)])
def test_a_register_of_one_width(width: int, offset: int, spec: Spec) -> None:
    problem = found(ForgetsTheSecond, spec, 0, offset, width=width)
    assert problem.obligation == "S1"
    shown = {1: " (1 byte)", 2: " (2 bytes)", 4: "", 8: " (8 bytes)"}[width]
    assert problem.words.startswith(f"BAR 0 at {offset:#x}{shown}: source 0x")


@sampled(3)
@pytest.mark.parametrize("offset", [0, 8, 48, 64, 512])
def test_a_register_that_is_saved_too_narrow(offset: int, spec: Spec) -> None:
    problem = found(SavesTheSecondTooNarrow, spec, 0, offset)
    assert "4294967295" in problem.words or "argument out of range" in problem.words


@sampled(3)
@pytest.mark.parametrize("offset", [0, 8, 100, 512])
def test_a_register_that_only_acts(offset: int, spec: Spec) -> None:
    problem = found(HidesTheSecond, spec, 0, offset)
    assert problem.obligation == "S5"
    assert "source and destination go on unlike: BAR 0 at 0x" in problem.words


@pytest.mark.exhaustive
@pytest.mark.parametrize("device", [Two, Sample])
def test_a_good_device_breaks_nothing(device: type[PciDevice], spec: Spec) -> None:
    assert list(find_problems(device, spec, capabilities=[ALL])) == []


# --- how it states it ---


def test_it_names_the_register_and_what_was_in_it(spec: Spec) -> None:
    class Stuck(ForgetsTheSecond):
        def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
            super().bar_write(bar, offset, 7 if self._second(bar, offset, size) else value, size)

        def load(self, state: bytes, version: int) -> None:
            super().load(state, version)
            self.step = 1

    problem = found(Stuck, spec, 0, 8)
    assert problem.words == (
        "BAR 0 at 0x8: source 0x7, destination 0x1 "
        "(does `save` leave it out, or `load` not put it back?)"
    )


def test_it_names_what_else_differs() -> None:
    one, other = Sample(), Sample()
    one.regions[0].write(0, b"\1")
    one.config.write(0x3C, b"\5")
    one.block("bar0.0").write(0, b"\1")
    one.interrupts.line = True
    seen, now = look(one), look(other)
    assert unlike(seen, now, "one", "other").split("; ") == [
        "BAR 0 at 0x0: one 0x1, other 0x0",
        "the memory of BAR 0 at 0x1000: not the same in one and other",
        "configuration space at 0x4: one 0x180000, other 0x100000, and 1 more",
        "the interrupt line: one True, other False",
    ]
    assert unlike(seen, seen, "one", "other") == ""
    for device in (one, other):
        device.close()


def test_a_number_of_places_is_reported() -> None:
    sight = Sight("BAR 0", 4)
    one, other = {sight: [b"\0\1\0\0"] * 3}, {sight: [b"\0\1\0\0", b"\2\0\0\0"]}
    assert unlike(one, other, "A", "B") == "BAR 0 at 0x4: A 0x100, B 0x2, and 1 more"
    assert unlike(other, one, "A", "B") == "BAR 0 at 0x4: A 0x2, B 0x100"
    longer = {sight: [b"\0\1\0\0"] * 4}
    assert unlike(one, longer, "A", "B") == "BAR 0: longer in B than in A"
    assert differing(one, {}) == [sight]
    assert unlike(one, {}, "A", "B") == "BAR 0 at 0x0: A 0x100, B none, and 2 more"


# --- what it does ---


class Notes(Two):
    bars = {0: Bar(8192, areas=(Area(4096, 4096),)), 2: Bar(2048), 5: Bar(16)}  # noqa: RUF012

    def reset_device(self) -> None:
        super().reset_device()
        self.recorded: list[tuple[int, ...]] = []

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        self.recorded.append((bar, offset, size, value))


def recorded(spec: Spec, seeds: Iterable[int], *, thorough: bool) -> list[Any]:
    with Setup(Notes, spec, ALL).trial() as trial:
        for seed in seeds:
            trial.rng = random.Random(seed)
            trial.drive(thorough=thorough)
        assert isinstance(trial.device, Notes)
        return trial.device.recorded


def test_it_is_the_same_each_time(spec: Spec) -> None:
    for thorough in (False, True):
        first = recorded(spec, range(3), thorough=thorough)
        assert first == recorded(spec, range(3), thorough=thorough)


def test_a_few_accesses_are_of_all_sizes(spec: Spec) -> None:
    assert len(recorded(spec, [1], thorough=False)) == 12
    assert {size for _, _, size, _ in recorded(spec, range(20), thorough=False)} == set(SIZES)


@pytest.mark.parametrize("seed", range(4))
def test_thorough_is_every_access_that_is_looked_at_once(seed: int, spec: Spec) -> None:
    made = [row[:3] for row in recorded(spec, [seed], thorough=True)]
    due = {
        (bar, at, size)
        for bar, length in ((0, LOOK), (2, LOOK), (5, 16))
        for size, end in ((1, WORDS), (2, WORDS), (4, LOOK), (8, LOOK))
        for at in range(0, min(length, end), size)
    }
    assert sorted(made) == sorted(due)
    assert made != sorted(made)


def test_it_passes_over_refusals_and_leaves_the_guest_as_it_was(spec: Spec) -> None:
    with Setup(Notes, spec, ALL).trial() as trial:
        trial.ask("STOP")
        trial.drive(thorough=True)
        assert isinstance(trial.device, Notes)
        assert trial.device.recorded == []
        assert not trial.guest.thorough


def test_it_drives_whatever_has_regions() -> None:
    guest = Guest()
    device = Two()
    guest.thorough = True
    fuzz(device, guest, random.Random(1))
    assert device.count
    assert device.step != 1
    device.close()
    guest.close()
