"""docs/client.md: its code runs, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

from client_support import no_leak, until

from vfio_migration.runtime import client
from vfio_migration.runtime.client import calls
from vfio_migration.runtime.client.asynchronous import AsyncClient

PAGE = (Path(__file__).parents[3] / "docs" / "client.md").read_text("utf-8")


def test_its_code_runs() -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 9
    with no_leak():
        for block in blocks:
            exec(compile(block, "docs/client.md", "exec"), names)
        path = names["path"]
        until(lambda: not path.exists())  # its thread has seen that it is to stop
        names["memory"].close()
        names["server"].close()
        names["server"].device.close()
        path.parent.rmdir()
        names.clear()


def test_what_it_names_is_there() -> None:
    for name in re.findall(r"`client\.(\w+)`", PAGE):
        assert hasattr(client.Client, name) or name == "pid", name
    for name in re.findall(r"`(?:calls\.)(\w+)`", PAGE):
        assert hasattr(calls, name), name
    for name in (
        "RefusedError",
        "PeerDisconnectedError",
        "PeerProtocolError",
        "TimedOutError",
        "AddressSpace",
        "Reachable",
    ):
        assert f"`{name}" in PAGE
        assert hasattr(client, name)
    assert hasattr(AsyncClient, "begin")


def test_what_is_assumed_is_numbered() -> None:
    numbers = re.findall(r"^(\d+)\. ", PAGE, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
