"""Each defect a device can have is found by the kit for testing devices, under its right name."""

from __future__ import annotations

import bad_devices as bad
import bad_lives as lives
import bad_streamers as streams
import pytest
from bad_devices import BAD
from sample_device import Sample, drive_sample

from support.samples import sample, sampled
from vfio_migration.model import Spec
from vfio_migration.runtime.testing import checks
from vfio_migration.runtime.testing.checks import CHECKS, Check
from vfio_migration.runtime.testing.suite import (
    ObligationViolatedError,
    Setup,
    find_problems,
)

# Which device makes which check fail: none of them passes whatever it is given.
EXAMPLES: dict[Check, type[Sample]] = {
    checks.check_every_arc: bad.StopsAndReportsThatItDidNot,
    checks.check_gates: bad.PeerDmaWhileQuiesced,
    checks.check_operation: bad.KnowsStatesByName,
    checks.check_refusals: bad.ReadingChangesIt,
    checks.check_migration: streams.ForgetsDirtyPages,
    checks.check_mapped_memory: streams.TrustsMappedMemory,
    checks.check_ends_of_stream: streams.InitialBytesRise,
    checks.check_bad_streams: streams.TakesDamage,
    checks.check_strangers: streams.TakesStrangers,
    checks.check_reset: bad.NoResetInSession,
    checks.check_disconnect: bad.KeepsMaps,
    checks.check_two_devices: bad.SharesItsState,
    checks.check_two_lives: bad.FlagNeverCleared,
    checks.check_sessions_do_not_mix: streams.SessionsMix,
    checks.check_failing_hooks: bad.FailingChangesIt,
    checks.check_failing_load_and_save: lives.SwallowsAFailureOfSave,
    checks.check_lives_that_differ: lives.LoadsOnlyOnce,
    checks.check_descriptors: lives.LeaksADescriptorEachLife,
    checks.check_foreign_states: lives.LoadsWhateverItIsGiven,
    checks.check_dma_log: bad.ForgetsPartlyReported,
    checks.check_complete_suite: bad.RefusesAfterItsThirdReset,
}
ALL = 7


@pytest.mark.exhaustive
def test_the_good_one_breaks_nothing(spec: Spec) -> None:
    assert list(find_problems(Sample, spec, drive=drive_sample)) == []


@sampled(3)
@pytest.mark.parametrize(
    "device",
    sample([one for one in BAD if one not in lives.WORDS], 18),
    ids=lambda device: device.__name__,
)
def test_it_is_caught(device: type[Sample], spec: Spec) -> None:
    found = []
    for problem in find_problems(device, spec, drive=drive_sample, capabilities=[ALL]):
        found.append(problem)
        if problem.obligation in BAD[device]:
            return
    pytest.fail(f"{BAD[device]} is not among {found}")


def test_every_check_can_fail() -> None:
    assert list(EXAMPLES) == list(CHECKS)


@sampled(3)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_fails(check: Check, spec: Spec) -> None:
    with pytest.raises(ObligationViolatedError):
        check(Setup(EXAMPLES[check], spec, ALL, drive_sample))
