"""Each defect a device can have is found by the kit for testing devices, under its right name."""

from __future__ import annotations

import pytest
from bad_devices import BAD, ChangesWhileStopped, DmaWhileStopped, TakesHalfAStream
from sample_device import Sample, drive_sample

from vfio_migration.model import Spec
from vfio_migration.runtime.testing import BrokenPromise, Setup, find_problems, run_random_walks

ALL = 7


def test_the_good_one_breaks_nothing(spec: Spec) -> None:
    assert list(find_problems(Sample, spec, drive=drive_sample)) == []


@pytest.mark.parametrize("device", BAD, ids=lambda device: device.__name__)
def test_it_is_caught(device: type[Sample], spec: Spec) -> None:
    found = []
    for problem in find_problems(device, spec, drive=drive_sample, capabilities=[ALL]):
        found.append(problem)
        if problem.promise in BAD[device]:
            return
    pytest.fail(f"{BAD[device]} is not among {found}")


@pytest.mark.parametrize("device", [TakesHalfAStream, ChangesWhileStopped, DmaWhileStopped])
def test_random_walks_catch_it_too(device: type[Sample], spec: Spec) -> None:
    with pytest.raises(BrokenPromise):
        run_random_walks(Setup(device, spec, ALL, drive_sample), examples=100)
