"""Through how many of our modules a SET_STATE goes, from the socket to the device and back."""

from __future__ import annotations

import itertools
import socket
import struct
import sys
from types import FrameType

from support import raw_client as raw
from support.raw_client import SET, Client
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server import Server
from vfio_migration.runtime.server.server import ClientLoop

PACKAGE = "vfio_migration."
MIG_DEVICE_STATE = 2
RUNNING, RUNNING_P2P = 2, 5
MAX_MODULES = 10
"""Channel, connection, the messages of the command, server (its loop and its sockets), session,
commands, features, engine, the observer that logs and counts, and the lifecycle of the device."""
MAX_CHANGES = 30
"""How often a function is called in another module than the function before it."""


def modules_called(loop: ClientLoop) -> list[str]:
    """Return in which of our modules each function is, from the channel that reads to `send`."""
    called: list[str] = []
    has_sent = False

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal has_sent
        module = str(frame.f_globals.get("__name__"))
        if event == "call" and module.startswith(PACKAGE) and not has_sent:
            called.append(module.removeprefix(PACKAGE))
        has_sent = has_sent or (event, getattr(argument, "__name__", "")) == ("c_call", "send")

    sys.setprofile(profile)
    try:
        while not has_sent:
            loop.turn(wait=False)
    finally:
        sys.setprofile(None)
    return called[called.index("runtime.transport.channel") :]


def test_a_command_that_moves_the_device_goes_through_few_modules() -> None:
    ours, theirs = socket.socketpair()
    client = Client(sock=theirs, version=False)
    with Server(Edu()) as server, server.client_loop(ours) as loop, client:
        version = client.send(raw.VERSION, struct.pack("=HH", 0, 0))
        modules_called(loop)
        client.reply(version)
        for state in (RUNNING_P2P, RUNNING, RUNNING_P2P):
            move = struct.pack("=IIIi", 16, SET | MIG_DEVICE_STATE, state, -1)
            command = client.send(raw.FEATURE, move)
            modules = modules_called(loop)
            client.reply(command)
    assert {"runtime.server.session", "runtime.engine.engine"} <= set(modules)
    assert len(set(modules)) <= MAX_MODULES, sorted(set(modules))
    changes = sum(one != other for one, other in itertools.pairwise(modules))
    assert changes <= MAX_CHANGES, modules
