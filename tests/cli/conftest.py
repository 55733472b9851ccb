"""Fixtures of the tests of commands that speak to servers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.migration_harness import FaultyMemory, Harness

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)

from cli_support import Program, Ran, Served  # noqa: E402 - it is beside this file


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """Devices in threads; their sockets have short names, for messages to be compared."""
    monkeypatch.chdir(tmp_path)
    harness = Harness()
    yield harness
    harness.close()


@pytest.fixture
def pair(harness: Harness) -> Harness:
    """A device and where it is moved to."""
    harness.serve("s0")
    harness.serve("d0")
    return harness


@pytest.fixture
def two(pair: Harness) -> Harness:
    """Two devices, of two kinds."""
    pair.serve("s1", FaultyMemory, rate=1 << 20)
    pair.serve("d1", FaultyMemory)
    return pair


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command here and now; return what it said."""
    from vfio_migration.cli.main import main

    root = logging.getLogger()

    def cli(*arguments: object) -> Ran:
        before, level = root.handlers[:], root.level
        try:
            status = main([str(one) for one in arguments])
        except SystemExit as stop:
            status = stop.code
        finally:  # `serve` logs its own way
            root.handlers[:] = before
            root.setLevel(level)
        reported = capfd.readouterr()
        return Ran(status, reported.out, reported.err)

    return cli


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Begin a command in a process of its own."""
    begun: list[Program] = []

    def start(*arguments: object, **options: object) -> Program:
        place = tmp_path / f"program-{len(begun)}"
        begun.append(Program([str(one) for one in arguments], place, **options))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serve a device in a process of its own, which can be killed."""
    begun: list[Served] = []

    def serve(name: str, device: str) -> Served:
        begun.append(Served(tmp_path / name, device))
        return begun[-1]

    yield serve
    for one in begun:
        one.kill()
