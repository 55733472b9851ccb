"""The live engine: runs the table on a device.

`Engine(spec, capabilities, device)` takes requests, steps through the arcs that the table selects
and calls the device for each. Every fact about migration comes from the table; nothing here knows
the name of a state. Only `vfio_migration.model` and the standard library are imported.

    >>> from vfio_migration.model import load
    >>> from vfio_migration.runtime import Engine, NullDevice
    >>> engine = Engine(load(), "STOP_COPY", NullDevice())
    >>> engine.set_state("STOP_COPY")
    Situation(state='STOP_COPY', session=1)
"""

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
