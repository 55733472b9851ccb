"""DEVICE_FEATURE: what there is to get, set and probe, and in which order things are wrong.

Which features there are, their methods and the sizes of their data are rows of [[features]] in the
table of the connection, and the errno of each refusal a row of its [[answers]]; their order there
is the order of the checks here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from vfio_migration.model.wire import Feature, Occasion
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.protocol.connection import Lost
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import (
    FEATURE_GET,
    FEATURE_MASK,
    FEATURE_PROBE,
    FEATURE_SET,
    LIMITS,
    WIRE,
    Data,
    PrecopyInfoFlags,
)
from vfio_migration.runtime.protocol.messages.features import (
    DeviceFeature,
    DeviceFeatureReply,
    DmaLoggingControl,
    DmaLoggingReport,
    FeatureDeviceState,
    FeatureMigration,
    MigDataSize,
    MigPrecopyInfoReply,
)
from vfio_migration.runtime.server.unsent import Unsent

_METHODS: Final = FEATURE_GET | FEATURE_SET
_ROWS: Final[dict[int, Feature]] = {row.number: row for row in WIRE.features}


class Features:
    """The features of one device.

    Args:
        device: The device.
        engine: What moves it.

    Attributes:
        max_data: How much data a reply may have.
        unsent: What was read of the stream of the device and did not leave.
        wants_announcements: The client asked to be notified of new initial data.
    """

    def __init__(self, device: DeviceContract, engine: Engine) -> None:
        self.max_data = LIMITS["max_data_xfer_size"].value
        self.unsent = Unsent(engine)
        self.wants_announcements = False
        # In which session new initial data is still to be announced: a reply was lost.
        self._unannounced: int | None = None
        self._device = device
        self._engine = engine
        self._values = {row.name: row.value for row in device.spec.states}
        flags = int(engine.machine.capabilities.value)
        self._flags = FeatureMigration(flags).pack()
        self._states = {
            name: FeatureDeviceState(value).pack() for name, value in self._values.items()
        }
        self._get: dict[str, Callable[[DeviceFeature], Data]] = {
            "MIGRATION": lambda _message: self._flags,
            "MIG_DEVICE_STATE": lambda _message: self._states[self._engine.state],
            "DMA_LOGGING_REPORT": self._report,
            "MIG_DATA_SIZE": self._data_size,
        }
        self._set: dict[str, Callable[[Data], Data]] = {
            "MIG_DEVICE_STATE": self._move,
            "DMA_LOGGING_START": self._start_logging,
            "DMA_LOGGING_STOP": self._stop_logging,
            "MIG_PRECOPY_INFOv2": self._want_announcements,
        }

        self._gives_back: dict[str, Callable[[Data], Lost]] = {
            "DMA_LOGGING_REPORT": self._unreport,
        }

    def answer(self, message: DeviceFeature) -> tuple[DeviceFeatureReply, Lost | None]:
        """Do what DEVICE_FEATURE asks for.

        Returns:
            The reply, and what to call if it does not leave; None if that is no loss.

        Raises:
            MalformedError: The command makes no sense, or the device has no such feature or method.
            CommandError: The device does not do it.
            EngineError: The migration table refuses a state, or an arc failed.
        """
        flags = message.flags
        probe, methods = flags & FEATURE_PROBE, flags & _METHODS
        if methods == _METHODS and not probe:
            raise _fault("feature_flags_clash", flags)
        row = _ROWS.get(flags & FEATURE_MASK)
        if row is None:
            raise _fault("feature_unknown", flags)
        if (flags & FEATURE_GET and not row.get) or (flags & FEATURE_SET and not row.set):
            raise _fault("method_unsupported", flags)
        if probe:
            return DeviceFeatureReply.echo(message), None
        if not methods:
            raise _fault("method_missing", flags)
        if flags & FEATURE_GET:
            if len(message.data) < row.get_request:
                raise _fault("size_wrong", flags)
            data = self._get[row.name](message)
            lost = self._gives_back[row.name](data) if row.forgets == "when_sent" else None
            return DeviceFeatureReply.got(message, data), lost
        # The reply repeats the command: a client that has no room for that is refused before
        # anything is done, as by Linux.
        short = message.argsz < message.layout.size + len(message.data)
        if short or len(message.data) < row.set_request:
            raise _fault("size_wrong", flags)
        return DeviceFeatureReply.echo(message, self._set[row.name](message.data)), None

    def _move(self, data: Data) -> Data:
        self._engine.set_state(_target(data))
        return data

    def _start_logging(self, data: Data) -> Data:
        asked = DmaLoggingControl.parse(data)
        ranges = [(one.iova, one.length) for one in asked.ranges]
        chosen = self._device.memory.log.start(asked.page_size, ranges)
        # What came is what goes back, but for the one thing that the device decides.
        return data if chosen == asked.page_size else replace(asked, page_size=chosen).pack()

    def _stop_logging(self, data: Data) -> Data:
        self._device.memory.log.stop()
        return data

    def _data_size(self, _message: DeviceFeature) -> Data:
        return MigDataSize(self._device.stop_copy_length() + len(self.unsent)).pack()

    def _want_announcements(self, data: Data) -> Data:
        self.wants_announcements = True
        return data

    def client_disconnected(self) -> None:
        """Forget what the client wanted, and what belongs to sessions that have ended."""
        self.wants_announcements = False
        self.unsent.drop_ended()

    def precopy_info(self) -> tuple[MigPrecopyInfoReply, Lost | None]:
        """Return how much is left to read, and what to call if the reply does not leave.

        Raises:
            CommandError: As `DeviceContract.precopy_info`.
        """
        # What did not leave was read from the device: it was counted once, and initial data only
        # falls.
        unsent, size = len(self.unsent), MigPrecopyInfoReply.layout.size
        if not self.wants_announcements:
            info = self._device.precopy_info()
            return MigPrecopyInfoReply(size, 0, info.initial, info.dirty + unsent), None
        announced, session = self._device.announced_info(), self._engine.session
        is_new = announced.reinit or (session is not None and self._unannounced == session)
        self._unannounced = None
        flags = PrecopyInfoFlags.REINIT if is_new else 0
        reply = MigPrecopyInfoReply(size, flags, announced.initial, announced.dirty + unsent)
        return reply, functools.partial(self._announce_again, session) if is_new else None

    def _announce_again(self, session: int | None, _payload: Data) -> None:
        self._unannounced = session

    def _unreport(self, data: Data) -> Lost:
        """Return what has the pages of a report be reported again."""
        report = DmaLoggingReport.parse(data)
        log = self._device.memory.log

        def lost(_payload: Data) -> None:
            log.unreport(report.iova, report.length, report.page_size, report.bitmap)

        return lost

    def _report(self, message: DeviceFeature) -> Data:
        asked = DmaLoggingReport.parse(message.data)
        # What the reply has no room for the client asks for again: it must not be forgotten.
        fixed = _ROWS[message.index].get_reply
        room = min(message.argsz - message.layout.size, self.max_data) - fixed
        log = self._device.memory.log
        bitmap = log.report(asked.iova, asked.length, asked.page_size, room=room)
        if fixed + len(bitmap) > self.max_data:
            raise CommandError(f"a bitmap of {len(bitmap)} bytes", occasion="over_bound")
        return DmaLoggingReport(asked.iova, asked.length, asked.page_size, bitmap).pack()


(WIRE_STATE,) = (row for row in WIRE.features if row.moves)


def _target(data: Data) -> int:
    return FeatureDeviceState.parse(data[: WIRE_STATE.set_request]).device_state


def _fault(occasion: Occasion, flags: int) -> MalformedError:
    return MalformedError(occasion, f"DeviceFeature: flags {flags:#x}")
