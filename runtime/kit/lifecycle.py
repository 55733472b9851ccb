"""What the table asks of a device while it migrates: gates, hooks, sessions.

`Lifecycle` is the part of the kit that knows nothing of PCI. It asks the table what the present
state permits and what an arc does to the data session, tells a device what it loses and gains, and
runs the streams. No state is known here by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from vfio_migration.model import Arc, Spec
from vfio_migration.model.spec import Effect, Role, StreamEnd
from vfio_migration.runtime.engine.errors import ArcError, words
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.kit.errors import CommandError, Part, PrecopyInfo
from vfio_migration.runtime.kit.guest_memory import GuestMemory
from vfio_migration.runtime.kit.interrupts import Interrupts
from vfio_migration.runtime.kit.pending_work import Work
from vfio_migration.runtime.kit.state_stream import (
    StreamReader,
    StreamRefusedError,
    StreamWriter,
    stream_length,
)
from vfio_migration.runtime.kit.timers import Timers
from vfio_migration.runtime.kit.tracked_memory import TrackedMemory

_logger: Final = logging.getLogger("vfio_migration.runtime.kit.pci_device")

# By the role of an activity: the hooks called when a device loses and gains it, in the order in
# which activities are lost.
_HOOKS: Final[tuple[tuple[Role, str, str], ...]] = (
    ("peer_dma", "quiesce", "resume"),
    ("state_change", "stop", "start"),
)


class Host(Protocol):
    """What a device supplies; `PciDevice` documents the hooks."""

    @property
    def spec(self) -> Spec:
        """The table."""
        ...

    @property
    def memories(self) -> Sequence[TrackedMemory]:
        """The parts of the state that are streamed by pages."""
        ...

    @property
    def memory(self) -> GuestMemory:
        """The memory of the guest."""
        ...

    @property
    def interrupts(self) -> Interrupts:
        """All interrupts."""
        ...

    def quiesce(self) -> None:
        """No DMA to other devices any more."""
        ...

    def resume(self) -> None:
        """DMA to other devices again."""
        ...

    def stop(self) -> None:
        """No change any more."""
        ...

    def start(self) -> None:
        """Changes again."""
        ...

    def kit_power_on(self) -> None:
        """Be as just turned on."""
        ...

    def kit_header(self) -> Mapping[str, Any]:
        """Say who saves."""
        ...

    def kit_check(self, found: object, /) -> None:
        """Raise `StreamRefusedError` if who saved is another kind of device."""
        ...

    def kit_sections(self) -> Sequence[tuple[int, Part]]:
        """Return the state that is not in `memories`, by number."""
        ...

    def kit_load(self, sections: Mapping[int, bytes], /) -> None:
        """Take over what `kit_sections` of another device returned."""
        ...


class Lifecycle:
    """Where a device stands, and all that follows from it.

    Args:
        host: The device.
        sections: The numbers of the sections that make a whole state, and of those that an older
            device did not save.
        clock: Tells the time in seconds.

    Attributes:
        state: The name of the state it is in.
        timers: What it has put off.
    """

    def __init__(
        self,
        host: Host,
        sections: tuple[tuple[int, ...], tuple[int, ...]],
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._spec = host.spec
        self._numbers, self._optional = sections
        # Read from the table once: it is asked of at every arc and every access.
        states = host.spec.states
        self._may = {row.name: frozenset(host.spec.operation(row.operation).may) for row in states}
        self._ends = {row.name: host.spec.stream_end(row.name) for row in states}
        roles = {row.name: row.role for row in host.spec.activities}
        self._roles = {
            state: frozenset(roles[activity] for activity in may if activity in roles)
            for state, may in self._may.items()
        }
        self._told = {
            state: {row[0] for row in _HOOKS if row[0] in found}
            for state, found in self._roles.items()
        }
        self.state = host.spec.initial
        self.timers: Timers[Work] = Timers(clock, lambda work: work.size)
        self._on: set[Role] = set()
        self._writer: StreamWriter | None = None
        self._reader: StreamReader | None = None

    def begin(self) -> None:
        """Tell the device what it may do to begin with."""
        self._switch(self.state)

    def may(self, activity: str) -> bool:
        """Say whether the table permits an activity in the present state."""
        return activity in self._may[self.state]

    def permits(self, role: Role) -> bool:
        """Say whether the table permits the activity with a role in the present state."""
        return role in self._roles[self.state]

    # --- the engine ---

    def take(self, arc: Arc, session: int | None, effect: Effect, /) -> None:  # noqa: ARG002
        """Take an arc; see `Device.take`."""
        if arc.from_ != self.state:
            raise RuntimeError(f"{arc}: but this device is in {self.state}")
        try:
            closing = self._reader if effect == "closes" else None
            if closing is not None:
                self._take_over(closing)
            self._switch(arc.to, back_to=arc.from_)
            if effect == "opens":
                self._open(arc.to)
            elif effect == "closes":
                self.close()
            elif self._writer is not None and not self._still():
                self._writer.grows()
        except ArcError as error:
            if error.for_good:
                self._fail()
            raise
        except BaseException:
            self._fail()
            raise

    def reset(self, to: Situation, /) -> None:
        """Be as just turned on; see `Device.reset`. Maps, descriptors and logging stay."""
        try:
            self._off_all()
            if to.session is None:
                self.close()
            self.timers.cancel_all()
            self.state = to.state
            self._host.kit_power_on()
            self._switch(to.state)
        except BaseException:
            self._fail()
            raise

    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        """Forget what the client had; see `DisconnectingDevice.disconnect`."""
        if "dma_maps" in drops:
            self._host.memory.drop()
        if "interrupts" in drops:
            self._host.interrupts.drop()
        try:
            if to.session is None:
                self.close()
            self._switch(to.state)
        except BaseException:
            self._fail()
            raise

    # --- the server ---

    def stream_read(self, size: int, /) -> list[Part]:
        """Return the next bytes of the saving session; see `DeviceContract`."""
        if self._writer is None or self._end() is None:
            raise _out_of_session("read")
        return self._writer.read(size, still=self._still())

    def stream_write(self, data: Part, /) -> None:
        """Take the next bytes of the resuming session; see `DeviceContract`."""
        if self._reader is None or self._transfer(self.state) != "write":
            raise _out_of_session("written")
        try:
            self._reader.write(data)
        except StreamRefusedError as refusal:
            raise CommandError(str(refusal), errno=refusal.errno) from refusal

    def precopy_info(self) -> PrecopyInfo:
        """Say how much is left to read; see `DeviceContract`."""
        end = self._end()
        if self._writer is None or end is None or not end.precopy_info:
            raise CommandError("the device is not pre-copying", errno="EINVAL")
        return self._writer.info()

    def stop_copy_length(self) -> int:
        """Estimate what is left to read once the device is stopped; see `DeviceContract`."""
        if self._writer is not None:
            return self._writer.left()
        host = self._host
        return stream_length(host.kit_header(), host.memories, host.kit_sections)

    # --- inside: states ---

    def _switch(self, to: str, back_to: str | None = None) -> None:
        """Come to a state: tell the device what it loses and gains, open and shut the gates.

        If the device fails to and says that it is back, it is told so of what it was told before.
        """
        if self._told[to] == self._on:
            self.state = to
            self.timers.settle()
            self._host.interrupts.flush()
            return
        done: list[tuple[Role, str, str]] = []
        try:
            for row in _HOOKS:
                if row[0] in self._on and row[0] not in self._roles[to]:
                    self._notify(row)
                    done.append(row)
            self.state = to
            self.timers.settle()
            for row in reversed(_HOOKS):
                if row[0] not in self._on and self.permits(row[0]):
                    self._notify(row)
                    done.append(row)
        except ArcError as error:
            if error.for_good or back_to is None:
                raise
            self.state = back_to
            try:
                self._undo(done)
            except Exception as worse:
                raise RuntimeError(f"cannot be brought back to {back_to}") from worse
            raise
        self._host.interrupts.flush()

    def _undo(self, done: Sequence[tuple[Role, str, str]]) -> None:
        for row in reversed(done):
            self._notify(row)
        self.timers.settle()

    def _notify(self, row: tuple[Role, str, str]) -> None:
        """Call the hook whose turn it is. It has been told, unless it says that it is back."""
        role, off, on = row
        turn = {role}
        try:
            getattr(self._host, off if role in self._on else on)()
        except ArcError as error:
            if not error.for_good:
                turn = set()
            raise
        finally:
            self._on ^= turn

    def _fail(self) -> None:
        """Nobody knows what the device is in the middle of: come to where the table says."""
        row = self._spec.event("arc_failed_for_good")
        self._off_all()
        if row.to is not None:
            self.state = row.to
        if row.session == "ended":
            self.close()
        self.timers.settle()

    def _off_all(self) -> None:
        """Tell the device that it may do nothing any more; whatever it says to that."""
        for role, off, _ in _HOOKS:
            if role in self._on:
                self._on.discard(role)
                try:
                    getattr(self._host, off)()
                except Exception as error:
                    _logger.warning(
                        "%s of %s raised too, after a failure: %s: %s",
                        off,
                        type(self._host).__name__,
                        type(error).__name__,
                        words(error),
                        exc_info=_logger.isEnabledFor(logging.DEBUG),
                    )

    # --- inside: sessions ---

    def _transfer(self, state: str) -> str:
        return self._spec.session(self._spec.state(state).session).transfer

    def _end(self) -> StreamEnd | None:
        return self._ends[self.state]

    def _still(self) -> bool:
        """Say whether all there is can be streamed now: the end of the stream is the final one."""
        end = self._end()
        return end is not None and end.kind == "final"

    def _open(self, state: str) -> None:
        transfer = self._transfer(state)
        if transfer == "read":
            self._writer = StreamWriter(
                self._host.kit_header(), self._host.memories, self._host.kit_sections
            )
        elif transfer == "write":
            self._reader = StreamReader(
                self._host.memories, self._numbers, self._host.kit_check, self._optional
            )

    def close(self) -> None:
        """End whatever session is open."""
        if self._writer is not None:
            self._writer.close()
        self._writer = self._reader = None

    def _take_over(self, reader: StreamReader) -> None:
        """Load what was received, or raise `StreamRefusedError`.

        A device whose `load` fails half-way is not a danger: it stays where it is, and nothing but
        another load, from the beginning, or a reset leads away from there.
        """
        sections = reader.judge()
        self.timers.cancel_all()
        try:
            self._host.kit_load(sections)
        except ArcError:
            raise
        except Exception as error:
            _logger.debug("a stream is refused", exc_info=True)
            raise StreamRefusedError(f"{type(error).__name__}: {words(error)}") from error


def _out_of_session(done: str) -> CommandError:
    return CommandError(f"nothing is {done} in this state", occasion="out_of_session")
