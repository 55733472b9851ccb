"""Servers in processes of their own, forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from vfio_migration.runtime.client import Client, PeerDisconnectedError

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["support.forked_servers"])


def _serve(arguments: Sequence[str], log: Path) -> None:
    from vfio_migration.cli.main import main

    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(fd, 2)
    os.close(fd)
    raise SystemExit(main(["serve", *arguments]))


def serve(path: Path, device: str, flags: str) -> BaseProcess:
    """Serve a device; its log, in JSON, is beside the socket."""
    words = [str(path), "--device", device, "--flags", flags, "--log-format", "json"]
    process = _PROCESSES.Process(target=_serve, args=(words, path.with_suffix(".log")))
    process.start()
    return process


@contextlib.contextmanager
def servers(folder: Path, devices: Sequence[tuple[str, str, str]]) -> Iterator[list[Path]]:
    """Serve devices, each given as a name, a `--device` and `--flags`; yield their sockets."""
    paths = [folder / name for name, _, _ in devices]
    running: list[BaseProcess] = []
    try:
        for path, (_, device, flags) in zip(paths, devices, strict=True):
            running.append(serve(path, device, flags))
        for path in paths:
            wait_for(path)
        yield paths
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(60)
            assert process.exitcode == 0, f"a server ended with {process.exitcode}"
            process.close()


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until somebody serves there."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(PeerDisconnectedError), Client(path) as client:
            client.state()
            return
        assert time.monotonic() < until, f"{path}: nobody serves there"
        time.sleep(0.01)
