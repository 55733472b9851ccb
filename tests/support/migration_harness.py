"""Devices served by threads of the test, which fail as scripted; migrations between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vfio_migration.model import load
from vfio_migration.runtime import ArcError, Record
from vfio_migration.runtime.coordinator import Coordinator, Event, MigrationFailedError, Settings
from vfio_migration.runtime.coordinator.finish import Finished
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.kit.devices import Edu, MemoryDevice
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.transport.listening import listening

SPEC = load()
MARK = b"the state of the source" * 20
ALWAYS = 1 << 30

Arc = tuple[str, str]


class Faulty:
    """What fails of a device. A mixin, to stand before the device.

    Attributes:
        faults: Which arcs fail: how many times, and whether for good.
        mangle: What becomes of each piece of a stream that is written; pieces, to be taken in.
        gate: For each arc, what is waited for before it is taken.
    """

    faults: dict[Arc, tuple[int, bool]]
    mangle: Callable[[bytes], Sequence[bytes]] | None = None
    gate: dict[Arc, threading.Event]

    def take(self, arc, session, effect) -> None:
        key = (arc.from_, arc.to)
        if key in self.gate:
            assert self.gate[key].wait(60)
        times, for_good = self.faults.get(key, (0, False))
        if times:
            self.faults[key] = (times - 1, for_good)
            raise ArcError("scripted", for_good=for_good)
        super().take(arc, session, effect)

    def stream_write(self, data) -> None:
        for piece in [data] if self.mangle is None else self.mangle(bytes(data)):
            super().stream_write(piece)


class FaultyEdu(Faulty, Edu):
    pass


class FaultyMemory(Faulty, MemoryDevice):
    pass


class Host:
    """A device, and the thread that serves it."""

    def __init__(self, name: str, device, arcs: list[tuple[str, str, str]]) -> None:
        self.name, self.device = name, device
        self._arcs = arcs
        self.server = Server(device, observers=[self._observe])
        ready = threading.Event()

        def run() -> None:
            with listening(Path(name)) as sock:
                ready.set()
                self.server.serve(sock)

        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()
        assert ready.wait(60)

    def _observe(self, record: Record) -> None:
        if record.kind == "arc" and record.phase == "completed":
            assert record.arc is not None
            self._arcs.append((self.name, record.arc.from_, record.arc.to))
        elif record.kind == "reset" and record.phase == "completed":
            self._arcs.append((self.name, record.before.state, "reset"))

    @property
    def state(self) -> str:
        return self.server.engine.state

    @property
    def runs(self) -> bool:
        return SPEC.permits(self.state, "change_state")

    @property
    def whole(self) -> bool:
        """Whether it holds what a source was given."""
        name, at = self._place
        return bytes(self.device.block(name).view[at : at + len(MARK)]) == MARK

    @property
    def _place(self) -> tuple[str, int]:
        # What a memory changes by itself is at the beginning of its pages.
        return ("bar0.0", 0) if isinstance(self.device, Edu) else ("bar2", 64)

    def fill(self) -> None:
        """Give it the state that must not be lost."""
        name, at = self._place
        self.device.block(name).write(at, MARK)

    def stop(self) -> None:
        """Serve it no more. The device keeps its state."""
        self.server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"{self.name} does not end"
        self.server.close()


class Harness:
    """Devices by name: `s0` and `d0` are the two ends of the first, and so on."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.arcs: list[tuple[str, str, str]] = []
        self.events: list[Event] = []

    def serve(
        self,
        name: str,
        kind: type[Any] = FaultyEdu,
        *,
        faults: dict[Arc, tuple[int, bool]] | None = None,
        mangle: Callable[[bytes], Sequence[bytes]] | None = None,
        gate: dict[Arc, threading.Event] | None = None,
        **options: Any,
    ) -> Host:
        """Serve a device; that of a source is filled."""
        if issubclass(kind, MemoryDevice):
            options = {"size": 1 << 16, **options}
        device = kind(**options)
        if isinstance(device, Faulty):
            device.faults, device.mangle, device.gate = dict(faults or {}), mangle, gate or {}
        host = self.hosts[name] = Host(name, device, self.arcs)
        if name[0] == "s":
            host.fill()
        return host

    @property
    def pairs(self) -> list[tuple[str, str]]:
        sources = sorted(name for name in self.hosts if name[0] == "s")
        return [(name, f"d{name[1:]}") for name in sources]

    @property
    def running(self) -> set[str]:
        return {name for name, host in self.hosts.items() if host.runs}

    @property
    def states(self) -> dict[str, str]:
        return {name: host.state for name, host in self.hosts.items()}

    def coordinator(self, *, hooks=None, observers=(), journal=True, **settings) -> Coordinator:
        """Make a coordinator of all devices."""
        settings = {"timeout_s": 20.0, "downtime": 5.0, **settings}
        return Coordinator(
            self.pairs,
            spec=SPEC,
            settings=Settings(**settings),
            hooks=hooks,
            report=self.events.append,
            observers=observers,
            journal=beside(self.pairs[0][0]) if journal is True else journal,
        )

    def fail(self, **options) -> MigrationFailedError:
        """Migrate, which must be begun and not succeed."""
        try:
            self.coordinator(**options).run()
        except MigrationFailedError as failure:
            return failure
        raise AssertionError("it succeeded")

    def recover(self, **options) -> Finished:
        """Recover."""
        options = {"timeout_s": 20.0, "spec": SPEC, **options}
        return recover(self.pairs, report=self.events.append, **options)

    def close(self) -> None:
        for host in self.hosts.values():
            host.stop()
            host.device.close()
