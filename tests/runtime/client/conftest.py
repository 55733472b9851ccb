"""Puts `client_support` where these tests can import it; clients of both kinds, servers of both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)

import client_support  # noqa: E402


@pytest.fixture(params=["sync", "async"])
def kind(request):
    """A client: one that waits, and one for asyncio that is driven as if it did."""
    return {"sync": client_support.Client, "async": client_support.Looped}[request.param]


@pytest.fixture
def foreign(kind):
    """A client of a server that a test has written."""
    made = []

    def foreign(script, **options):
        scene = client_support.Scene(script)
        made.append(scene)
        client = kind(scene.sock, **{"timeout_s": 10.0, **options})
        made.append(client)
        return client

    with client_support.no_leak():
        yield foreign
        for one in reversed(made):
            one.close()


@pytest.fixture
def serve(tmp_path):
    """Serve a device; without one, an edu. Nothing is left of it in the end."""
    running = []

    def serve(device=None, **options):
        path = tmp_path / f"{len(running)}.sock"
        served = client_support.Served(device, path, **options)
        running.append(served)
        return served

    with client_support.no_leak():
        yield serve
        for served in running:
            served.stop()
