"""The live engine: runs the arcs that the table selects and calls the device for each."""

from vfio_migration.runtime.engine.callbacks import Device, DisconnectingDevice, NullDevice
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.engine.errors import (
    ANSWERS,
    Answer,
    ArcError,
    DeviceFailed,
    DisconnectFailed,
    EngineError,
    Fault,
    Reentered,
    RequestFailed,
    RequestRefused,
    ResetFailed,
    answer_to,
)
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.engine.records import Observer, Record, Recorder

__all__ = [
    "ANSWERS",
    "Answer",
    "ArcError",
    "Device",
    "DeviceFailed",
    "DisconnectFailed",
    "DisconnectingDevice",
    "Engine",
    "EngineError",
    "Fault",
    "NullDevice",
    "Observer",
    "Record",
    "Recorder",
    "Reentered",
    "RequestFailed",
    "RequestRefused",
    "ResetFailed",
    "Situation",
    "answer_to",
]
