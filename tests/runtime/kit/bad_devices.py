"""Devices that break an obligation each: what the kit for testing devices has to catch.

Numbers are those of `history.md`, the list of defects of real implementations. Two of its ten no
device can have that runs under the engine, because the table decides what they got wrong: 1 to 4
(next steps, ways out, range checks) are the table's and the wire's; 9, an illegal request that
stops the device, never reaches a device here. Its nearest relative is `StopsAndSaysItDidNot`.
"""

from __future__ import annotations

from typing import Any

from sample_device import Sample

from vfio_migration.model import Arc
from vfio_migration.runtime.engine.errors import ArcError
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.kit.state_stream import StreamRefusedError

BAD: dict[type[Sample], set[str]] = {}
"""Each bad device, and the obligations of which at least one must be found broken."""


def breaks(*obligations: str) -> Any:
    def enter(device: type[Sample]) -> type[Sample]:
        BAD[device] = set(obligations)
        return device

    return enter


# --- from history.md ---


@breaks("D1")
class ClosesFirstFailsAfter(Sample):
    """5, mlx5: giving a saving session up closes it, fails, and reports that all is as before."""

    failed = False

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        if effect == "closes" and self._kit_writer is not None and not self.failed:
            self.failed = True
            self._kit_close()
            raise ArcError("no answer from the firmware")
        super().take(arc, session, effect)


@breaks("S1")
class LosesItsPlace(Sample):
    """6, hisi_acc: the position in the stream is not kept when the device stops pre-copying."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if effect == "keeps" and (writer := self._kit_writer) is not None:
            writer._ready.clear()


@breaks("D12", "S4")
class FlagNeverCleared(Sample):
    """7, hisi_acc: once a stream was found good, none is looked at any more."""

    found_good = False

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        reader = self._kit_reader
        try:
            super().take(arc, session, effect)
        except StreamRefusedError:
            if not self.found_good:
                raise
            self._kit_reader = None
            super().take(arc, session, effect)
        if effect == "closes" and reader is not None:
            self.found_good = True


@breaks("D9")
class RefusesAfterItsThirdReset(Sample):
    """A second life that differs, late: nothing is taken in any more."""

    resets = 0

    def reset(self, to: Situation, /) -> None:
        super().reset(to)
        self.resets += 1

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        if self.resets >= 3 and self.spec.state(arc.to).session == "resuming":
            raise ArcError("it has been reset too often", for_good=False)
        super().take(arc, session, effect)


@breaks("S4")
class TakesHalfAStream(Sample):
    """8, virtio and mlx5: leaving the resuming state cannot fail."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        try:
            super().take(arc, session, effect)
        except StreamRefusedError:
            self._kit_reader = None
            super().take(arc, session, effect)


@breaks("S5", "D11")
class StopsAndReportsThatItDidNot(Sample):
    """9, xe (nearly): it is stopped while its state states that it runs."""

    halted = failed = False

    def stop(self) -> None:
        self.halted = True
        if not self.failed:
            self.failed = True
            raise ArcError("busy")

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        if not self.halted:
            super().bar_write(bar, offset, value, size)


@breaks("D9")
class NoResetInSession(Sample):
    """10, libvfio-user: a device left in a session refuses even a reset."""

    def reset(self, to: Situation, /) -> None:
        if self._kit_writer is not None:
            raise ArcError("busy")
        super().reset(to)


@breaks("D1", "D9")
class SessionLostOnDisconnect(Sample):
    """10, the other way round: the session ends with the client."""

    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        super().disconnect(to, drops)
        self._kit_close()


@breaks("D1", "D12")
class SessionOutlivesReset(Sample):
    """10, as it was mended: after a reset the old session is still there."""

    def reset(self, to: Situation, /) -> None:
        writer = self._kit_writer
        super().reset(to)
        if writer is not None:
            self._kit_writer = writer
            self._kit_end = lambda: self.spec.stream_ends[0]  # type: ignore[method-assign]


# --- what a device does outside itself ---


@breaks("D3")
class DmaWhileStopped(Sample):
    def tick(self) -> None:
        super().tick()
        for row in self.memory.maps:
            if not row.peer and row.view is not None:
                row.view[0] = (row.view[0] + 1) % 256

    def deadline(self) -> float:
        return self.clock() if not self.may("start_dma") else super().deadline() or self.clock()


