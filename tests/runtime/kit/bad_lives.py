"""Devices whose first life goes well: defects of the second, of what is foreign, of what is quiet.

Each has the words that its complaint must have.
"""

from __future__ import annotations

import os
from typing import Any

from bad_devices import breaks
from sample_device import STATE, Sample

from vfio_migration.runtime import ArcError
from vfio_migration.runtime.kit.errors import CommandError, Part
from vfio_migration.runtime.kit.own_state import check_version, header
from vfio_migration.runtime.kit.state_stream import StreamRefusedError
from vfio_migration.runtime.testing import checks
from vfio_migration.runtime.testing.checks import Check

WORDS: dict[type[Sample], tuple[Check, tuple[str, ...]]] = {}
"""Which check must complain about each, and what it must state."""


def message(check: Check, *words: str) -> Any:
    def enter(device: type[Sample]) -> type[Sample]:
        WORDS[device] = (check, words)
        return device

    return enter


# --- a second migration that is not as the first ---


@message(
    checks.check_lives_that_differ,
    "migration 2 of the same two devices",
    "BAR 0 at 0x0: source",
    "does `save` leave it out",
)
@breaks("S1")
class SavesWhatItSavedFirst(Sample):
    """5 and then 9 are saved as 5 and 5: what was packed for the first migration is kept."""

    packed: bytes | None = None

    def save(self) -> bytes:
        if self.may("change_state"):
            return super().save()
        self.packed = self.packed or super().save()
        return self.packed


@message(
    checks.check_lives_that_differ, "migration 2 of the same two devices", "`load` not put it back"
)
@breaks("S1")
class LoadsOnlyOnce(Sample):
    """5 and then 9 are taken over as 5 and 5: it remembers that it was loaded."""

    loaded = False

    def load(self, state: bytes, version: int) -> None:
        if not self.loaded:
            super().load(state, version)
        self.loaded = True

    def kit_power_on(self) -> None:
        super().kit_power_on()
        self.loaded = False


@message(checks.check_lives_that_differ, "migration 2 of the same two devices", "destination")
@breaks("S1")
class MatchesWhatItMatchedFirst(Sample):
    """Whether the source is one it knows is found out once, and decides for good."""

    matched: int | None = None

    def load(self, state: bytes, version: int) -> None:
        super().load(state, version)
        if self.matched is None:
            self.matched = self.count
        self.count = self.matched

    def kit_power_on(self) -> None:
        super().kit_power_on()
        self.matched = None


# --- what is foreign ---


@message(
    checks.check_foreign_states,
    "is taken over, and is not what the device then saves",
    "`load` does not look",
)
@breaks("S4")
class LoadsWhateverItIsGiven(Sample):
    """Its `load` looks at nothing: what is missing is zero, and what is too much is dropped."""

    def load(self, state: bytes, version: int) -> None:
        super().load(state[: STATE.size].ljust(STATE.size, b"\0"), version)


@message(
    checks.check_foreign_states,
    "is taken over, and then the device cannot be used in `bar_read`: IndexError",
)
@breaks("S4")
class LoadsAnIndexOutOfRange(Sample):
    """It takes a number for the place in a list, and looks there when a register is read."""

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        names = [0] * 64
        return names[self.note] + super().bar_read(bar, offset, size)


@message(checks.check_foreign_states, "the stream of version 2 of the device is taken over")
@breaks("S4")
class TakesAnyVersion(Sample):
    def kit_check(self, reported: Any, /) -> None:
        super().kit_check(
            {**reported, "version": self.version} if isinstance(reported, dict) else reported
        )


@message(checks.check_foreign_states, "the stream of a device with another identity is taken over")
@breaks("S4")
class TakesAnyIdentity(Sample):
    def kit_check(self, reported: Any, /) -> None:
        mine = header(self)
        if not isinstance(reported, dict) or reported.get("device") != mine["device"]:
            raise StreamRefusedError("not of this kind")
        if reported.get("memories") != mine["memories"]:
            raise StreamRefusedError("other memories")
        check_version(self, reported.get("version"))


# --- what is quiet ---


@message(
    checks.check_failing_hooks,
    "where `quiesce` fails, and states that the device is back: the failure is swallowed",
)
@breaks("D11")
class SwallowsFailuresOfHooks(Sample):
    """A hook that failed counts as one that did not."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        notify = self._kit_notify

        def careless(row: tuple[str, str, str]) -> None:
            try:
                notify(row)
            except ArcError:
                self._kit_on ^= {row[0]}

        self._kit_notify = careless  # type: ignore[method-assign]


@message(
    checks.check_failing_load_and_save, "is left although `load` failed: the failure is swallowed"
)
@breaks("S4")
class SwallowsAFailureOfLoad(Sample):
    def kit_load(self, sections: Any, /) -> None:
        try:
            super().kit_load(sections)
        except RuntimeError:
            self.reset_device()


@message(checks.check_failing_load_and_save, "ends although `save` failed: it is swallowed")
@breaks("S1")
class SwallowsAFailureOfSave(Sample):
    def kit_sections(self) -> Any:
        try:
            return super().kit_sections()
        except RuntimeError:
            return []


@message(
    checks.check_descriptors, "life cycles of one device", "each time", "more descriptors stay open"
)
@breaks("D12")
class LeaksADescriptorEachLife(Sample):
    def stop(self) -> None:
        vars(self).setdefault("kept", []).append(os.dup(self.regions[2].memory.fd))  # type: ignore[attr-defined]

    def close(self) -> None:
        super().close()
        for fd in vars(self).pop("kept", ()):
            os.close(fd)


LEFT_OPEN: list[int] = []


@message(
    checks.check_descriptors,
    "devices that were made, stopped and closed",
    "more descriptors stay open",
)
@breaks("D12")
class LeaksADescriptorWhenClosed(Sample):
    def close(self) -> None:
        LEFT_OPEN.append(os.dup(self.regions[2].memory.fd))  # type: ignore[attr-defined]
        super().close()


@message(
    checks.check_migration,
    "in STOP_COPY",
    "cannot be read to its end in `stream_read`: the disk is full",
)
@breaks("S1")
class CannotBeReadToItsEnd(Sample):
    def stream_read(self, size: int, /) -> list[Part]:
        parts = super().stream_read(size)
        if size and self._kit_still():
            raise CommandError("the disk is full", errno="ENOSPC")
        return parts
