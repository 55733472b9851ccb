"""Devices that break a promise each: what the kit for testing devices has to catch.

Numbers are those of `history.md`, the list of defects of real implementations. Two of its ten no
device can have that runs under the engine, because the table decides what they got wrong: 1 to 4
(next steps, ways out, range checks) are the table's and the wire's; 9, an illegal request that
stops the device, never reaches a device here. Its nearest relative is `StopsAndSaysItDidNot`.
"""

from __future__ import annotations

from typing import Any

from sample_device import STATE, Sample

from vfio_migration.model import Arc
from vfio_migration.runtime.errors import ArcError
from vfio_migration.runtime.program import Situation
from vfio_migration.runtime.served import Part, PrecopyInfo
from vfio_migration.runtime.stream import StreamReader, StreamRefused, StreamWriter

BAD: dict[type[Sample], set[str]] = {}
"""Each bad device, and the promises of which at least one must be found broken."""


def breaks(*promises: str) -> Any:
    def enter(device: type[Sample]) -> type[Sample]:
        BAD[device] = set(promises)
        return device

    return enter


# --- from history.md ---


@breaks("D1")
class ClosesFirstFailsAfter(Sample):
    """5, mlx5: giving a saving session up closes it, then fails, and says that all is as before."""

    failed = False

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        if effect == "closes" and self._kit._writer is not None and not self.failed:
            self.failed = True
            self._kit.close()
            raise ArcError("no answer from the firmware")
        super().take(arc, session, effect)


@breaks("S1")
class LosesItsPlace(Sample):
    """6, hisi_acc: the position in the stream is not kept when the device stops pre-copying."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if effect == "keeps" and (writer := self._kit._writer) is not None:
            writer._ready.clear()


@breaks("D12", "S4")
class FlagNeverCleared(Sample):
    """7, hisi_acc: once a stream was found good, none is looked at any more."""

    found_good = False

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        reader = self._kit._reader
        try:
            super().take(arc, session, effect)
        except StreamRefused:
            if not self.found_good:
                raise
            self._kit._reader = None
            super().take(arc, session, effect)
        if effect == "closes" and reader is not None:
            self.found_good = True


@breaks("S4")
class TakesHalfAStream(Sample):
    """8, virtio and mlx5: leaving the resuming state cannot fail."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        try:
            super().take(arc, session, effect)
        except StreamRefused:
            self._kit._reader = None
            super().take(arc, session, effect)


@breaks("S5", "D11")
class StopsAndSaysItDidNot(Sample):
    """9, xe (nearly): it is stopped while its state says that it runs."""

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
        if self._kit._writer is not None:
            raise ArcError("busy")
        super().reset(to)


@breaks("D1", "D9")
class SessionLostOnDisconnect(Sample):
    """10, the other way round: the session ends with the client."""

    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        super().disconnect(to, drops)
        self._kit.close()


@breaks("D1", "D12")
class SessionOutlivesReset(Sample):
    """10, as it was mended: after a reset the old session is still there."""

    def reset(self, to: Situation, /) -> None:
        writer = self._kit._writer
        super().reset(to)
        if writer is not None:
            self._kit._writer = writer
            self._kit._end = lambda: self.spec.stream_ends[0]  # type: ignore[method-assign]


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
        self.memory.activity = lambda iova, size: "start_dma"  # type: ignore[method-assign]


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
        state = self._kit.state
        try:
            super().take(arc, session, effect)
        except ArcError as error:
            if error.for_good:
                self._kit.state = state
                self._kit.timers.settle()
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


# --- streams ---


@breaks("S1")
class ForgetsARegister(Sample):
    def save(self) -> bytes:
        return STATE.pack(self.count, self.address, self.job, 0)

    def finish(self) -> None:
        super().finish()
        self.note += 1


@breaks("S1", "S5")
class ForgetsWhatIsUnderWay(Sample):
    def load(self, state: bytes, version: int) -> None:
        self.count, self.address, self.job, self.note = STATE.unpack(state)


@breaks("S1")
class SavesTooEarly(Sample):
    """What is streamed is the state of the moment in which the session was opened."""

    early: Any = None

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if effect == "opens" and (writer := self._kit._writer) is not None:
            sections = self.kit_sections()
            writer._sections = lambda: sections


@breaks("S1")
class ForgetsDirtyPages(Sample):
    def take_note(self, at: int, record: bytes) -> None:
        self.block("notes").view[at : at + 8] = record


@breaks("S1", "S3")
class EndsTooEarly(Sample):
    """It streams its registers while they can still change, and then says that this was all."""

    def stream_read(self, size: int, /) -> list[Part]:
        if self._kit._writer is not None and self._kit._end() is not None:
            return self._kit._writer.read(size, still=True)
        return super().stream_read(size)


@breaks("S3")
class SaysThatNothingIsLeft(Sample):
    def precopy_info(self) -> PrecopyInfo:
        super().precopy_info()
        return PrecopyInfo(0, 0)


@breaks("S3")
class InitialBytesRise(Sample):
    asked = 0

    def precopy_info(self) -> PrecopyInfo:
        initial, dirty = super().precopy_info()
        self.asked += 1
        return PrecopyInfo(initial + self.asked * 100_000, dirty)


@breaks("S3")
class NeverEnds(Sample):
    """The final end of stream is not final: asked once more, it begins again."""

    def stream_read(self, size: int, /) -> list[Part]:
        parts = super().stream_read(size)
        if not parts and size and self._kit._still():
            self._kit._writer = StreamWriter(self.kit_hello(), self.memories, self.kit_sections)
        return parts


@breaks("S4")
class TakesStrangers(Sample):
    def kit_check(self, said: object, /) -> None:
        pass

    def load(self, state: bytes, version: int) -> None:
        if state:
            super().load(state, version)

    def kit_load(self, sections: Any, /) -> None:
        self.load(sections[1], 1)

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if self._kit._reader is not None and effect == "opens":
            # It would miss the memory of a device like itself.
            self._kit._reader._memories = ()


@breaks("S4")
class TakesDamage(Sample):
    """It does not look at checksums."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if self._kit._reader is not None and effect == "opens":
            self._kit._reader = CarelessReader(self.memories, (0, 1), self.kit_check)


class CarelessReader(StreamReader):
    def _end_frame(self, kind: int, block: int, length: int, position: int, crc: int) -> None:
        self._expected = bytes(self._content) if kind == 4 else b""
        super()._end_frame(kind, block, length, position, self._crc)


@breaks("D12")
class ResetForgetsARegister(Sample):
    def __init__(self, **options: Any) -> None:
        self.count = 0
        super().__init__(**options)

    def reset_device(self) -> None:
        self.address = self.job = self.note = 0


@breaks("S1", "D5")
class SavingChangesIt(Sample):
    def save(self) -> bytes:
        self.count += 1
        return super().save()


@breaks("D2", "S1", "S5")
class SessionsMix(Sample):
    """A new session goes on where one that was given up had stopped."""

    left: StreamWriter | None = None

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        closing = self._kit._writer if effect == "closes" else None
        if closing is not None and closing._ready:
            self.left = closing
            ready, closing._ready = closing._ready, type(closing._ready)()
            super().take(arc, session, effect)
            closing._ready = ready
            return
        super().take(arc, session, effect)
        if effect == "opens" and self._kit._writer is not None and self.left is not None:
            self._kit._writer, self.left = self.left, None
            for memory in self.memories:
                memory.begin()
