"""How often a migration changes from one of our modules to another, at its coordinator."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from vfio_migration.model import load
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import Coordinator, Event
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server import Server
from vfio_migration.runtime.transport.listening import listening

PACKAGE = "vfio_migration."
MAX_CHANGES = 2_750
"""How often a function is called in another module than the function before it, in the thread that
migrates one device live, with a journal; the tables are read before, once for a process."""


@contextlib.contextmanager
def served(path: Path) -> Iterator[str]:
    with listening(path) as sock, Server(Edu()) as server:
        thread = threading.Thread(target=server.serve, args=(sock,))
        thread.start()
        try:
            yield str(path)
        finally:
            server.stop()
            thread.join()


def modules_called(coordinator: Coordinator) -> list[str]:
    """Return in which of our modules each function is that this thread calls for a migration."""
    called: list[str] = []

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        module = str(frame.f_globals.get("__name__"))
        if event == "call" and module.startswith(PACKAGE):
            called.append(module.removeprefix(PACKAGE))

    sys.setprofile(profile)
    try:
        coordinator.run()
    finally:
        sys.setprofile(None)
    return called


def test_a_migration_changes_from_module_to_module_within_a_bound(tmp_path: Path) -> None:
    plans = default_plans(load())
    events: list[Event] = []
    with served(tmp_path / "a") as source, served(tmp_path / "b") as destination:
        coordinator = Coordinator(
            [(source, destination)], plans=plans, report=events.append, journal=tmp_path / "journal"
        )
        modules = modules_called(coordinator)
    assert events[-1].name == "summary"
    assert {"runtime.coordinator.migration", "runtime.client.core"} <= set(modules)
    changes = sum(one != other for one, other in itertools.pairwise(modules))
    assert changes <= MAX_CHANGES
