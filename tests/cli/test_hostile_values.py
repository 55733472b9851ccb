"""Whatever value a server puts into a reply, a command states in one message what came of it."""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cli_support import Ran

from support import hostile_value_server
from support.hostile_value_server import CONFIG, Change, HostilePeer, PciPeer, serving
from support.raw_client import REGION_READ
from support.samples import sampled

HELD = bytes(range(200))
COMMANDS: dict[str, tuple[str, ...]] = {
    "migrate": ("migrate", "s", "d", "--max-passes", "2"),
    "dry-run": ("migrate", "s", "d", "--dry-run"),
    "offline": ("migrate", "s", "d", "--no-pre-copy"),
    "save": ("save", "s", "file", "--replace", "--then", "run"),
    "restore": ("restore", "saved", "d"),
    "recover": ("recover", "s", "d"),
    "recover --keep": ("recover", "s", "d", "--keep", "source"),
    "status": ("status", "s", "--connect", "--timeout", "1"),
}
CHANGES = ["VERSION", *hostile_value_server.KINDS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SAMPLE = 3
"""How many changes of a kind of reply are tried; HOSTILE_VALUES=all tries all, in half an hour."""


def some(kind: str, about: str) -> Sequence[Change]:
    """Return changes of a kind of reply, always the same for the same `about`."""
    every = [
        *(
            hostile_value_server.versions()
            if kind == "VERSION"
            else hostile_value_server.changes(kind)
        )
    ]
    if os.environ.get("HOSTILE_VALUES") == "all":
        return every
    return random.Random(about).sample(every, SAMPLE)


def holds(ran: Ran, about: str) -> None:
    """Hold that it ended as is documented, with a message if the answer is no."""
    assert ran.status in (0, 1, 2, 3), about
    assert "Traceback" not in ran.err + ran.out, f"{about}\n{ran.err}"
    assert "Error:" not in ran.err, f"{about}\n{ran.err}"
    if ran.status and ran.out == "":
        assert ran.err.startswith("vfio-migration: error: "), f"{about}\n{ran.err}"


@sampled(26)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", CHANGES)
def test_a_value_that_no_honest_server_sends_is_answered_with_a_message(
    cli: Callable[..., Ran], command: str, kind: str
) -> None:
    words = COMMANDS[command]
    if command == "restore":
        with serving(Path("s"), HostilePeer(HELD)):
            assert cli("save", "s", "saved").status == 0
    timeout_s = () if command == "status" else ("--timeout", "500ms")
    for change, hostile in itertools.product(some(kind, f"{command} {kind}"), ("s", "d")):
        if hostile not in words:
            continue
        honest = "d" if hostile == "s" else "s"
        with (
            serving(Path(hostile), HostilePeer(HELD, change)),
            serving(Path(honest), HostilePeer(HELD)),
        ):
            ran = cli(*words, *timeout_s)
        holds(ran, f"{hostile} of {command}: {change}")
        for left in Path().glob("*.migration"):
            left.unlink()


class AnswersConfig(PciPeer):
    """Answers a read of configuration space with as many bytes as `brings` says, at most."""

    brings = 3

    def answer(self, command: int, payload: bytes) -> bytes:
        honest = super().answer(command, payload)
        offset, region, count = struct.unpack_from("=QII", honest.ljust(16, b"\0"))
        if command == REGION_READ and region == CONFIG:
            count = min(count, self.brings)
            return struct.pack("=QII", offset, region, count) + honest[16 : 16 + count]
        return honest


class BringsNothing(AnswersConfig):
    brings = 0


@pytest.mark.parametrize("side", ["s", "d"])
def test_a_configuration_read_answered_with_three_bytes_is_read_on(
    cli: Callable[..., Ran], side: str
) -> None:
    """As reported: it was a traceback of struct."""
    kinds = {one: AnswersConfig if one == side else PciPeer for one in "sd"}
    with serving(Path("s"), kinds["s"](HELD)), serving(Path("d"), kinds["d"](bytes(200))) as peer:
        assert cli("migrate", "s", "d").status == 0
        assert bytes(peer.held) == HELD


@pytest.mark.parametrize("command", [("migrate", "s", "d"), ("save", "s", "file")])
def test_a_configuration_read_answered_with_nothing_is_stated(
    cli: Callable[..., Ran], command: tuple[str, ...]
) -> None:
    with serving(Path("s"), BringsNothing(HELD)), serving(Path("d"), PciPeer(bytes(200))):
        ran = cli(*command)
    assert ran.status == 1
    assert (
        "s: what kind of device it is cannot be determined: REGION_READ brought 0 of the 4"
        in ran.err
    )


@pytest.mark.parametrize("takes", [1, 2, 3])
@pytest.mark.parametrize("side", ["s", "d"])
def test_a_server_that_takes_one_to_three_bytes_at_a_time_is_migrated(
    cli: Callable[..., Ran], side: str, takes: int
) -> None:
    """As reported: a max_data_xfer_size of 1 to 3 was a traceback."""
    with (
        serving(Path("s"), PciPeer(HELD)) as one,
        serving(Path("d"), PciPeer(bytes(200))) as two,
    ):
        {"s": one, "d": two}[side].max_transfer = takes
        assert cli("migrate", "s", "d").status == 0
        assert bytes(two.held) == HELD


@pytest.mark.parametrize("length", [8, 12, 15])
def test_a_source_that_does_not_state_what_it_can_is_not_recovered_by_a_guess(
    cli: Callable[..., Ran], length: int
) -> None:
    """It was a traceback: without a journal nobody held a bad answer to this question."""
    change = Change("GET MIGRATION", "cut", lambda honest: honest[:length])
    with serving(Path("s"), HostilePeer(HELD, change)), serving(Path("d"), PciPeer(HELD)):
        ran = cli("recover", "s", "d")
    assert ran.status == 2
    assert ran.err.startswith("vfio-migration: error: s: DEVICE_FEATURE")
    assert "there is no journal of a migration" in ran.err
