"""The last part of `make demo`: two devices that write into each other are moved while they run."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

DEVICES = ("edu", "memory,size=256M")
RATE = 48 << 20
"""How many bytes of the memory are changed per second."""
_WARM_UP = 0.3
_TIMEOUT_S = 30.0


def migrate(record: Path) -> int:
    """Migrate under load, and see that all has arrived; 0 if it has."""
    with contextlib.ExitStack() as stack:
        record = record.absolute()
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        # So that the sockets have names that are good to read.
        stack.enter_context(contextlib.chdir(folder))
        sockets = stack.enter_context(_served(Path()))
        return _migrate(sockets[: len(DEVICES)], sockets[len(DEVICES) :], record)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[list[Path]]:
    """Serve each device twice, in a process of its own."""
    names = [device.partition(",")[0] for device in DEVICES]
    wanted = [
        (folder / f"{side}-{name}.sock", device)
        for side in ("source", "destination")
        for name, device in zip(names, DEVICES, strict=True)
    ]
    running = []
    try:
        for path, device in wanted:
            words = [sys.executable, "-m", "vfio_migration.cli.main", "serve", str(path)]
            with path.with_suffix(".log").open("w") as log:
                words += ["--device", device]
                running.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=log))
        for path, _ in wanted:
            _wait(path)
        yield [path for path, _ in wanted]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(_TIMEOUT_S)


def _wait(path: Path) -> None:
    from vfio_migration.runtime.client import Client, PeerDisconnectedError

    until = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < until:
        with contextlib.suppress(PeerDisconnectedError), Client(path) as client:
            client.state()
            return
        time.sleep(0.01)
    raise SystemExit(f"{path}: the server did not come up; {path.with_suffix('.log')} states why")


def _migrate(sources: Sequence[Path], destinations: Sequence[Path], record: Path) -> int:
    from workload import Workload

    from vfio_migration.cli import event_printer
    from vfio_migration.runtime.client import Client
    from vfio_migration.runtime.client.recording import Recording
    from vfio_migration.runtime.coordinator import Coordinator, Settings
    from vfio_migration.runtime.coordinator.journal import beside

    with contextlib.ExitStack() as stack:
        recording = stack.enter_context(Recording(record))
        for source, destination in zip(sources, destinations, strict=True):
            recording.pair(source.stem, destination.stem)
        clients = {
            str(path): stack.enter_context(Client(path, name=path.stem, observers=[recording]))
            for path in (*sources, *destinations)
        }
        here = [clients[str(path)] for path in sources]
        there = [clients[str(path)] for path in destinations]
        work = Workload(here, there, rate=RATE)
        arguments = argparse.Namespace(json=False, quiet=False)
        with work.running():
            time.sleep(_WARM_UP)
            with event_printer.printer(arguments) as printer:
                Coordinator(
                    list(zip(sources, destinations, strict=True)),
                    settings=Settings(downtime=0.05),
                    hooks=work.hooks,
                    clients=clients,
                    journal=beside(str(sources[0])),
                    report=event_printer.reporter(printer, arguments),
                ).run()
            time.sleep(_WARM_UP)
        for client in there:
            client.set_state("STOP")
        print("\n== check ==\n")
        return _check(work, there)


def _check(work: object, there: Sequence[object]) -> int:
    from workload import Workload

    from vfio_migration.runtime.client import Client
    from vfio_migration.runtime.kit.devices import memory

    assert isinstance(work, Workload)
    client = there[-1]
    assert isinstance(client, Client)
    changes, seed, size = (
        int.from_bytes(client.region_read(0, register, 8), "little")
        for register in (memory.REG_CHANGES, memory.REG_SEED, memory.REG_SIZE)
    )
    wanted = memoryview(memory.contents(seed, size, changes))
    step = client.transfer
    same = all(
        client.region_read(2, at, step) == wanted[at : at + step] for at in range(0, size, step)
    )
    lost = work.check("destination")
    print(
        f"memory: {changes:,} changes, and every byte is {'' if same else 'NOT '}what they make it"
    )
    print(f"peers: {work.transfers:,} writes by the edu, stamps by the memory, ", end="")
    print("none lost, none done twice" if not lost else "; ".join(lost))
    return 0 if same and not lost else 1
