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

from vfio_migration.runtime import engine
from vfio_migration.runtime.engine import *  # noqa: F403 - the list of names is there, once

__all__: list[str] = []
__all__ += engine.__all__
