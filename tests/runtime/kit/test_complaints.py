"""The device tests: about whom they complain, in which words, and about whom they do not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bad_lives
import good_devices
import pytest
from bad_devices import BAD
from good_devices import FEATURES, LEGAL, Msix, drive_that_writes_to_the_guest
from sample_device import Sample, drive_sample

from support.samples import sample, sampled
from vfio_migration.model import Spec
from vfio_migration.runtime import ArcError
from vfio_migration.runtime.kit.pci_device import PciDevice
from vfio_migration.runtime.testing import checks
from vfio_migration.runtime.testing.foreign_streams import frames, joined
from vfio_migration.runtime.testing.suite import (
    ObligationViolatedError,
    Problem,
    Setup,
    device_test_suite,
    find_problems,
)
from vfio_migration.runtime.testing.wording import OBLIGATIONS, described, in_words

ALL = 7
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    while bad_lives.LEFT_OPEN:
        os.close(bad_lives.LEFT_OPEN.pop())


# --- about whom they complain ---


@sampled(3)
@pytest.mark.parametrize("device", bad_lives.WORDS, ids=lambda device: device.__name__)
def test_what_goes_wrong_after_a_good_first_life_is_found_and_stated_in_words(
    device: type[Sample], spec: Spec
) -> None:
    check, words = bad_lives.WORDS[device]
    with pytest.raises(ObligationViolatedError) as complaint:
        check(Setup(device, spec, ALL, drive_sample))
    obligation, text = complaint.value.obligation, str(complaint.value)
    assert obligation in BAD[device]
    assert text.startswith(f"{obligation} is broken ({OBLIGATIONS[obligation]}): ")
    for one in words:
        assert one in text
    place = r"a device with STOP_COPY,P2P,PRE_COPY is in [A-Z_0-9]+ after |stopped and closed"
    assert re.search(place, text)


# --- about whom they do not ---


@pytest.mark.exhaustive
@pytest.mark.parametrize("device", sample(FEATURES, 10), ids=lambda device: device.__name__)
def test_a_device_with_this_feature_passes_the_whole_suite(
    device: type[PciDevice], spec: Spec
) -> None:
    found = find_problems(device, spec, capabilities=[ALL], hidden_states=0)
    assert list(map(str, found)) == []


TestMsix = pytest.mark.exhaustive(device_test_suite(Msix))


@pytest.mark.exhaustive
@pytest.mark.parametrize("device", LEGAL, ids=lambda device: device.__name__)
def test_a_device_that_fails_as_it_may_is_not_accused(device: type[PciDevice], spec: Spec) -> None:
    found = find_problems(device, spec, drive=drive_sample, capabilities=[ALL], hidden_states=0)
    assert list(map(str, found)) == []


@pytest.mark.exhaustive
def test_memory_of_the_guest_that_a_drive_writes_is_not_the_devices_doing(spec: Spec) -> None:
    setup = Setup(Sample, spec, ALL, drive_that_writes_to_the_guest)
    for check in (checks.check_gates, checks.check_dma_log, checks.check_failing_hooks):
        check(setup)


# --- in which words ---


def test_the_obligations_are_stated_as_in_the_documentation() -> None:
    page = (DOCS / "obligations.md").read_text("utf-8")
    rows = re.findall(r"^### ([DS]\d+): .*\n\n(.*)\.$", page, re.MULTILINE)
    assert dict(rows) == OBLIGATIONS
    assert in_words("?") == ""


def test_a_problem_names_obligation_check_capabilities_and_place() -> None:
    problem = Problem("D8", "refusals", "STOP_COPY", "it moved", "a device is in STOP")
    assert str(problem) == (
        "D8 (A refused request changes nothing at all), check refusals, capabilities STOP_COPY: "
        "it moved; a device is in STOP"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ArcError("busy"), "busy"),
        (ArcError(), "ArcError"),
        (ValueError("no"), "ValueError: no"),
        (KeyError("x"), "KeyError: 'x'"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (None, "no reason is given"),
    ],
)
def test_an_exception_is_reported_in_words(error: Exception | None, words: str) -> None:
    assert described(error) == words


@pytest.mark.parametrize("name", ["stop", "quiesce", "start", "resume"])
def test_a_hook_that_raises_is_named_and_no_other(name: str, spec: Spec) -> None:
    class Fails(Sample):
        armed = False

        def fail(self, hook: str) -> None:
            if hook == name and self.armed:
                raise ArcError("it is broken", for_good=True)

        def stop(self) -> None:
            self.fail("stop")

        def start(self) -> None:
            self.fail("start")

        def quiesce(self) -> None:
            self.fail("quiesce")

        def resume(self) -> None:
            self.fail("resume")

        def bar_write(self, *about: Any) -> None:
            super().bar_write(*about)
            self.armed = True

    with pytest.raises(ObligationViolatedError) as complaint:
        checks.check_every_arc(Setup(Fails, spec, 1, drive_sample))
    arc = "STOP -> RUNNING" if name in ("start", "resume") else "RUNNING -> STOP"
    assert f"{arc} fails in `{name}`: it is broken" in str(complaint.value)
    assert complaint.value.obligation == "D9"


def test_a_check_that_cannot_be_made_states_which_callback_raised_and_where(spec: Spec) -> None:
    class Raises(Sample):
        def bar_read(self, bar: int, offset: int, size: int) -> int:
            if not self.may("change_state"):
                raise ZeroDivisionError("by nothing")
            return super().bar_read(bar, offset, size)

    found = find_problems(Raises, spec, drive=drive_sample, capabilities=[ALL])
    problem = next(one for one in found if one.obligation == "?")
    assert "in `bar_read`: ZeroDivisionError: by nothing" in problem.words
    assert "for want of an answer" in problem.words
    assert "Raises in `bar_read`: a device with STOP_COPY,P2P,PRE_COPY is in" in problem.place


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "device", sample([*list(BAD)[:6], good_devices.Numbers], 6), ids=lambda device: device.__name__
)
def test_no_complaint_shows_an_object_as_python_writes_it(device: type[Sample], spec: Spec) -> None:
    for problem in find_problems(device, spec, drive=drive_sample, capabilities=[1]):
        assert not re.search(r"\w+\((?:'|state=|\[)|<[\w.]+ object|\[\d+, ", str(problem)), problem


# --- what they are made of ---


def test_a_stream_that_is_taken_apart_and_joined_is_the_same(spec: Spec) -> None:
    stream = Setup(Sample, spec, ALL, drive_sample).good_stream()
    rows = frames(stream)
    assert rows is not None
    assert joined(rows) == stream
    assert frames(b"another format" + stream) is None


def test_the_suite_is_named_by_its_device() -> None:
    for factory in (Sample, partial(Sample, max_maps=4)):
        assert "held against Sample." in str(device_test_suite(factory).__doc__)
