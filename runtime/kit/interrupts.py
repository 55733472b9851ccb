"""Interrupts: descriptors that the client gave, and what the device has raised.

INTx is a level: `raise_line` and `lower_line` move it. The client is notified by one event, after
    which
the interrupt is masked until the client unmasks it; if the line is still up then, it is reported
again (VFIO calls this automasked). MSI and MSI-X are events: `trigger`.

A client unmasks INTx by a message, or by the descriptor that it gave for UNMASK: with vfio-user the
device writes to it when the interrupt is unmasked, with Linux the client does to unmask it, and so
does KVM for QEMU, which then sends no messages. Both are served: what of its count is not of our
writing is the client's. It is never read, so neither side takes an event from the other.

An interrupt that the table does not permit in the present state, or for which the client gave no
descriptor yet, is pending: it goes out as soon as it can. So none is lost to a migration, and the
pending ones are part of the state of the device.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from vfio_migration.runtime.files import descriptor_kinds
from vfio_migration.runtime.kit.errors import CommandError, Part
from vfio_migration.runtime.kit.event_signal import event_signal
from vfio_migration.runtime.protocol.layout import WIRE, IrqInfoFlags, IrqSetFlags

INTX: Final = 0
MSI: Final = 1
MSIX: Final = 2
ERR: Final = 3
REQ: Final = 4
INDEXES: Final = 5

INFO_EVENTFD: Final = int(IrqInfoFlags.EVENTFD)
INFO_MASKABLE: Final = int(IrqInfoFlags.MASKABLE)
INFO_AUTOMASKED: Final = int(IrqInfoFlags.AUTOMASKED)
INFO_NORESIZE: Final = int(IrqInfoFlags.NORESIZE)

DATA_NONE: Final = int(IrqSetFlags.DATA_NONE)
DATA_BOOL: Final = int(IrqSetFlags.DATA_BOOL)
DATA_EVENTFD: Final = int(IrqSetFlags.DATA_EVENTFD)
ACTION_MASK: Final = int(IrqSetFlags.ACTION_MASK)
ACTION_UNMASK: Final = int(IrqSetFlags.ACTION_UNMASK)
ACTION_TRIGGER: Final = int(IrqSetFlags.ACTION_TRIGGER)

_DATA: Final = (DATA_NONE, DATA_BOOL, DATA_EVENTFD)
_COUNT: Final = re.compile(rb"^eventfd-count: *([0-9a-f]+)$", re.MULTILINE)
_ACTIONS: Final = (ACTION_MASK, ACTION_UNMASK, ACTION_TRIGGER)


@dataclass(slots=True)
class _Index:
    """The interrupts of one kind."""

    count: int
    flags: int
    events: list[int] = field(default_factory=list)


def _always() -> bool:
    return True


class Interrupts:
    """All interrupts of a device.

    Args:
        intx: Whether it has a line.
        msi: How many MSI vectors it has.
        msix: How many MSI-X vectors it has.
        err: Whether it can observe of errors.
        req: Whether it can ask to be given back.
        gate: Says whether the device may raise interrupts now.

    Attributes:
        line: Whether INTx is up.
        masked: Whether the client gets no event of INTx.
        waiting: What was raised and not sent: index and vector of each.
        sent: How many events have been sent.
    """

    def __init__(
        self,
        *,
        intx: bool = False,
        msi: int = 0,
        msix: int = 0,
        err: bool = False,
        req: bool = False,
        gate: Callable[[], bool] = _always,
    ) -> None:
        counts = (int(intx), msi, msix, int(err), int(req))
        most = WIRE.bound("interrupts")
        # INTx has two descriptors more, to mask and to unmask it.
        if (wanted := sum(counts) + 2 * intx) > most:
            raise ValueError(
                f"a device with {sum(counts)} interrupts keeps {wanted} descriptors of its client; "
                f"a server keeps {most} (max_interrupts): give it fewer vectors"
            )
        level = INFO_EVENTFD | INFO_MASKABLE | INFO_AUTOMASKED
        self._all = [
            _Index(count, level if index == INTX else INFO_EVENTFD | INFO_NORESIZE)
            for index, count in enumerate(counts)
        ]
        for row in self._all:
            row.events = [-1] * row.count
        self._mask_events = {ACTION_MASK: -1, ACTION_UNMASK: -1}
        self._unmasks = 0  # the count of that for UNMASK, as far as it means nothing any more
        self._gate = gate
        self.line = False
        self.masked = False
        self.waiting: set[tuple[int, int]] = set()
        self.sent = 0

    # --- for the server ---

    def count(self, index: int) -> int:
        """Return how many interrupts of a kind there are.

        Raises:
            CommandError: There is no such kind.
        """
        return self._index(index).count

    def flags(self, index: int) -> int:
        """Return what a kind of interrupts can do (INFO_EVENTFD and so on).

        Raises:
            CommandError: There is no such kind.
        """
        return self._index(index).flags

    def armed(self, index: int) -> bool:
        """Return whether the client gave any descriptor for a kind."""
        return any(fd >= 0 for fd in self._all[index].events)

    def set(
        self,
        flags: int,
        index: int,
        start: int,
        count: int,
        *,
        bools: Part = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """Do what DEVICE_SET_IRQS asks for; descriptors are duplicated.

        Args:
            flags: One of DATA_*, one of ACTION_*.
            index: The kind.
            start: The first interrupt.
            count: How many.
            bools: With DATA_BOOL, one byte for each.
            fds: With DATA_EVENTFD, one for each, or for the first of them (the rest
                comes in another message), or none at all to take them back.

        Raises:
            CommandError: The request makes no sense. Nothing has changed.
        """
        row = self._index(index)
        data = [bit for bit in _DATA if flags & bit]
        actions = [bit for bit in _ACTIONS if flags & bit]
        if len(data) != 1 or len(actions) != 1 or flags & ~(sum(_DATA) | sum(_ACTIONS)):
            raise _invalid(f"flags {flags:#x}")
        [kind], [action] = data, actions
        if kind == DATA_NONE and action == ACTION_TRIGGER and start == count == 0:
            self._disable(index)
            return
        # A kind the device does not have has no interrupt in any range.
        if count <= 0 or start < 0 or start + count > row.count:
            raise _invalid(f"interrupts {start} to {start + count} of {row.count}")
        if action != ACTION_TRIGGER and not row.flags & INFO_MASKABLE:
            raise _invalid("this kind of interrupt cannot be masked")
        wanted = range(start, start + count)
        if kind == DATA_EVENTFD:
            if not fds:
                self._take_back(index, wanted, action)
            elif len(fds) <= count:
                self._give(index, wanted[: len(fds)], action, fds)
            else:
                raise _invalid(f"{len(fds)} descriptors for {count} interrupts")
            return
        if kind == DATA_BOOL:
            if len(bools) != count:
                raise _invalid(f"{len(bools)} bytes for {count} interrupts")
            wanted_now = [vector for vector, on in zip(wanted, bools, strict=True) if on]
        else:
            wanted_now = list(wanted)
        for vector in wanted_now:
            if action == ACTION_TRIGGER:
                # The client tries out its own descriptor; the device has no part in it.
                self._send(row.events[vector])
            elif action == ACTION_MASK:
                self._mask()
            else:
                self._unmask()

    def drop(self) -> None:
        """Close all descriptors: the client went away. What is pending stays pending."""
        for index in range(INDEXES):
            self._disable(index)
        event_signal().client_disconnected()
        self.masked = False

    # --- for the device ---

    def trigger(self, index: int, vector: int = 0) -> None:
        """Send an MSI, MSI-X, error or request interrupt, at once or as soon as it can be.

        Raises:
            IndexError: The device has declared no such interrupt.
        """
        row = self._all[index]
        if not 0 <= vector < row.count:
            raise IndexError(f"interrupt {vector} of {row.count} of index {index}")
        self.waiting.add((index, vector))
        self._flush()

    def raise_line(self) -> None:
        """Put INTx up, if it is not."""
        self.line = True
        self._signal_line()

    def lower_line(self) -> None:
        """Take INTx down."""
        self.line = False

    def pending(self, index: int) -> tuple[int, ...]:
        """Return which vectors wait to be sent."""
        return tuple(sorted(vector for kind, vector in self.waiting if kind == index))

    def flush(self) -> None:
        """Send what is pending and can be sent now."""
        self._flush()
        self._signal_line()

    def forget(self) -> None:
        """Take the line down and forget what is pending: the device was reset."""
        self.lower_line()
        self.masked = False
        self.waiting.clear()

    @property
    def awaits_unmask(self) -> bool:
        """Whether INTx is masked while up, to be unmasked by event: see `read_unmask_event`."""
        return self.line and self.masked and self._mask_events[ACTION_UNMASK] >= 0 and self._gate()

    def read_unmask_event(self) -> None:
        """Read whether the client has unmasked INTx by its event descriptor."""
        self._signal_line()

    def restore(self, line: bool, pending: Iterable[tuple[int, int]]) -> None:
        """Take over what another device had raised and not sent.

        Raises:
            ValueError: This device has no such interrupts.
        """
        found = list(pending)
        for index, vector in found:
            if not (0 <= index < INDEXES and 0 <= vector < self._all[index].count):
                raise ValueError(f"no interrupt {vector} of index {index}")
        self.forget()
        self.line = line
        self.waiting.update(found)

    # --- inside ---

    def _index(self, index: int) -> _Index:
        if not 0 <= index < INDEXES:
            raise _invalid(f"index {index}")
        return self._all[index]

    def _flush(self) -> None:
        if self.waiting and self._gate():
            for index, vector in sorted(self.waiting):
                fd = self._all[index].events[vector]
                if fd >= 0:
                    self.waiting.discard((index, vector))
                    self._send(fd)

    def _signal_line(self) -> None:
        row = self._all[INTX]
        listened = row.count and row.events[0] >= 0
        if self.line and listened and self._gate():
            if self.masked:
                # Fewer than before: the client has read it, and counts from there.
                count = self._count()
                self._unmasks, self.masked = count, count <= self._unmasks
            if not self.masked:
                self._mask()
                self._send(row.events[0])

    def _mask(self) -> None:
        # What was stated before it was masked does not unmask it.
        self._unmasks = self._count()
        if not self.masked:
            self.masked = True
            self._send(self._mask_events[ACTION_MASK])

    def _unmask(self) -> None:
        if self.masked:
            self.masked = False
            self._send(self._mask_events[ACTION_UNMASK])
        self._signal_line()

    def _count(self) -> int:
        """Return how often the descriptor for UNMASK was written and not read, by whomever."""
        fd = self._mask_events[ACTION_UNMASK]
        if fd < 0:
            return 0
        try:
            with open(f"/proc/self/fdinfo/{fd}", "rb") as about:  # noqa: PTH123 - quicker
                found = _COUNT.search(about.read())
        except OSError:
            return self._unmasks  # no descriptor is free, say: as if nothing had been written
        return int(found[1], 16) if found else 0

    def _disable(self, index: int) -> None:
        self._take_back(index, range(self._all[index].count), ACTION_TRIGGER)
        if index == INTX:
            for action in self._mask_events:
                self._take_back(INTX, range(1), action)

    def _give(self, index: int, wanted: range, action: int, fds: Sequence[int]) -> None:
        kept: list[int] = []
        try:
            kept.extend(map(_kept, fds))
        except BaseException:
            for fd in kept:
                os.close(fd)
            raise
        self._take_back(index, wanted, action)
        if action == ACTION_TRIGGER:
            self._all[index].events[wanted.start : wanted.stop] = kept
            if index == INTX:
                # A new listener has received nothing yet.
                self.masked = False
            self.flush()
        else:
            [self._mask_events[action]] = kept
            if action == ACTION_UNMASK:
                self._unmasks = self._count()

    def _take_back(self, index: int, wanted: range, action: int) -> None:
        if action == ACTION_TRIGGER:
            events = self._all[index].events
            for vector in wanted:
                _close(events[vector])
                events[vector] = -1
        else:
            _close(self._mask_events[action])
            self._mask_events[action] = -1

    def _send(self, fd: int) -> None:
        if fd >= 0:
            self.sent += event_signal().send(fd)


def _kept(fd: int) -> int:
    """Return a duplicate of an event descriptor; raise `CommandError` if it is none."""
    try:
        is_event = descriptor_kinds.kind_of(fd) == descriptor_kinds.EVENT
        kept = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) if is_event else -1
    except OSError as error:
        raise CommandError(f"descriptor {fd}: {error}", errno=error.errno or "EBADF") from error
    if kept < 0:
        raise _invalid(f"descriptor {fd} is not an eventfd")
    return kept


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _invalid(what: str) -> CommandError:
    return CommandError(f"no such interrupt request: {what}", occasion="argument_invalid")
