"""What is tried of a device: each check walks the table and holds the device against obligations.

A check takes a `Setup` and raises `ObligationViolatedError`. Where it goes follows from the table,
so that a state, an arc or a capability more is tried without a change here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from vfio_migration.model import Arc
from vfio_migration.runtime.engine.errors import (
    ArcError,
    RequestFailedError,
    RequestRefusedError,
    ResetFailedError,
)
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.testing.complete_suite import check_complete_suite
from vfio_migration.runtime.testing.foreign_streams import check_foreign_states
from vfio_migration.runtime.testing.guest import GUEST_AT, GUEST_SIZE
from vfio_migration.runtime.testing.lives import check_descriptors, check_lives_that_differ
from vfio_migration.runtime.testing.observe import unlike
from vfio_migration.runtime.testing.steps import (
    as_new,
    at_each_state,
    beside,
    go_on_alike,
    leave,
    resumed,
    whole_life,
)
from vfio_migration.runtime.testing.stream_checks import (
    check_bad_streams,
    check_ends_of_stream,
    check_mapped_memory,
    check_migration,
    check_sessions_do_not_mix,
    check_strangers,
)
from vfio_migration.runtime.testing.trial import MAX_TRIES, Setup, Trial, require
from vfio_migration.runtime.testing.wording import described, fails, in_hook, where_in_words

Check = Callable[[Setup], None]

_PAGE = 4096
_HOOKS = ("quiesce", "stop", "resume", "start")
_MADE_TO_FAIL = "made to fail by the test"


def check_every_arc(setup: Setup) -> None:
    """D1, S5: each arc can be taken, streams are where the table has them, the device goes on."""
    for arc in setup.machine.arcs:
        with setup.trial() as trial, setup.trial() as twin:
            trial.drive()
            twin.drive()
            leave(trial, arc)
            try:
                trial.ask(arc.to)
                trial.idle()
                if setup.transfer(arc.to) == "write" or setup.transfer(arc.from_) == "write":
                    continue
                trial.ask(setup.spec.initial)
            except RequestFailedError as failure:
                require("D9", False, fails(failure))
            # The one that stayed behind runs for as long, and what was held back is done by now.
            if setup.spec.permits_role(arc.to, "state_change"):
                twin.wait(1.0)
            for one in (trial, twin):
                one.wait(1.0)
            go_on_alike(trial, twin, f"after {arc}, the device and one that stayed behind")


def check_gates(setup: Setup) -> None:
    """D3, D4, D5: nothing is started or changed in a state that does not permit it."""
    for trial in at_each_state(setup, 8):
        trial.idle()
        trial.poke()
        trial.idle()


def check_operation(setup: Setup) -> None:
    """S5: where the table permits the same, a device does the same, whatever the state."""
    initial = setup.spec.state(setup.spec.initial)
    for state in setup.states(lambda row: row.operation == initial.operation):
        if setup.transfer(state) != "write":
            with setup.trial() as trial, setup.trial() as twin:
                trial.reach(state)
                go_on_alike(trial, twin, f"a device in {state} and one in {initial.name}")


def check_refusals(setup: Setup) -> None:
    """D8: a refused request changes nothing."""
    for trial in at_each_state(setup):
        for target in range(-1, 2 + max(row.value for row in setup.spec.states)):
            here, seen = trial.engine.situation, trial.observe()
            if setup.machine.route(here.state, target).refused is not None:
                with contextlib.suppress(RequestRefusedError):
                    trial.engine.set_state(target)
                same = trial.engine.situation == here and trial.observe() == seen
                require("D8", same, f"a refused request for {target} changed {trial.where}")
                trial.coherent()


def check_reset(setup: Setup) -> None:
    """D9, D12: a reset leads from everywhere to a device like a new one."""
    # With all work done the line is up, if there is one and work ends with an interrupt.
    for trial in chain(at_each_state(setup), at_each_state(setup, listens_to="line", busy=False)):
        transfer = setup.transfer(trial.engine.state)
        if transfer == "read":
            trial.read(100)
        elif transfer == "write":
            good = setup.good_stream()
            trial.write_all(good[: len(good) // 2])
        where = trial.where
        try:
            trial.engine.reset()
        except ResetFailedError as error:
            require(
                "D9",
                False,
                f"the reset in {where} fails{in_hook(error)}: {described(error.__cause__)}",
            )
        as_new(trial, f"a reset in {where}")


def check_disconnect(setup: Setup) -> None:
    """D9: a client that goes away leaves the device as it was, and nothing of its own behind."""
    # The next client may be one that only moves the device, and maps nothing before.
    for mapped in (True, False):
        for trial in at_each_state(setup):
            _disconnected(trial, mapped=mapped)


def _disconnected(trial: Trial, *, mapped: bool) -> None:
    setup, state = trial.setup, trial.engine.state
    transfer, where = setup.transfer(state), trial.where
    good = setup.good_stream()
    stream = trial.read(100) if transfer == "read" else b""
    if transfer == "write":
        trial.write_all(good[: len(good) // 2])
    seen = trial.observe()
    trial.device.memory.log.start(_PAGE)
    trial.engine.disconnect()
    require("D9", not trial.device.memory.log.on, f"disconnect in {where}: DMA logging goes on")
    require("D9", not trial.device.memory.maps, f"disconnect in {where}: maps are kept")
    armed = any(trial.device.interrupts.armed(index) for index in range(5))
    require("D9", not armed, f"disconnect in {where}: interrupt descriptors are kept")
    require("D9", trial.engine.state == state, f"disconnect in {where} moved the device")
    require("D9", trial.observe() == seen, f"disconnect in {where} changed the device")
    trial.coherent("after a disconnect")
    trial.guest.hang_up()
    if mapped:
        trial.guest.connect(trial.device)
    try:
        if transfer == "write":
            trial.write_all(good[len(good) // 2 :])
            trial.ask(setup.quiet())
        elif transfer == "read":
            trial.ask(setup.ends("final")[0])
            stream += trial.read_all()
            resumed(setup, stream).close()
        trial.ask(setup.spec.initial)
    except RequestFailedError as failure:
        require("D9", False, f"after a disconnect in {where}: {fails(failure)}")
    if not mapped:
        trial.guest.connect(trial.device)
    trial.wait(0.0)  # as a server does: work that has waited for the guest counts from now on
    if transfer != "write":
        with beside(trial) as twin:
            go_on_alike(trial, twin, f"a device after a disconnect in {where}, and one without")


def check_two_devices(setup: Setup) -> None:
    """S5: a second device of the same kind leaves the first unharmed, whatever is done to it."""
    with setup.trial(2) as one:
        one.drive(3)
        seen, again = one.observe(), one.snapshot()
        with setup.trial(3) as other:
            require("S5", one.observe() == seen, "a device changes when another one is made")
            other.drive(3)
            other.engine.reset()
            other.drive()
            require("S5", one.observe() == seen, "a device changes when another one is driven")
            require("S5", one.snapshot() == again, "the state of a device is that of another, too")


def check_two_lives(setup: Setup) -> None:
    """D12: a second life cycle is as the first, the refusal of bad streams included."""
    with setup.trial() as trial:
        lives = [whole_life(trial) for _ in range(3)]
        for name in lives[1]:
            same = lives[1][name] == lives[2].get(name)
            require(
                "D12", same, f"{name}: {lives[1][name]}; in the life after it {lives[2].get(name)}"
            )
        trial.reach(setup.writing()[0])
        trial.write_all(setup.good_stream()[:-1])
        try:
            trial.engine.set_state(setup.spec.initial)
        except RequestFailedError:
            trial.engine.reset()
        else:
            require("D12", False, "a second life takes a stream that is cut off")
        as_new(trial, "two life cycles")


def check_failing_hooks(setup: Setup) -> None:
    """D6, D11: an arc that fails leaves the device as it was, or for good in the state for that.

    Only hooks of the kit can be made to fail; another device is tried as far as it fails by itself.
    """
    for arc in setup.machine.arcs:
        for hook in _HOOKS:
            for for_good in (False, True):
                with setup.trial() as trial:
                    if hasattr(trial.device, hook):
                        _fail_once(trial, arc, hook, for_good)


def _fail_once(trial: Trial, arc: Arc, hook: str, for_good: bool) -> None:
    trial.drive()
    leave(trial, arc)
    failure = None
    for _ in range(MAX_TRIES):
        before, seen = trial.engine.situation, trial.observe()
        with _made_to_fail(trial.device, hook, ArcError(_MADE_TO_FAIL, for_good=for_good)) as calls:
            try:
                trial.engine.set_state(arc.to)
            except RequestFailedError as error:
                failure = error
            else:
                failure = None
        if calls or failure is None or failure.event.name != "arc_failed":
            break  # else it failed by its own doing, as it may, and it is tried again
    if not calls:
        return  # this arc does not call this hook
    how = "and states that it is for good" if for_good else "and states that the device is back"
    what = f"{arc}, where `{hook}` fails, {how}"
    if failure is None:
        swallowed = len(calls) == 1
        require(
            "D11",
            not swallowed,
            f"{what}: the failure is swallowed, and the arc is reported as taken",
        )
        return  # it called the hook again, and then it did not fail
    if for_good or failure.event.name == "arc_failed_for_good":
        lost = trial.spec.event("arc_failed_for_good").to
        require("D6", trial.engine.state == lost, f"{what}: the device is in {trial.engine.state}")
        trial.idle()
        trial.poke()
        trial.engine.reset()
        as_new(trial, f"a reset after {what}")
        return
    now = trial.engine.situation
    require(
        "D11",
        now == before,
        f"{what}: it was in {where_in_words(before)}, and is in {where_in_words(now)}",
    )
    differ = unlike(seen, trial.observe(), "first", "then")
    require("D11", not differ, f"{what}: the device has changed: {differ}")
    trial.coherent(f"after {what}")
    trial.idle()
    try:
        trial.ask(arc.to)
        trial.ask(trial.spec.initial)
    except RequestFailedError as error:
        require("D11", False, f"{what}; once it does not, {fails(error)}")


@contextlib.contextmanager
def _made_to_fail(device: DeviceContract, hook: str, error: Exception) -> Iterator[list[str]]:
    """Have a hook fail the first time it is called; the list has an item for each call."""
    real, calls = getattr(device, hook), list[str]()

    def fail(*about: Any) -> Any:
        calls.append(hook)
        if len(calls) == 1:
            raise error
        return real(*about)

    setattr(device, hook, fail)
    try:
        yield calls
    finally:
        setattr(device, hook, real)


def check_failing_load_and_save(setup: Setup) -> None:
    """S1, S4: if `load` fails the stream is refused, and if `save` does it has no end."""
    error = RuntimeError(_MADE_TO_FAIL)
    for state in setup.writing():
        with setup.trial() as trial:
            if hasattr(trial.device, "load"):
                trial.reach(state)
                trial.write_all(setup.good_stream())
                with _made_to_fail(trial.device, "load", error) as calls:
                    try:
                        trial.engine.set_state(setup.quiet())
                    except RequestFailedError:
                        continue
                words = f"{state} is left although `load` failed: the failure is swallowed"
                require("S4", len(calls) != 1, words)
    for state in setup.ends("final"):
        with setup.trial() as trial:
            if hasattr(trial.device, "save"):
                trial.drive()
                trial.ask(state)
                words = f"a stream read in {state} ends although `save` failed: it is swallowed"
                with _made_to_fail(trial.device, "save", error) as calls:
                    try:
                        while trial.device.stream_read(1 << 16):
                            pass
                    except Exception:  # noqa: BLE001 - as it should be
                        continue
                require("S1", len(calls) != 1, words)


def check_dma_log(setup: Setup) -> None:
    """S6: every page that the device wrote is reported, whatever the size of pages asked for."""
    whole = GUEST_SIZE
    with setup.trial() as trial:
        # How large a tracking page is, a page of the report, and the range of one report.
        for tracked, page, step in (
            (_PAGE, _PAGE, whole),
            (_PAGE, 4 * _PAGE, whole),
            (16 * _PAGE, _PAGE, 3 * _PAGE),
            (16 * _PAGE, 64 * _PAGE, whole),
        ):
            log = trial.device.memory.log
            log.start(tracked)
            written: set[tuple[str, int]] = set()
            for _ in range(20):
                # What the driver itself writes to memory of the guest is no DMA.
                with trial.guest.watching(trial.device) as changed:
                    trial.begin()
                written |= changed
                written |= _written_while(trial, 0.01)
            written |= _written_while(trial, 1.0)
            for begin in range(0, whole, step):
                size = min(step, whole - begin)
                bitmap = log.report(GUEST_AT + begin, size, page)
                for number in range(-(-size // page)):
                    first = begin + number * page
                    pages = range(first // _PAGE, min(first + page, begin + size) // _PAGE)
                    reported = bitmap[number // 8] >> (number % 8) & 1
                    lost = [at * _PAGE for at in pages if ("memory", at) in written]
                    place = ", ".join(map(hex, lost))
                    require("S6", reported or not lost, f"{place} was written, and not reported")
            log.stop()


def _written_while(trial: Trial, seconds: float) -> set[tuple[str, int]]:
    before = trial.guest.contents()
    trial.wait(seconds)
    return trial.guest.changed_since(before)


CHECKS: tuple[Check, ...] = (
    check_every_arc,
    check_gates,
    check_operation,
    check_refusals,
    check_migration,
    check_mapped_memory,
    check_ends_of_stream,
    check_bad_streams,
    check_strangers,
    check_reset,
    check_disconnect,
    check_two_devices,
    check_two_lives,
    check_sessions_do_not_mix,
    check_failing_hooks,
    check_failing_load_and_save,
    check_lives_that_differ,
    check_descriptors,
    check_foreign_states,
    check_dma_log,
    check_complete_suite,
)
"""All of them."""
