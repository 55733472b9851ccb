"""What the table asks of a device while it migrates: gates, hooks, sessions.

`MigratableDevice` is the part of a device that knows nothing of PCI. It asks the table what the
present state permits and what an arc does to the data session, calls the hooks for what the device
loses and gains, and runs the streams. No state is known here by its name.

People subclass it, by way of `PciDevice`, so whatever is not for them has a name that begins with
`kit_` or `_kit_`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vfio_migration.model import Arc, Spec
from vfio_migration.model.spec import Effect, Role, StreamEnd
from vfio_migration.runtime.engine.errors import ArcError, words
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.kit.errors import AnnouncedInfo, CommandError, Part, PrecopyInfo
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


class MigratableDevice:
    """A device that the table moves: where it is, and all that follows from it.

    Args:
        spec: The table.
        sections: The numbers of the sections that make a whole state, and of those that an older
            device did not save.
        clock: Returns the time in seconds.

    Attributes:
        spec: As given.
        memories: The parts of the state that are streamed by pages.
        memory: The memory of the guest.
        interrupts: All interrupts.
    """

    memories: Sequence[TrackedMemory]
    memory: GuestMemory
    interrupts: Interrupts

    def __init__(
        self,
        spec: Spec,
        sections: tuple[tuple[int, ...], tuple[int, ...]],
        clock: Callable[[], float],
    ) -> None:
        self.spec = spec
        self._kit_numbers, self._kit_optional = sections
        # Read from the table once: it is asked of at every arc and every access.
        self._kit_may = {
            row.name: frozenset(spec.operation(row.operation).may) for row in spec.states
        }
        self._kit_ends = {row.name: spec.stream_end(row.name) for row in spec.states}
        roles = {row.name: row.role for row in spec.activities}
        self._kit_roles = {
            state: frozenset(roles[activity] for activity in may if activity in roles)
            for state, may in self._kit_may.items()
        }
        self._kit_hooked = {
            state: {row[0] for row in _HOOKS if row[0] in found}
            for state, found in self._kit_roles.items()
        }
        self._kit_state = spec.initial
        self._kit_timers: Timers[Work] = Timers(clock, lambda work: work.size)
        self._kit_on: set[Role] = set()
        self._kit_writer: StreamWriter | None = None
        self._kit_reader: StreamReader | None = None

    # --- what a device supplies ---

    def quiesce(self) -> None:
        """Start no DMA to other devices any more, and finish what is under way.

        This and the three below need not do anything: work put off with `later` waits by itself,
        and DMA that is not permitted cannot be started. `quiesce` and `resume` alternate, and so do
        `stop` and `start`, whatever happens to the device. Each may raise: an `ArcError` that is
        not for good states that the device goes on as if it had not been called.
        """

    def resume(self) -> None:
        """DMA to other devices may be started again."""

    def stop(self) -> None:
        """Change nothing any more, inside and outside, and finish what is under way."""

    def start(self) -> None:
        """Everything else goes on."""

    def announce_initial(
        self, memory: TrackedMemory, offset: int = 0, size: int | None = None
    ) -> None:
        """Announce new initial data: some of a memory is to be streamed before the device stops.

        For a device that was configured anew while it is migrated, and without this data could not
        be loaded in good time. All that is left to read then counts as initial. A client that did
        not ask to be notified is not: to it this is memory that has changed.

        Args:
            memory: One of `memories`.
            offset: Where the data begins.
            size: How much it is; None for all from there.
        """
        size = memory.size - offset if size is None else size
        memory.mark(offset, size)
        end = self._kit_end()
        if self._kit_writer is not None and end is not None and end.precopy_info:
            self._kit_writer.announce()

    # --- what a kind of device supplies: `PciDevice` ---

    def kit_power_on(self) -> None:
        """Be as just turned on."""
        raise NotImplementedError

    def kit_header(self) -> Mapping[str, Any]:
        """Return who saves."""
        raise NotImplementedError

    def kit_check(self, found: object, /) -> None:
        """Raise `StreamRefusedError` if who saved is another kind of device."""
        raise NotImplementedError

    def kit_sections(self) -> Sequence[tuple[int, Part]]:
        """Return the state that is not in `memories`, by number."""
        raise NotImplementedError

    def kit_load(self, sections: Mapping[int, bytes], /) -> None:
        """Take over what `kit_sections` of another device returned."""
        raise NotImplementedError

    # --- where it is ---

    @property
    def state(self) -> str:
        """The name of the state the device is in: to be shown, never to be compared."""
        return self._kit_state

    def permits(self, role: Role) -> bool:
        """Return whether the table permits the activity with a role in the present state.

        Unlike `may` this does not depend on what a table calls its activities.
        """
        return role in self._kit_roles[self._kit_state]

    # --- what the engine calls: `DisconnectingDevice` ---

    def take(self, arc: Arc, session: int | None, effect: Effect, /) -> None:  # noqa: ARG002
        """Take an arc; see `Device.take`."""
        if arc.from_ != self._kit_state:
            raise RuntimeError(f"{arc}: but this device is in {self._kit_state}")
        try:
            closing = self._kit_reader if effect == "closes" else None
            if closing is not None:
                self._kit_take_over(closing)
            self._kit_switch(arc.to, back_to=arc.from_)
            if effect == "opens":
                self._kit_open(arc.to)
            elif effect == "closes":
                self._kit_close()
            elif self._kit_writer is not None and not self._kit_still():
                self._kit_writer.grows()
        except ArcError as error:
            if error.for_good:
                self._kit_fail()
            raise
        except BaseException:
            self._kit_fail()
            raise

    def reset(self, to: Situation, /) -> None:
        """Be as just turned on; see `Device.reset`. Maps, descriptors and logging stay."""
        try:
            self._kit_off_all()
            if to.session is None:
                self._kit_close()
            self._kit_timers.cancel_all()
            self._kit_state = to.state
            self.kit_power_on()
            self._kit_switch(to.state)
        except BaseException:
            self._kit_fail()
            raise

    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        """Forget what the client had; see `DisconnectingDevice.disconnect`."""
        if "dma_maps" in drops:
            self.memory.drop()
        if "interrupts" in drops:
            self.interrupts.drop()
        try:
            if to.session is None:
                self._kit_close()
            self._kit_switch(to.state)
        except BaseException:
            self._kit_fail()
            raise

    # --- what the server calls: `DeviceContract` ---

    def stream_read(self, size: int, /) -> list[Part]:
        """Return the next bytes of the saving session; see `DeviceContract`."""
        if self._kit_writer is None or self._kit_end() is None:
            raise _out_of_session("read")
        return self._kit_writer.read(size, still=self._kit_still())

    def stream_write(self, data: Part, /) -> None:
        """Take the next bytes of the resuming session; see `DeviceContract`."""
        if self._kit_reader is None or self._kit_transfer(self._kit_state) != "write":
            raise _out_of_session("written")
        try:
            self._kit_reader.write(data)
        except StreamRefusedError as refusal:
            raise CommandError(str(refusal), errno=refusal.errno) from refusal

    def precopy_info(self) -> PrecopyInfo:
        """Return how much is left to read; see `DeviceContract`."""
        return self._kit_informing().info()

    def announced_info(self) -> AnnouncedInfo:
        """Return how much is left to read, and whether it began anew; see `DeviceContract`."""
        return self._kit_informing().announced()

    def stop_copy_length(self) -> int:
        """Estimate what is left to read once the device is stopped; see `DeviceContract`."""
        if self._kit_writer is not None:
            return self._kit_writer.left()
        return stream_length(self.kit_header(), self.memories, self.kit_sections)

    # --- inside: states ---

    def _kit_switch(self, to: str, back_to: str | None = None) -> None:
        """Come to a state: notify the device of what it loses and gains, open and shut the gates.

        If the device fails to and states that it is back, it is notified so of what it was notified
        before.
        """
        if self._kit_hooked[to] == self._kit_on:
            self._kit_state = to
            self._kit_update()
            self._kit_flush()
            return
        done: list[tuple[Role, str, str]] = []
        try:
            for row in _HOOKS:
                if row[0] in self._kit_on and row[0] not in self._kit_roles[to]:
                    self._kit_notify(row)
                    done.append(row)
            self._kit_state = to
            self._kit_update()
            for row in reversed(_HOOKS):
                if row[0] not in self._kit_on and self.permits(row[0]):
                    self._kit_notify(row)
                    done.append(row)
        except ArcError as error:
            if error.for_good or back_to is None:
                raise
            self._kit_state = back_to
            try:
                self._kit_roll_back(done)
            except Exception as worse:
                raise RuntimeError(f"cannot be brought back to {back_to}") from worse
            raise
        self._kit_flush()

    def _kit_update(self) -> None:
        """Let work that was put off go on, or wait, as the present state permits."""
        if self._kit_timers.weight:  # mostly there is none
            self._kit_timers.update()

    def _kit_flush(self) -> None:
        """Send the interrupts that were raised and not sent, if they may be sent now."""
        if self.interrupts.waiting or self.interrupts.line:
            self.interrupts.flush()

    def _kit_roll_back(self, done: Sequence[tuple[Role, str, str]]) -> None:
        for row in reversed(done):
            self._kit_notify(row)
        self._kit_update()

    def _kit_notify(self, row: tuple[Role, str, str]) -> None:
        """Call the hook whose turn it is. It counts as called, unless it raises that it is back."""
        role, off, on = row
        turn = {role}
        try:
            getattr(self, off if role in self._kit_on else on)()
        except ArcError as error:
            if not error.for_good:
                turn = set()
            raise
        finally:
            self._kit_on ^= turn

    def _kit_fail(self) -> None:
        """Nobody knows what the device is in the middle of: come to where the table specifies."""
        row = self.spec.event("arc_failed_for_good")
        self._kit_off_all()
        if row.to is not None:
            self._kit_state = row.to
        if row.session == "ended":
            self._kit_close()
        self._kit_update()

    def _kit_off_all(self) -> None:
        """Notify the device that it may do nothing any more; whatever it answers."""
        for role, off, _ in _HOOKS:
            if role in self._kit_on:
                self._kit_on.discard(role)
                try:
                    getattr(self, off)()
                except Exception as error:
                    _logger.warning(
                        "%s of %s raised too, after a failure: %s: %s",
                        off,
                        type(self).__name__,
                        type(error).__name__,
                        words(error),
                        exc_info=_logger.isEnabledFor(logging.DEBUG),
                    )

    # --- inside: sessions ---

    def _kit_transfer(self, state: str) -> str:
        return self.spec.session(self.spec.state(state).session).transfer

    def _kit_end(self) -> StreamEnd | None:
        return self._kit_ends[self._kit_state]

    def _kit_informing(self) -> StreamWriter:
        """Return the stream of which the table permits to ask how much is left."""
        end = self._kit_end()
        if self._kit_writer is None or end is None or not end.precopy_info:
            raise CommandError("the device is not pre-copying", occasion="out_of_session")
        return self._kit_writer

    def _kit_still(self) -> bool:
        """Return whether all there is can be streamed now, to the final end of the stream."""
        end = self._kit_end()
        return end is not None and end.kind == "final"

    def _kit_open(self, state: str) -> None:
        transfer = self._kit_transfer(state)
        if transfer == "read":
            self._kit_writer = StreamWriter(self.kit_header(), self.memories, self.kit_sections)
        elif transfer == "write":
            self._kit_reader = StreamReader(
                self.memories, self._kit_numbers, self.kit_check, self._kit_optional
            )

    def _kit_close(self) -> None:
        """End whatever session is open."""
        if self._kit_writer is not None:
            self._kit_writer.close()
        self._kit_writer = self._kit_reader = None

    def _kit_take_over(self, reader: StreamReader) -> None:
        """Load what was received, or raise `StreamRefusedError`.

        A device whose `load` fails half-way is not a danger: it stays where it is, and nothing but
        another load, from the beginning, or a reset leads away from there.
        """
        sections = reader.judge()
        self._kit_timers.cancel_all()
        try:
            self.kit_load(sections)
        except ArcError:
            raise
        except Exception as error:
            _logger.debug("a stream is refused", exc_info=True)
            raise StreamRefusedError(f"{type(error).__name__}: {words(error)}") from error


def _out_of_session(done: str) -> CommandError:
    return CommandError(f"nothing is {done} in this state", occasion="out_of_session")
