"""A kit for testing devices: one line of pytest, or of unittest.

    from vfio_migration.runtime.testing.suite import device_test_suite
    TestCounter = device_test_suite(Counter)

That makes a test case which drives the device, for every capability set of the table, through every
arc, every failing step, a reset and a disconnect at every point and several life cycles, moves its
state to another one in all ways the table allows, damages streams, and leads a device through the
finite suite that finds whatever is different in a state with a hidden past. Each test states which
obligation it is about (docs/obligations.md): D of one device, S of streams. A device that breaks
one fails with the number and what happened.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from vfio_migration.model import Spec, load
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.testing.checks import CHECKS, Check
from vfio_migration.runtime.testing.guest import (
    GUEST_AT,
    GUEST_SIZE,
    PEER_AT,
    PEER_SIZE,
    Clock,
    Drive,
    Guest,
    fuzz,
)
from vfio_migration.runtime.testing.trial import ObligationViolatedError, Setup, Trial
from vfio_migration.runtime.testing.wording import described, in_hook, in_words

__all__ = [
    "GUEST_AT",
    "GUEST_SIZE",
    "PEER_AT",
    "PEER_SIZE",
    "Clock",
    "Drive",
    "Guest",
    "ObligationViolatedError",
    "Problem",
    "Setup",
    "Trial",
    "device_test_suite",
    "find_problems",
    "fuzz",
]


class Problem(NamedTuple):
    """An obligation that a device violates.

    Attributes:
        obligation: Its number among the obligations, "?" if a check could not be made at all.
        check: The check that found it.
        capabilities: The capability set it was found with.
        words: What happened.
        place: Where the device was, and what it had been asked last.
    """

    obligation: str
    check: str
    capabilities: str
    words: str
    place: str = ""

    def __str__(self) -> str:
        place = f"; {self.place}" if self.place else ""
        about = f"check {self.check}, capabilities {self.capabilities}"
        return f"{self.obligation}{in_words(self.obligation)}, {about}: {self.words}{place}"


Factory = Callable[..., DeviceContract]


def device_test_suite(
    factory: Factory,
    spec: Spec | None = None,
    *,
    drive: Drive = fuzz,
    capabilities: Iterable[Any] | None = None,
    hidden_states: int = 1,
) -> type[unittest.TestCase]:
    """Make a test case for a device; give it a name that pytest collects.

    Args:
        factory: Makes a device when called with `spec`, `capabilities` and `clock`: a subclass of
            `PciDevice`, or `functools.partial` of one with more options. The device is to return
            the time by `clock` alone, or the tests are not reproducible.
        spec: The table; the one of the package if none is given.
        drive: What a driver does to the device: called with the device, a `Guest` (whose memory is
            mapped at `GUEST_AT`, that of a peer at `PEER_AT`) and a random number generator. If
            nothing is stated it is `fuzz`: anything is written to the first registers of each BAR,
            and to each of them where a migration is compared. The better it drives, the more is
            tried.
        capabilities: The capability sets to try; all of the table's first profile by default.
        hidden_states: How many states more than the table a device is assumed to have at most; 0
            to 3. Each multiplies what the finite suite does by the number of its inputs, 14: with
            every capability 417 inputs for 0, 4,155 for 1.
    """
    table = load() if spec is None else spec
    methods: dict[str, Any] = {
        "__doc__": f"The obligations of D and S, held against {_called(factory)}."
    }
    for words in _words(table, capabilities):
        setup = Setup(factory, table, words, drive, hidden_states)
        tag = "_".join(name.lower() for name in setup.machine.names)
        for check in CHECKS:
            name = f"test_{check.__name__.removeprefix('check_')}_with_{tag}"
            methods[name] = _method(name, setup, check)
    return type("DeviceTests", (unittest.TestCase,), methods)


def find_problems(
    factory: Factory,
    spec: Spec | None = None,
    *,
    drive: Drive = fuzz,
    capabilities: Iterable[Any] | None = None,
    hidden_states: int = 1,
) -> Iterator[Problem]:
    """Make all checks; yield at most one problem per check and capability set.

    A check that cannot be made, because the device raises where nothing of the kind was asked for,
    is a problem too.
    """
    table = load() if spec is None else spec
    for words in _words(table, capabilities):
        setup = Setup(factory, table, words, drive, hidden_states)
        for check in CHECKS:
            try:
                check(setup)
            except Exception as error:  # noqa: BLE001 - whatever a device under test raises
                name = check.__name__.removeprefix("check_")
                names = ",".join(setup.machine.names)
                if isinstance(error, ObligationViolatedError):
                    yield Problem(error.obligation, name, names, error.words, error.place)
                else:
                    aim = str(check.__doc__).partition("\n")[0].rstrip(".")
                    text = f"the check ({aim}) could not be made, for want of an answer"
                    raised = f"{text}{in_hook(error)}: {described(error)}"
                    place = "; ".join(getattr(error, "__notes__", [])[:1])
                    yield Problem("?", name, names, raised, place)


def _called(factory: Factory) -> str:
    made = getattr(factory, "func", factory)  # of a functools.partial
    return str(getattr(made, "__name__", type(made).__name__))


def _words(spec: Spec, capabilities: Iterable[Any] | None) -> list[int]:
    sets = (
        spec.capability_sets() if capabilities is None else map(spec.capability_set, capabilities)
    )
    return [int(one.value) for one in sets]


def _method(name: str, setup: Setup, check: Check) -> Callable[[unittest.TestCase], None]:
    def test(_case: unittest.TestCase) -> None:
        check(setup)

    test.__name__ = name
    test.__doc__ = check.__doc__
    return test
