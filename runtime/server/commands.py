"""What a server does with each command of its client: a command in, a reply out, no socket.

Nothing about migration is decided here. A state that is asked for goes to the engine; whether data
may be read or written is what the session of the present state states in the migration table,
against the `transfer` of the command in the table of the connection; which features there are, with
which methods and sizes, is read from there too, and so is every errno.

What a command needs of the connection itself (VERSION, replies to DMA) is not here but in
`vfio_migration.runtime.server.session`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from vfio_migration.model.wire import Command as Row
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.engine.errors import EngineError, answer_to
from vfio_migration.runtime.engine.records import Observer
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.interrupts import INDEXES
from vfio_migration.runtime.kit.region import CONFIG_INDEX, Region
from vfio_migration.runtime.protocol.connection import Command, Lost
from vfio_migration.runtime.protocol.faults import MalformedError, errno_for
from vfio_migration.runtime.protocol.layout import (
    WIRE,
    Data,
    DeviceFlags,
    DmaMapFlags,
    DmaUnmapFlags,
    RegionFlags,
)
from vfio_migration.runtime.protocol.messages.catalogue import (
    DeviceFeature,
    DeviceGetInfo,
    DeviceGetInfoReply,
    DeviceGetIrqInfo,
    DeviceGetIrqInfoReply,
    DeviceGetRegionInfo,
    DeviceGetRegionInfoReply,
    DeviceGetRegionIoFds,
    DeviceGetRegionIoFdsReply,
    DeviceReset,
    DeviceResetReply,
    DeviceSetIrqs,
    DeviceSetIrqsReply,
    DmaMap,
    DmaMapReply,
    DmaUnmap,
    DmaUnmapReply,
    MigDataRead,
    MigDataReadReply,
    MigDataWrite,
    MigDataWriteReply,
    MigPrecopyInfo,
    RegionRead,
    RegionReadReply,
    RegionWrite,
    RegionWriteMulti,
    RegionWriteMultiReply,
    RegionWriteReply,
)
from vfio_migration.runtime.protocol.messages.regions import MmapArea, SparseMmap
from vfio_migration.runtime.protocol.messages.shapes import Message
from vfio_migration.runtime.server.failures import Failures
from vfio_migration.runtime.server.features import Features

_READ, _WRITE, _MMAP = (
    int(flag) for flag in (RegionFlags.READ, RegionFlags.WRITE, RegionFlags.MMAP)
)
_NEED_FILE: Final = int(DmaMapFlags.MMAP | DmaMapFlags.FILE_IO)


class Answered(NamedTuple):
    """A reply, the descriptors that go with it, and what to call if it does not leave.

    The descriptors stay ours: they are closed once the client has disconnected.
    """

    message: Message
    fds: tuple[int, ...] = ()
    lost: Lost | None = None


@dataclass(frozen=True, slots=True)
class Streamed(Message):
    """The reply to MIG_DATA_READ, its data in as many pieces as the device gave it out in."""

    name = MigDataReadReply.name
    is_reply = True
    layout = MigDataReadReply.layout

    pieces: Sequence[Data]

    @property
    def size(self) -> int:
        """How much data that is."""
        return sum(map(len, self.pieces))

    @property
    def argsz(self) -> int:
        """The size of the payload."""
        return self.layout.size + self.size

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        size = self.size
        return (self.layout.pack(self.layout.size + size, size), *self.pieces)


_Handler: TypeAlias = Callable[[Any, Sequence[int]], "Message | Answered"]


class CommandHandlers:
    """The handlers of all commands for one device, and the engine that moves it.

    It outlives connections. One client at a time; `client_disconnected` after each.

    Args:
        device: The device.
        observers: Called with what happens to the device.

    Attributes:
        device: The device.
        engine: What moves it.
        failures: What logs what the device raises.
        features: What there is to get, set and probe.
        max_maps: How many maps the present client may have.
        max_fds: How many descriptors a reply to it may carry.
        options: Which options of the table were agreed on with it.
    """

    def __init__(self, device: DeviceContract, *, observers: Iterable[Observer] = ()) -> None:
        self.device = device
        self.engine = Engine(device.spec, device.capabilities, device, observers=observers)
        self.failures = Failures()
        self.features = Features(device, self.engine)
        self._transfers = {
            state.name: device.spec.session(state.session).transfer for state in device.spec.states
        }
        self._maps = 0
        self._handed: dict[int, int] = {}
        self.max_maps = WIRE.bound("dma_maps")
        self.max_fds = 1
        self.options: frozenset[str] = frozenset()
        handlers: dict[type[Message], _Handler] = {
            DmaMap: self._dma_map,
            DmaUnmap: self._dma_unmap,
            DeviceGetInfo: self._info,
            DeviceGetRegionInfo: self._region_info,
            DeviceGetRegionIoFds: self._region_io_fds,
            DeviceGetIrqInfo: self._irq_info,
            DeviceSetIrqs: self._set_irqs,
            RegionRead: self._region_read,
            RegionWrite: self._region_write,
            RegionWriteMulti: self._region_write_multi,
            DeviceReset: self._reset,
            DeviceFeature: self._feature,
            MigDataRead: self._migration_read,
            MigDataWrite: self._migration_write,
            MigPrecopyInfo: self._precopy_info,
        }
        self._handlers = {kind.number: handler for kind, handler in handlers.items()}
        self._rows: dict[int, Row] = {row.number: row for row in WIRE.commands}

    def answer(self, command: Command) -> Message | Answered | str:
        """Do what a command asks for; return the reply, or the name of an errno.

        What the device or this package does wrong is logged; nothing is raised but what is no
        `Exception`.
        """
        message = command.message
        try:
            return self._handlers[command.number](message, command.fds)
        except Exception as error:  # noqa: BLE001 - is logged there
            return self._refusal(error, command.number)

    def _refusal(self, error: Exception, number: int) -> str:
        """Return the name of the errno that states what a command raised; log what is a mistake."""
        if isinstance(error, CommandError):
            return _errno(error)
        if isinstance(error, MalformedError):
            return error.errno
        if isinstance(error, EngineError):
            return answer_to(error).errno  # what a device raised is logged with its arc or event
        self.failures.report(self._rows[number].name, error, self.device, state=self.state)
        return answer_to(error).errno

    def client_disconnected(self) -> None:
        """Handle the end of a client: what was its own is dropped, the state is kept."""
        self._maps = 0
        self.max_maps = WIRE.bound("dma_maps")
        self.max_fds = 1
        self.options = frozenset()
        handed, self._handed = self._handed, {}
        for fd in handed.values():
            os.close(fd)
        self.device.memory.reach = None
        with contextlib.suppress(EngineError):  # it is logged with the event
            self.engine.disconnect()
        self.features.client_disconnected()

    @property
    def state(self) -> str:
        """The state the device is in."""
        return self.engine.state

    # --- memory of the guest ---

    def _dma_map(self, message: DmaMap, fds: Sequence[int]) -> Message:
        flags = message.flags
        if flags & _NEED_FILE and not fds:
            why = f"flags {flags:#x} without a descriptor"
            raise CommandError(why, occasion="argument_invalid")
        if self._maps >= self.max_maps:
            raise CommandError(f"{self._maps} maps are all", occasion="holding_full")
        self.device.memory.map(
            message.address,
            message.size,
            readable=bool(flags & DmaMapFlags.READ),
            writable=bool(flags & DmaMapFlags.WRITE),
            fd=fds[0] if fds else None,
            offset=message.offset,
            file_io=bool(flags & DmaMapFlags.FILE_IO),
        )
        self._maps += 1
        return DmaMapReply()

    def _dma_unmap(self, message: DmaUnmap, _fds: Sequence[int]) -> Message:
        if message.flags & DmaUnmapFlags.ALL:
            if message.address or message.size:
                raise CommandError("ALL, and a range", occasion="argument_invalid")
            self.device.memory.unmap_all()
            self._maps = 0
        else:
            self.device.memory.unmap(message.address, message.size)
            self._maps -= 1
        return DmaUnmapReply.of(message)

    # --- the device and its interrupts ---

    def _info(self, _message: DeviceGetInfo, _fds: Sequence[int]) -> Message:
        flags = DeviceFlags.PCI | DeviceFlags.RESET
        return DeviceGetInfoReply(16, int(flags), len(self.device.regions), INDEXES)

    def _irq_info(self, message: DeviceGetIrqInfo, _fds: Sequence[int]) -> Message:
        irq, index = self.device.interrupts, message.index
        return DeviceGetIrqInfoReply(16, irq.flags(index), index, irq.count(index))

    def _set_irqs(self, message: DeviceSetIrqs, fds: Sequence[int]) -> Message:
        self.device.interrupts.set(
            message.flags,
            message.index,
            message.start,
            message.count,
            bools=message.data,
            fds=fds,
        )
        return DeviceSetIrqsReply()

    def _reset(self, _message: DeviceReset, _fds: Sequence[int]) -> Message:
        self.engine.reset()
        return DeviceResetReply()

    # --- regions ---

    def _region(self, index: int) -> Region:
        regions = self.device.regions
        if index >= len(regions):
            raise CommandError(f"no region {index}", occasion="argument_invalid")
        return regions[index]

    def _region_info(self, message: DeviceGetRegionInfo, _fds: Sequence[int]) -> Answered:
        region = self._region(message.index)
        flags = (_READ if region.readable else 0) | (_WRITE if region.writable else 0)
        if not region.mappable or self.max_fds < 1:
            return Answered(DeviceGetRegionInfoReply(message.index, flags, region.size, 0))
        # A region that can be mapped as a whole states it in a capability too. So its full reply is
        # longer than the fixed part, and a client without room for descriptors asks again.
        areas = tuple(MmapArea(area.offset, area.size) for area in region.areas)
        reply = DeviceGetRegionInfoReply(
            message.index, flags | _MMAP, region.size, region.fd_offset, (SparseMmap(areas),)
        )
        return Answered(reply, (self._handed_out(message.index, region.fd),))

    def _handed_out(self, index: int, fd: int) -> int:
        """Return a descriptor of a region for the present client, with a description of its own.

        What is handed out shares its flags and its position with the client, who may change both.
        """
        found = self._handed.get(index)
        if found is None:
            try:
                found = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise CommandError(f"region {index}: {error}", errno=error.errno) from error
            self._handed[index] = found
        return found

    def _region_io_fds(self, message: DeviceGetRegionIoFds, _fds: Sequence[int]) -> Message:
        self._region(message.index)
        if message.count:
            raise CommandError("count is to be zero", occasion="argument_invalid")
        return DeviceGetRegionIoFdsReply(message.index)

    def _write(self, index: int, offset: int, data: Data) -> None:
        if index != CONFIG_INDEX:
            # A driver does this: its memory is where it will be. Before the write, which may be
            # what starts DMA.
            self.device.memory.used()
        self._region(index).write(offset, data)

    def _region_read(self, message: RegionRead, _fds: Sequence[int]) -> Message:
        data = self._region(message.region).read(message.offset, message.count)
        return RegionReadReply(message.offset, message.region, data)

    def _region_write(self, message: RegionWrite, _fds: Sequence[int]) -> Message:
        self._write(message.region, message.offset, message.data)
        return RegionWriteReply(message.offset, message.region, len(message.data))

    def _region_write_multi(self, message: RegionWriteMulti, _fds: Sequence[int]) -> Message:
        """Check all of the writes, then do them; stop at the first that the device refuses."""
        for one in message:
            region = self._region(one.region)
            if not region.writable or one.offset + len(one.data) > region.size:
                raise CommandError("a write that cannot be done", occasion="argument_invalid")
        done = 0
        for one in message:
            try:
                self._write(one.region, one.offset, one.data)
            except Exception as error:  # noqa: BLE001 - is logged there
                if not isinstance(error, CommandError):
                    self.failures.report(
                        message.name,
                        error,
                        self.device,
                        state=self.state,
                        write=f"{done + 1} of {message.wr_cnt}",
                    )
                break
            done += 1
        return RegionWriteMultiReply(done)

    # --- migration data ---

    def _check_transfer(self, number: int) -> None:
        """Hold what a command transfers against the session of the state the device is in."""
        state = self.engine.state
        if self._transfers[state] != self._rows[number].transfer:
            raise CommandError(f"in {state} nothing goes this way", occasion="out_of_session")

    def _stream(self, size: int) -> Sequence[Data]:
        """Read the stream of the device: first what was read before and did not leave."""
        self._check_transfer(MigDataRead.number)
        unsent = self.features.unsent
        if not len(unsent):
            return self.device.stream_read(size)
        pieces = unsent.take(size)
        if (left := size - sum(map(len, pieces))) > 0:
            try:
                return [*pieces, *self.device.stream_read(left)]
            except BaseException:
                unsent.untake(pieces)
                raise
        return pieces

    def _migration_read(self, message: MigDataRead, _fds: Sequence[int]) -> Answered:
        pieces = self._stream(message.size)
        if message.size and not any(map(len, pieces)) and self._states_a_pause():
            raise CommandError("there is nothing to read now", occasion="nothing_now")
        if self._rows[message.number].forgets != "when_sent":
            return Answered(Streamed(pieces))
        give_back = functools.partial(self.features.unsent.give_back, self.engine.session)
        return Answered(Streamed(pieces), lost=give_back)

    def _states_a_pause(self) -> bool:
        """Return whether the client gets an error where its stream has come to a temporary end."""
        end = self.device.spec.stream_end(self.engine.state)
        row = WIRE.agreed_answer("nothing_now", self.options)
        return row is not None and end is not None and end.kind == "temporary"

    def _precopy_info(self, _message: MigPrecopyInfo, _fds: Sequence[int]) -> Answered:
        end = self.device.spec.stream_end(self.engine.state)
        if end is None or not end.precopy_info:
            why = f"in {self.engine.state} no more data can come"
            raise CommandError(why, occasion="out_of_session")
        reply, lost = self.features.precopy_info()
        return Answered(reply, lost=lost)

    def _feature(self, message: DeviceFeature, _fds: Sequence[int]) -> Answered:
        reply, lost = self.features.answer(message)
        return Answered(reply, lost=lost)

    def _migration_write(self, message: MigDataWrite, _fds: Sequence[int]) -> Message:
        self._check_transfer(message.number)
        self.device.stream_write(message.data)
        return MigDataWriteReply()


def _errno(error: CommandError) -> str:
    """Return what a client is answered when the device does not do what it asked for."""
    if error.occasion is not None:
        row = WIRE.answer(error.occasion)
        if row is not None and row.errno is not None:
            return row.errno
    return error.errno or errno_for("argument_invalid")
