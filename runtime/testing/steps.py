"""What checks of a device have in common: ways to go about the table, and comparisons."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator

from vfio_migration.model import Arc
from vfio_migration.runtime.engine.errors import RequestFailedError, RequestRefusedError
from vfio_migration.runtime.testing.guest import Listens
from vfio_migration.runtime.testing.observe import unlike
from vfio_migration.runtime.testing.trial import Setup, Trial, require

_FINISHING_STEPS = 20
"""Steps of time, each twice as long as the one before: from a millisecond to nine minutes."""


def at_each_state(
    setup: Setup, seeds: int = 1, listens_to: Listens = "all", *, busy: bool = True
) -> Iterator[Trial]:
    """Yield driven devices in each state, with work begun (`busy`) or with all of it done."""
    for state, seed in itertools.product(setup.states(lambda _: True), range(seeds)):
        with setup.trial(seed, listens_to) as trial:
            _begin(trial, busy=busy)
            trial.reach(state)
            yield trial


def _begin(trial: Trial, *, busy: bool) -> None:
    trial.drive()
    if busy:
        # Not waited for: it is still to be done when the device is stopped.
        trial.setup.drive(trial.device, trial.guest, trial.rng)


@contextlib.contextmanager
def beside(trial: Trial) -> Iterator[Trial]:
    """Make a twin of a device of `at_each_state`, which stays where it began."""
    with trial.setup.trial(0, trial.guest.listens_to) as twin:
        _begin(twin, busy=True)
        yield twin


def leave(trial: Trial, arc: Arc) -> None:
    """Bring a device to where an arc begins, and what it needs to be taken."""
    trial.reach(arc.from_)
    if trial.setup.transfer(arc.from_) == "write":
        whole = trial.write_all(trial.setup.good_stream())
        require("S1", whole, "a whole stream of such a device was refused while it was written")


def resumed(
    setup: Setup, stream: bytes, pieces: tuple[int, ...] = (1 << 16,), listens_to: Listens = "all"
) -> Trial:
    """Return a device that has taken a stream over and is stopped."""
    made = Trial(setup, 50, listens_to)  # unlike any source: another time, other contents
    try:
        made.drive()
        made.reach(setup.writing()[0])
        made.write_all(stream, pieces)
        made.ask(setup.quiet())
    except BaseException:
        made.close()
        raise
    return made


def whole_life(trial: Trial) -> dict[str, str]:
    """Take a device through every settable state and back, and return what could be seen."""
    seen: dict[str, str] = {}
    for state in trial.setup.states(lambda _: True):
        try:
            trial.ask(state)
            if trial.setup.transfer(state) == "write":
                taken = trial.write_all(trial.setup.good_stream())
                seen[f"in {state}"] = f"a whole stream is {'taken' if taken else 'refused'}"
            elif trial.setup.transfer(state) == "read":
                seen[f"in {state}"] = f"{len(trial.read_all())} bytes are read"
        except RequestRefusedError as refusal:
            seen[f"a request for {state}"] = f"refused with {refusal.errno}"
        except RequestFailedError as failure:
            lands = f"fails with {failure.errno}, in {failure.situation.state}"
            seen[f"a request for {state}"] = lands
    trial.ask(trial.spec.initial)
    return seen


def go_on_alike(
    one: Trial, other: Trial, who: str, *, seed: int = 99, thorough: bool = False
) -> None:
    """Do the same to two devices, and hold what can be seen of them side by side."""
    for trial in (one, other):
        trial.guest.interrupts()
    for trial in (one, other):
        trial.rng = random.Random(seed)
        trial.clock.now += 1
        trial.guest.serve_line(trial.device)
        trial.wait(1.0)
        trial.drive(2, thorough=thorough)
    left, right = (trial.observe(thorough=thorough) for trial in (one, other))
    differ = unlike(left, right, "the former", "the latter")
    require("S5", not differ, f"{who} go on unlike: {differ}")
    raised = [trial.guest.raised() for trial in (one, other)]
    described = interrupts_in_words(one, raised[0], raised[1], ("former", "latter"))
    require("S5", raised[0] == raised[1], f"{who} go on unlike: interrupts received: {described}")


def finish_alike(one: Trial, other: Trial, who: str, thorough: bool = True) -> None:
    """Let two devices finish what they have begun, undriven, and hold them side by side.

    What a driver does next may hide that work which was under way has been lost: so it does
    nothing here, and time alone passes, the same for both.
    """
    raised = [list[int](), list[int]()]
    for trial, counts in ((one, raised[0]), (other, raised[1])):
        # A line that was up is reported to a new listener, which the source's has received before.
        trial.guest.serve_line(trial.device)
        trial.guest.raised()
        before = trial.world()
        for step in range(_FINISHING_STEPS):
            trial.wait(0.001 * 2**step)
        counts += trial.guest.raised()
        counts.append(int(trial.world() != before))
    left, right = (trial.observe(thorough=thorough) for trial in (one, other))
    differ = unlike(left, right, "source", "destination")
    lost = "work that was put off has been lost, or is done otherwise"
    require("S1", not differ, f"{who}, left alone until all is done, differ ({lost}): {differ}")
    described = interrupts_in_words(one, raised[0], raised[1])
    same = raised[0] == raised[1]
    require("S1", same, f"{who}, left alone until all is done, differ ({lost}): {described}")


def interrupts_in_words(
    trial: Trial,
    here: list[int],
    there: list[int],
    who: tuple[str, str] = ("source", "destination"),
) -> str:
    """Return where two counts of interrupts, and of whether memory was written, differ."""
    names = [f"{kind} {vector}" for kind, vector in trial.guest.listened(trial.device)]
    described = [
        f"{name}: {mine} of the {who[0]}, {yours} of the {who[1]}"
        for name, mine, yours in zip(names, here, there, strict=False)
        if mine != yours
    ]
    if len(here) > len(names) and here[-1] != there[-1]:
        described.append(f"only the {who[0 if here[-1] else 1]} wrote to memory of the guest")
    return "; ".join(described)


def as_new(trial: Trial, when: str) -> None:
    """Hold a device that was reset against one that was just made."""
    trial.coherent(when)
    with trial.setup.trial(listens_to=trial.guest.listens_to) as fresh:
        fresh.guest.take_over_memory(trial.guest)
        seen, new = trial.observe(), fresh.observe()
        differ = unlike(seen, new, "it has", "a new device")
        require("D12", not differ, f"after {when}, not as in a new device: {differ}")
        same = trial.snapshot() == fresh.snapshot()
        require("D12", same, f"after {when}, its state is not that of a new device")
        for one in (trial, fresh):
            one.ask(one.spec.initial)
        # Acting alike: whatever it remembers in secret shows.
        go_on_alike(trial, fresh, f"a device after {when}, and a new one")
        lives = [whole_life(one) for one in (trial, fresh)]
        for name in lives[1]:
            same = lives[0].get(name) == lives[1][name]
            here = lives[0].get(name, "nothing of the kind")
            require("D12", same, f"after {when}, {name}: {here}; of a new device {lives[1][name]}")
