"""Devices that break an obligation about streams: what the test kit must find."""

from __future__ import annotations

import struct
from typing import Any

from bad_devices import breaks
from sample_device import DELAY, STATE, Sample

from vfio_migration.model import Arc
from vfio_migration.runtime.kit.errors import Part, PrecopyInfo
from vfio_migration.runtime.kit.own_state import WORK
from vfio_migration.runtime.kit.pci_device import Bar
from vfio_migration.runtime.kit.state_stream import StreamReader, StreamWriter

DUE = struct.Struct("<d")
DOORBELL = 0x28


@breaks("S1")
class ForgetsARegister(Sample):
    def save(self) -> bytes:
        return STATE.pack(self.count, self.address, self.job, 0)

    def finish(self) -> None:
        super().finish()
        self.note += 1


@breaks("S1", "S5")
class ForgetsWhatIsUnderWay(Sample):
    def kit_sections(self) -> Any:
        return [row for row in super().kit_sections() if row[0] != WORK]

    def load(self, state: bytes, version: int) -> None:
        self.count, self.address, self.job, self.note = STATE.unpack(state)


@breaks("S1", "S5")
class LosesItsDoorbell(Sample):
    """Work that a rung doorbell put off stays behind, and ringing it again does it after all."""

    def reset_device(self) -> None:
        super().reset_device()
        self.rung = 0

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return self.rung if offset == DOORBELL else super().bar_read(bar, offset, size)

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        super().bar_write(bar, offset, value, size)
        self.later(0.5, self.ring)

    def ring(self) -> None:
        self.rung = 1

    def save(self) -> bytes:
        return super().save() + bytes([self.rung])

    def load(self, state: bytes, version: int) -> None:
        super().load(state[:-1], version)
        self.rung = state[-1]

    def kit_sections(self) -> Any:
        return [row for row in super().kit_sections() if row[0] != WORK]


@breaks("S1", "S5")
class SavesTheTimeOfDay(Sample):
    """When its work is due it saves as a time, which means nothing on another host."""

    due = 0.0

    def begin(self) -> None:
        self.due = self.clock() + DELAY

    def deadline(self) -> float | None:
        return self.due if self.job and self.may("change_state") else super().deadline()

    def tick(self) -> None:
        super().tick()
        due = self.job and self.may("change_state") and self.clock() >= self.due
        if due and self.can_finish():
            self.finish()

    def save(self) -> bytes:
        return super().save() + DUE.pack(self.due)

    def load(self, state: bytes, version: int) -> None:
        self.count, self.address, self.job, self.note = STATE.unpack(state[: STATE.size])
        (self.due,) = DUE.unpack(state[STATE.size :])


@breaks("S1", "S5")
class FinishesInSilence(Sample):
    """Work that was under way is done where it went, without the interrupt at its end."""

    silent = False

    def load(self, state: bytes, version: int) -> None:
        super().load(state, version)
        self.silent = bool(self.job)

    def interrupt(self, vector: int = 0) -> None:
        if not self.silent:
            super().interrupt(vector)
        self.silent = False


@breaks("S1")
class LeavesTheLineBehind(Sample):
    def load(self, state: bytes, version: int) -> None:
        super().load(state, version)
        self.interrupts.lower_line()


@breaks("S1")
class LosesUnreceivedInterrupts(Sample):
    def kit_load(self, sections: Any, /) -> None:
        super().kit_load(sections)
        self.interrupts.restore(self.interrupts.line, ())


@breaks("S1")
class ForgetsItsConfiguration(Sample):
    def kit_load(self, sections: Any, /) -> None:
        super().kit_load(sections)
        self.config.reset()


@breaks("S1")
class TrustsMappedMemory(Sample):
    """It takes memory that a client has mapped for clean once it has streamed it."""

    bars = Sample.bars | {4: Bar(4096, memory=True)}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.block("bar4").tracked = True


@breaks("S3")
class CannotEstimate(Sample):
    def stop_copy_length(self) -> int:
        raise RuntimeError("ask again when it is stopped")


@breaks("S3")
class ReportsAnEmptyStream(Sample):
    def stop_copy_length(self) -> int:
        return 0


@breaks("S1")
class SavesTooEarly(Sample):
    """What is streamed is the state of the moment in which the session was opened."""

    early: Any = None

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if effect == "opens" and (writer := self._kit_writer) is not None:
            sections = self.kit_sections()
            writer._sections = lambda: sections


@breaks("S1")
class ForgetsDirtyPages(Sample):
    def take_note(self, at: int, record: bytes) -> None:
        self.block("notes").view[at : at + 8] = record


@breaks("S1", "S3")
class EndsTooEarly(Sample):
    """It streams its registers while they can still change, and then states that this was all."""

    def stream_read(self, size: int, /) -> list[Part]:
        if self._kit_writer is not None and self._kit_end() is not None:
            return self._kit_writer.read(size, still=True)
        return super().stream_read(size)


@breaks("S3")
class ReportsThatNothingIsLeft(Sample):
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
        if not parts and size and self._kit_still():
            self._kit_writer = StreamWriter(self.kit_header(), self.memories, self.kit_sections)
        return parts


@breaks("S3")
class StreamsForEver(Sample):
    """While it runs it streams all that it has again and again, and never comes to an end."""

    def stream_read(self, size: int, /) -> list[Part]:
        parts = super().stream_read(size)
        if sum(map(len, parts)) < size and not self._kit_still():
            for memory in self.memories:
                memory.again()
            if size:
                parts += self.stream_read(size - sum(map(len, parts)))
        return parts


@breaks("S4")
class TakesStrangers(Sample):
    def kit_check(self, reported: object, /) -> None:
        pass

    def load(self, state: bytes, version: int) -> None:
        if state:
            super().load(state, version)

    def kit_load(self, sections: Any, /) -> None:
        self.load(sections[1], 1)

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if self._kit_reader is not None and effect == "opens":
            # It would miss the memory of a device like itself.
            self._kit_reader._memories = ()


@breaks("S4")
class TakesDamage(Sample):
    """It does not look at checksums."""

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        super().take(arc, session, effect)
        if self._kit_reader is not None and effect == "opens":
            self._kit_reader = CarelessReader(
                self.memories, self._kit_numbers, self.kit_check, self._kit_optional
            )


class CarelessReader(StreamReader):
    def _end_frame(self, kind: int, block: int, length: int, position: int, crc: int) -> None:
        self._expected = bytes(self._content) if kind == 4 else b""
        super()._end_frame(kind, block, length, position, self._crc)


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
        closing = self._kit_writer if effect == "closes" else None
        if closing is not None and closing._ready:
            self.left = closing
            ready, closing._ready = closing._ready, type(closing._ready)()
            super().take(arc, session, effect)
            closing._ready = ready
            return
        super().take(arc, session, effect)
        if effect == "opens" and self._kit_writer is not None and self.left is not None:
            self._kit_writer, self.left = self.left, None
            for memory in self.memories:
                memory.begin()
