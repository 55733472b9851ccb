"""The coordinator in a program of one's own: moves a device, and prints what it takes.

    vfio-migration serve a.sock &
    vfio-migration serve b.sock &
    python examples/embedded_coordinator.py a.sock b.sock

A program that owns the guest gives `Hooks` too: hold its processors, let them go on.
"""

import signal
import sys

from vfio_migration import Coordinator
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    Event,
    MigrationFailedError,
    Settings,
)
from vfio_migration.runtime.coordinator.journal import beside


def report(event: Event) -> None:
    """Print the phases; there are other events, `progress` among them."""
    if event.name == "phase":
        print(f"{event.fields['side']}: {event.fields['phase']}")


def main(source: str, destination: str) -> int:
    """Move the device; 0 if the destination runs with its whole state."""
    coordinator = Coordinator(
        [(source, destination)],
        settings=Settings(downtime=0.05, timeout_s=10),
        report=report,
        journal=beside(source),  # with it `vfio-migration recover` finishes what was killed
    )
    signal.signal(signal.SIGINT, lambda *_: coordinator.cancel())
    try:
        summary = coordinator.run()
    except CannotMigrateError as error:
        print(f"nothing was begun: {error}", file=sys.stderr)
        return 1
    except MigrationFailedError as error:
        print(f"{error}\nwho runs now: {error.outcome}", file=sys.stderr)
        return 1
    print(f"{summary.bytes} bytes; it was stopped for {summary.downtime * 1000:.0f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
