"""Captures of the wire, as the relay of the interop tests makes them."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

Line = dict[str, Any]
RELAY = Path(__file__).parents[1] / "interop/record.py"


def relay() -> ModuleType:
    """Return tests/interop/record.py, which is a program of its own."""
    about = importlib.util.spec_from_file_location("relay_of_the_interop_tests", RELAY)
    assert about is not None
    assert about.loader is not None
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


@contextmanager
def relaying(server: str, out: Path) -> Iterator[socket.socket]:
    """Relay one connection to a server; yield the client's end. It is over when that is closed."""
    module = relay()
    ours, theirs = socket.socketpair()
    with out.open("w") as file, socket.socket(socket.AF_UNIX) as device, theirs:
        device.connect(server)
        recorder = module.Recorder(file)
        ways = [
            threading.Thread(target=recorder.carry, args=about)
            for about in (("server", device, theirs), ("client", theirs, device))
        ]
        for way in ways:
            way.start()
        try:
            yield ours
        finally:
            ours.close()
            for way in ways:
                way.join()


def capture_of(path: Path, *messages: tuple[str, bytes]) -> str:
    """Write a capture of these messages; return its path."""
    lines = [{"from": who, "descriptors": 0, "message": data.hex()} for who, data in messages]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return str(path)
