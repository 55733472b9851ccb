"""Checks of several life cycles of the same devices, each with contents of its own."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable
from pathlib import Path

from vfio_migration.runtime.engine.errors import RequestFailedError
from vfio_migration.runtime.testing.observe import not_arrived
from vfio_migration.runtime.testing.steps import finish_alike, whole_life
from vfio_migration.runtime.testing.trial import ObligationViolatedError, Setup, Trial, require
from vfio_migration.runtime.testing.wording import fails

_LIVES = 4
_COUNTED = 5


def check_lives_that_differ(setup: Setup) -> None:
    """S1, D12: each migration moves what the device then holds, whatever was moved before."""
    with setup.trial(21) as one, setup.trial(22) as other:
        source, target = one, other
        for life in range(1, _LIVES + 1):
            which = f"migration {life} of the same two devices, with other contents each time"
            _move(source, target, life, which)
            if life == _LIVES // 2:
                source, target = target, source  # and back again


def _move(source: Trial, target: Trial, life: int, which: str) -> None:
    setup = source.setup
    growing = setup.ends("temporary")
    source.rng = random.Random(life)
    source.drive(2, thorough=True)
    stream = b""
    if growing and life % 2 == 0:
        source.ask(growing[0])
        stream += source.read(1 << 12)
        source.drive(thorough=True)
    if life % 2:
        source.begin()  # and not waited for
    source.ask(setup.ends("final")[0])
    seen = source.observe(thorough=True)
    stream += source.read_all()
    try:
        target.ask(setup.writing()[0])
        taken = target.write_all(stream)
        require("S1", taken, f"{which}: a whole stream is refused while it is written")
        target.ask(setup.quiet())
    except RequestFailedError as failure:
        require("S1", False, f"{which}: {fails(failure)}")
    target.guest.take_over_memory(source.guest)
    differ = not_arrived(seen, target.observe(thorough=True))
    require("S1", not differ, f"{which}: {differ}")
    again = source.snapshot()
    same = target.snapshot() == again
    require("S1", same, f"{which}: the state is not what the source had")
    for trial in (source, target):
        trial.ask(setup.spec.initial)
    finish_alike(source, target, f"{which}: source and destination")


def check_descriptors(setup: Setup) -> None:
    """D12: a life cycle leaves no descriptor open that was not open before."""
    setup.good_stream()  # whose making is not counted
    with setup.trial(31) as trial:

        def live() -> None:
            whole_life(trial)
            trial.drive()
            trial.engine.reset()
            trial.engine.disconnect()
            trial.guest.hang_up()
            trial.guest.connect(trial.device)

        _hold(live, "life cycles of one device: states, reset, disconnect")

    def make() -> None:
        with setup.trial(32) as made:
            made.drive()
            made.ask(setup.quiet())

    _hold(make, "devices that were made, stopped and closed")


def _hold(act: Callable[[], None], what: str) -> None:
    """Do something again and again, and count the descriptors that are open after each time."""
    gc.collect()
    act()  # what is opened once is no leak
    counts = []
    for _ in range(_COUNTED):
        act()
        counts.append(_opened())
        if len(counts) > 1 and counts[-1] > counts[-2]:
            gc.collect()
            counts[-1] = _opened()
        if len(counts) > 1 and counts[-1] <= counts[-2]:
            return  # one that leaks does so each time
    each = min(after - before for before, after in itertools.pairwise(counts))
    words = f"{what}: each time {each} more descriptors stay open ({counts[-1]} by now)"
    raise ObligationViolatedError("D12", words)


def _opened() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
