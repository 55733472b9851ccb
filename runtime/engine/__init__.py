"""The live engine: runs the arcs that the table selects and calls the device for each."""

from vfio_migration.runtime.engine.callbacks import Device, DisconnectingDevice, NullDevice
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.engine.errors import (
    ANSWERS,
    Answer,
    ArcError,
    DeviceFailedError,
    DisconnectFailedError,
    EngineError,
    Fault,
    ReenteredError,
    RequestFailedError,
    RequestRefusedError,
    ResetFailedError,
    answer_to,
)
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.engine.recorder import Recorder
from vfio_migration.runtime.engine.records import Observer, Record

__all__ = [
    "ANSWERS",
    "Answer",
    "ArcError",
    "Device",
    "DeviceFailedError",
    "DisconnectFailedError",
    "DisconnectingDevice",
    "Engine",
    "EngineError",
    "Fault",
    "NullDevice",
    "Observer",
    "Record",
    "Recorder",
    "ReenteredError",
    "RequestFailedError",
    "RequestRefusedError",
    "ResetFailedError",
    "Situation",
    "answer_to",
]