@breaks("D4")
class PeerDmaWhileQuiesced(Sample):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory.role = lambda iova, size: "guest_dma"  # type: ignore[method-assign]


@breaks("D3")
class InterruptsWhileStopped(Sample):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.interrupts._gate = lambda: True

    def tick(self) -> None:
        super().tick()
        self.interrupts.trigger(1, 0)

    def deadline(self) -> float:
        return self.clock()


@breaks("D5")
class ChangesWhileStopped(Sample):
    def tick(self) -> None:
        super().tick()
        self.count += 1

    def deadline(self) -> float:
        return self.clock()


@breaks("D5")
class RegistersOpenWhileStopped(Sample):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.regions[0]._gate = lambda: True  # type: ignore[attr-defined]


@breaks("D3", "D5", "D6")
class GoesOnAfterFailing(Sample):
    """It failed for good, and carries on as if it had not."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        state = self._kit_state
        try:
            super().take(arc, session, effect)
        except ArcError as error:
            if error.for_good:
                self._kit_state = state
                self._kit_timers.update()
            raise


@breaks("D5", "D8")
class ReadingChangesIt(Sample):
    """A register counts how often it was read, in any state."""

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        self.note += 1
        return super().bar_read(bar, offset, size)


@breaks("D11")
class FailingChangesIt(Sample):
    """An arc that fails has done something all the same."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        try:
            super().take(arc, session, effect)
        except ArcError:
            self.count += 1
            raise


@breaks("S6")
class ForgetsToLog(Sample):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory.log.wrote = lambda iova, size: None  # type: ignore[method-assign]


@breaks("S6")
class ForgetsPartlyReported(Sample):
    """A report forgets a page of which it covered only a part (the trap of S6)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        log = self.memory.log
        report = log.report

        def careless(iova: int, length: int, page_size: int) -> bytes:
            try:
                return report(iova, length, page_size)
            finally:
                first, last = iova >> log._shift, (iova + length - 1) >> log._shift
                for page in range(first, last + 1):
                    if chunk := log._chunks.get(page >> 15):
                        chunk[(page & 0x7FFF) >> 3] &= ~(1 << (page & 7))

        log.report = careless  # type: ignore[method-assign]


@breaks("D9")
class KeepsMaps(Sample):
    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        super().disconnect(to, ())


@breaks("D9")
class LogsOnForNobody(Sample):
    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        logged = self.memory.log.on
        super().disconnect(to, drops)
        if logged:
            self.memory.log.start(4096)


@breaks("D9")
class CannotBeMovedWithoutMaps(Sample):
    """It cannot be stopped by a client that maps nothing."""

    def stop(self) -> None:
        if not self.memory.maps:
            raise ArcError("there is no guest")


@breaks("S5")
class WorkEndsWithItsClient(Sample):
    """What was under way when the client went is never done, though it states that it is busy."""

    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        super().disconnect(to, drops)
        self._kit_timers.cancel_all()


@breaks("D12")
class MemoryOutlivesReset(Sample):
    def kit_power_on(self) -> None:
        notes = bytes(self.block("notes").view)
        super().kit_power_on()
        self.block("notes").view[:] = notes


@breaks("S5")
class KnowsStatesByName(Sample):
    """It works while it is RUNNING, and in no other state that permits the same."""

    def begin(self) -> None:
        if self.state == "RUNNING":
            super().begin()


@breaks("S5")
class SharesItsState(Sample):
    """It keeps its count where all devices of its kind keep theirs: in the class."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "count":
            setattr(SharesItsState, name, value)
        else:
            super().__setattr__(name, value)


@breaks("D12")
class LineOutlivesReset(Sample):
    def reset(self, to: Situation, /) -> None:
        line = self.interrupts.line
        super().reset(to)
        self.interrupts.line = line


@breaks("D12")
class ResetForgetsARegister(Sample):
    def __init__(self, **options: Any) -> None:
        self.count = 0
        super().__init__(**options)

    def reset_device(self) -> None:
        self.address = self.job = self.note = 0
