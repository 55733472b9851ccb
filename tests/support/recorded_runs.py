"""Real runs, recorded: a client and a server of ours, a device that fails as scripted.

`sweep` asks, under one capability set, for every state in every state, and lets every arc on the
way fail in both ways. What the client saw is recorded, and cut into cases that can be read, changed
and checked each by itself; what the server logged goes with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfio_migration.model import Arc, Spec
from vfio_migration.runtime import ArcError
from vfio_migration.runtime.client import Client, RefusedError
from vfio_migration.runtime.client.recording import Recording
from vfio_migration.runtime.kit.pci_device import Bar, PciDevice
from vfio_migration.runtime.server.log import LOGGER, JsonLines, log_event
from vfio_migration.runtime.server.server import Server

Line = dict[str, Any]


class Flimsy(PciDevice):
    """Has nothing to save, and fails as its script specifies."""

    name = "flimsy"
    bars = {0: Bar(4096)}  # noqa: RUF012

    def __init__(self, *about: Any, **more: Any) -> None:
        self.script: list[ArcError | None] = []
        super().__init__(*about, **more)

    def take(self, arc: Arc, session: int | None, effect: Any, /) -> None:
        fault = self.script.pop(0) if self.script else None
        if fault is not None:
            raise fault
        super().take(arc, session, effect)


@dataclass
class Run:
    """A server, a client of it, and what both wrote down."""

    spec: Spec
    word: int
    device: Flimsy
    client: Client
    recording: Recording
    stream: bytes = b""

    def bring(self, state: str, *, written: bool = True) -> None:
        """Come to a state, whatever it takes."""
        client = self.client
        client.reset()
        if not self.spec.state(state).settable:
            self.device.script = [ArcError(for_good=True)]
            self.ask("STOP")
            return
        client.set_state(state)
        if written and self.transfer(state) == "write":
            client.write_data(self.stream)

    def transfer(self, state: str) -> str:
        return self.spec.session(self.spec.state(state).session).transfer

    def ask(self, target: str) -> str | None:
        """Ask for a state; return the errno, or None."""
        try:
            self.client.set_state(target)
        except RefusedError as refused:
            return refused.errno
        return None

    def read(self, size: int) -> bytes:
        found: list[bytes] = []
        self.client.read_data(size, lambda data: found.append(bytes(data)))
        return b"".join(found)

    def look(self) -> str:
        """Ask for the state, and do with migration data what can be done there, and what cannot."""
        state = self.client.state()
        with contextlib.suppress(RefusedError):
            self.read(1 << 16)
        with contextlib.suppress(RefusedError):
            self.read(100)
        with contextlib.suppress(RefusedError):
            self.client.write_data(b"" if self.transfer(state) == "write" else b"x")
        return state


@dataclass
class Log:
    """What a server logs, as lines of JSON."""

    lines: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Log]:
        handler = logging.Handler()
        handler.setFormatter(JsonLines())
        handler.emit = lambda record: self.lines.append(handler.format(record))  # type: ignore[method-assign]
        level, passes = LOGGER.level, LOGGER.propagate
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        try:
            yield self
        finally:
            LOGGER.removeHandler(handler)
            LOGGER.setLevel(level)
            LOGGER.propagate = passes


@contextlib.contextmanager
def running(
    spec: Spec, word: int, path: Path, *, name: str = "flimsy", device: Flimsy | None = None
) -> Iterator[Run]:
    """Serve a device to a client, recorded."""
    made = Flimsy(spec=spec, capabilities=word) if device is None else device
    ours, theirs = socket.socketpair()
    with Server(made) as server:
        about = {"device": name, "flags": made.capabilities, "spec": spec.name}
        log_event("serving", **about, state=server.engine.state)
        thread = threading.Thread(target=server.serve_client, args=(theirs,))
        thread.start()
        try:
            with Recording(path, spec, program="tests") as recording:
                observers = [recording.watch(name)]
                with Client(ours, spec=spec, observers=observers) as client:
                    client.capabilities()
                    run = Run(spec, word, made, client, recording)
                    client.set_state("STOP_COPY")
                    run.stream = run.read(1 << 20)
                    yield run
        finally:
            thread.join(60)
            log_event("counters", **server.counters.snapshot())
            log_event("stopped", state=server.engine.state)
            made.close()
    assert recording.error is None


def sweep(spec: Spec, word: int, path: Path) -> Log:
    """Run every request in every state, with every failure; return what the server logged."""
    machine = spec.machine(word)
    log = Log()
    with log.kept(), running(spec, word, path) as run:
        for state in (row.name for row in machine.states):
            for target in (row.name for row in spec.states):
                route = machine.route(state, target)
                faults: list[tuple[int, bool] | None] = [None]
                faults += [(at, good) for at in range(len(route.arcs)) for good in (False, True)]
                for fault in faults:
                    run.recording.note(None, "case", title=f"{state} to {target}, {fault}")
                    _case(run, state, target, fault)
                if run.transfer(state) == "write":
                    run.recording.note(None, "case", title=f"{state} to {target}, unfed")
                    run.bring(state, written=False)
                    run.ask(target)
                    run.look()
        run.device.script = []
    return log


def _case(run: Run, state: str, target: str, fault: tuple[int, bool] | None) -> None:
    run.bring(state)
    if run.client.state() != state:
        raise AssertionError(f"it does not come to {state}")
    run.device.script = []
    if fault is not None:
        at, for_good = fault
        run.device.script = [*[None] * at, ArcError(errno="ENOSPC", for_good=for_good)]
    errno = run.ask(target)
    run.device.script = []
    refused = run.spec.machine(run.word).route(state, target).refused
    assert (errno is not None) == (fault is not None or refused is not None), (state, target, fault)
    run.look()


def lines_of(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def cases(path: Path) -> tuple[list[Line], list[list[Line]]]:
    """Return what comes before all cases (without the header), and the lines of each case."""
    found: list[list[Line]] = [[]]
    for line in lines_of(path)[1:]:
        if line["what"] == "note" and line["event"] == "case":
            found.append([])
        else:
            found[-1].append(line)
    return found[0], found[1:]
