"""The VFIO v2 device-migration state machine: one table, proved, drawn and run.

What most people need first can be imported from here; each name is loaded when it is asked for.

    >>> from vfio_migration import Engine, NullDevice, load
    >>> spec = load()
    >>> print(spec.machine("STOP_COPY").route("RUNNING", "RESUMING"))
    RUNNING -> STOP -> RESUMING
    >>> Engine(spec, "STOP_COPY", NullDevice()).set_state("STOP_COPY")
    Situation(state='STOP_COPY', session=1)

========================  =============================================================
Name                      What it is
========================  =============================================================
`load`                    reads a table; the built-in one if none is named
`Spec`, `Machine`         the table, and the table for one capability set
`SpecError`               what is wrong with a table
`Engine`                  the live state machine; calls a `Device`, say a `NullDevice`
`PciDevice`               to derive a whole PCI device from, which migrates
`Server`, `Client`        the two ends of a vfio-user socket
`Coordinator`             moves the devices of one set of servers to another
========================  =============================================================

The rest, by what it is for:

- `vfio_migration.model`: the table, its typed form, routes; `Trace`; plans for groups; the wire
- `vfio_migration.runtime.engine`: the engine, its callbacks, errors and records
- `vfio_migration.runtime.kit`: to write a device; `kit.devices` has two
- `vfio_migration.runtime.testing`: a test suite for a device of your own (extra "testing")
- `vfio_migration.runtime.server`: the server; `server.async_server` is the one for asyncio
- `vfio_migration.runtime.client`: the client; `client.asynchronous` is the one for asyncio
- `vfio_migration.runtime.coordinator`: live migration; `coordinator.save`, `coordinator.recover`
- `vfio_migration.runtime.conform`: a server of anybody's, held against the tables
- `vfio_migration.verifier`: the prover (extra "verify")
- `vfio_migration.diagrams`: pictures and tables (extra "diagrams")
- `vfio_migration.generators`: the engine as source, in C, Rust and Python
- `vfio_migration.cli`: the command; `python -m vfio_migration` runs it
"""

# What `typing` is imported for elsewhere: type checkers take this name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from vfio_migration.model import Machine, Spec, SpecError, load
    from vfio_migration.runtime.client import Client
    from vfio_migration.runtime.coordinator import Coordinator
    from vfio_migration.runtime.engine import Device, Engine, NullDevice
    from vfio_migration.runtime.kit import PciDevice
    from vfio_migration.runtime.server import Server

    __version__: str

__all__ = [
    "Client",
    "Coordinator",
    "Device",
    "Engine",
    "Machine",
    "NullDevice",
    "PciDevice",
    "Server",
    "Spec",
    "SpecError",
    "__version__",
    "load",
]

_PLACES = {
    "model": ("Machine", "Spec", "SpecError", "load"),
    "runtime.client": ("Client",),
    "runtime.coordinator": ("Coordinator",),
    "runtime.engine": ("Device", "Engine", "NullDevice"),
    "runtime.kit": ("PciDevice",),
    "runtime.server": ("Server",),
}

if not TYPE_CHECKING:  # so that a type checker takes a misspelt name for an error

    def __getattr__(name: str) -> object:
        """Import what a name stands for when it is first asked for (PEP 562)."""
        import importlib

        if name == "__version__":
            from importlib import metadata

            value: object = metadata.version("vfio-migration")
        else:
            place = next((place for place, names in _PLACES.items() if name in names), None)
            if place is None:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
            value = getattr(importlib.import_module(f"{__name__}.{place}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
