"""A server that sends descriptors with each reply: no command and no client waits for them.

Each command is a process of its own, because one that has such a descriptor may never end.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import environment
from support.hostile_relay import KINDS
from support.samples import sample
from support.server_process import ServerProcess

COMMAND = [sys.executable, "-m", "vfio_migration.cli.main"]
ENDS_WITHIN_S = 60
"""Far above what any of them takes, far below how long the descriptors would keep one."""

CLIENTS = """
import asyncio, sys
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.client.asynchronous import AsyncClient
from vfio_migration.runtime.protocol.messages.version import Limits

with Client(sys.argv[1], limits=Limits(twin_socket=True)) as client:
    for index in range(client.info().num_regions):
        client.region_info(index).close()
    client.region_io_fds(0).close()
    print(client.state())

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        for index in range((await client.info()).num_regions):
            (await client.region_info(index)).close()
        print(await client.state())

asyncio.run(main())
"""


@contextlib.contextmanager
def relayed(folder: Path, server: str, kind: str, *, more: int = 0) -> Iterator[Path]:
    """Relay a server of the folder; yield where. It has sent descriptors at the end."""
    path = folder / f"{server.replace('/', '-')}-relay"
    arguments = path, folder / server, kind, str(more), path.with_suffix(".files")
    path.with_suffix(".files").mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "support.hostile_relay", *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip(f"{kind} cannot be made here")
        yield path
        sent, _ = process.communicate(timeout=ENDS_WITHIN_S)
    assert int(sent) > 0


@pytest.fixture(params=sample(KINDS, 4))
def hostile(request, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with two servers, and which kind is sent."""
    for name in ("source", "destination"):
        (tmp_path / name).mkdir()
    with (
        ServerProcess(tmp_path / "source"),
        ServerProcess(tmp_path / "destination"),
    ):
        yield tmp_path, request.param


def ran(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program; one that does not end in time fails the test, and is not waited for."""
    with subprocess.Popen(
        [str(one) for one in arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert "Traceback" not in out, out
    return subprocess.CompletedProcess(process.args, process.returncode, out)


@pytest.mark.exhaustive
def test_a_device_is_migrated_between_servers_that_send_descriptors_with_each_reply(hostile):
    folder, kind = hostile
    with (
        relayed(folder, "source/s", kind) as source,
        relayed(folder, "destination/s", kind) as destination,
    ):
        found = ran(*COMMAND, "migrate", source, destination, cwd=folder)
        assert found.returncode == 0, found.stdout


@pytest.mark.exhaustive
def test_a_device_is_saved_and_asked_for_its_state(hostile):
    folder, kind = hostile
    with relayed(folder, "source/s", kind) as source:
        found = ran(*COMMAND, "status", "--connect", source, cwd=folder)
        assert (found.returncode, "RUNNING" in found.stdout) == (0, True), found.stdout
        found = ran(*COMMAND, "save", source, "saved", cwd=folder)
        assert found.returncode == 0, found.stdout


@pytest.mark.exhaustive
def test_both_clients_are_served(hostile):
    folder, kind = hostile
    with relayed(folder, "source/s", kind) as source:
        found = ran(sys.executable, "-c", CLIENTS, source, cwd=folder)
        assert (found.returncode, found.stdout) == (0, "RUNNING\nRUNNING\n")


@pytest.mark.exhaustive
def test_more_descriptors_than_agreed_on_end_the_connection(hostile):
    folder, kind = hostile
    with relayed(folder, "source/s", kind, more=100) as source:
        found = ran(*COMMAND, "save", source, "saved", cwd=folder)
        assert found.returncode != 0
        assert "descriptors" in found.stdout, found.stdout


def test_a_status_that_comes_with_descriptors_is_none(hostile):
    folder, kind = hostile
    with relayed(folder, "source/s.status", kind) as relay:
        (folder / "t").symlink_to(folder / "source" / "s")
        (folder / "t.status").symlink_to(relay)
        found = ran(*COMMAND, "status", "t", cwd=folder)
        assert found.returncode == 3, found.stdout
        assert "no server of this package" in found.stdout
