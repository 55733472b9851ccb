"""Each kind of descriptor by itself: made, used by a server, changed meanwhile, and SIGTERM.

`make test` takes a few of the catalogue, `make exhaustive` some more, `make hostile` all of it.
"""

from __future__ import annotations

import os
import select
import struct
from contextlib import suppress

import descriptor_changes
import pytest
from descriptor_catalogue import CATALOGUE, Row, Use
from descriptor_changes import FOR
from descriptor_maker import DescriptorMaker, check_missing
from hostile_server import Watched

from support import raw_client as raw
from support.edu_client import BUFFER, FLAGS_OFF, FLAGS_ON
from support.raw_client import Client
from support.samples import sample, sampled
from vfio_migration.model import Spec

WHOLE = "VFIO_MIGRATION_HOSTILE" in os.environ
STRIDE = 1 if WHOLE else 9
ROWS = [
    row.name for at, row in enumerate(CATALOGUE) if at % STRIDE == 0 or (row.silent and not WHOLE)
]
STATE = "PRE_COPY"
"""The device still runs in it, and has a data session."""
TURNS = 50


def use(client: Client, row: Row, fd: int) -> None:
    """Send it as memory, for an interrupt, and with a command that has no use for it."""
    for flags in (3, 7, 11):
        client.send(raw.DMA_MAP, struct.pack("=IIQQQ", 32, flags, 0, 0, 4096), fds=(fd,))
    client.send(raw.SET_IRQS, struct.pack("=IIIII", 20, FLAGS_ON, 0, 0, 1), fds=(fd,))
    client.send(raw.GET_INFO, struct.pack("=IIII", 16, 0, 0, 0), fds=(fd, fd))


def access(client: Client) -> None:
    """Have the device write to the memory and raise the interrupt; no reply is waited for."""
    for register, value in ((0x80, BUFFER), (0x88, 0), (0x90, 4096), (0x98, 3)):
        client.write(0, register, struct.pack("<Q", value), posted=True)
    body = struct.pack("=IIIII", 20, FLAGS_OFF, 0, 0, 1)
    client.send(raw.SET_IRQS, body, flags=0x10)


def let_go(client: Client) -> None:
    """Read what there is to be read, so that nothing of the server waits for this client."""
    with suppress(EOFError, OSError):
        while select.select([client.sock], [], [], 0)[0]:
            if not client.sock.recv(1 << 16):
                return


@sampled(4)
@pytest.mark.parametrize("name", sample(ROWS, 1 if WHOLE else 3))
def test_sigterm_ends_a_server_in_time_whatever_descriptor_its_client_changes(
    name: str, tmp_path, spec: Spec
) -> None:
    row = next(row for row in CATALOGUE if row.name == name)
    changes = [*dict.fromkeys(FOR[row.use])][: None if WHOLE else 2]
    with Watched("edu", tmp_path) as watched, DescriptorMaker(tmp_path / "hostile", [name]) as shop:
        check_missing(shop.missing)
        if name not in shop.fds:
            pytest.skip(f"there is none on this machine: {shop.missing[name]}")
        with Client(watched.path) as client:
            client.reset()
            client.write(7, 4, struct.pack("<H", 7))  # a bus master
            number = next(state.value for state in spec.states if state.name == STATE)
            client.set_state(number)
            use(client, row, shop.fds[name])
            for change in changes:
                shop.change(change, name)
                for _ in range(TURNS):
                    access(client)
                let_go(client)
            left = spec.event("disconnect").to or STATE
            watched.stop()
        assert watched.ended_in() == left
        assert watched.end_s < 5


def test_every_use_has_changes_and_every_kind_a_name_of_its_own() -> None:
    assert {*FOR} == {*Use}
    assert len({row.name for row in CATALOGUE}) == len(CATALOGUE)


def test_no_change_is_made_to_what_belongs_to_the_machine() -> None:
    """These tests also run as root, for whom nothing is out of reach."""
    for row in ("/", "/dev/null", "/dev/urandom", "/proc/self/mem", __file__):
        fd = os.open(row, os.O_RDONLY)
        before = os.fstat(fd)
        for change in ("forbid", "remove", "lock", "nonblocking"):
            descriptor_changes.attempt(change, fd)
        after = os.fstat(fd)
        assert (after.st_mode, after.st_nlink) == (before.st_mode, before.st_nlink)
        assert os.get_blocking(fd)
        os.close(fd)
