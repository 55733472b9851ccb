"""Hostile messages against real servers: none ends one, and the next honest client is served.

`make test` sends some thousands, `make exhaustive` as many again. `make hostile` sends a million,
and prints figures.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from descriptor_maker import DescriptorMaker, maker
from hostile_clients import attack
from hostile_messages import SHORT, Chance, Hostile
from hostile_server import Stderr, Watched

from support.samples import sample_where
from vfio_migration.runtime.transport.descriptor_receiver import MAX_LEFT

# `make hostile` states how many messages; the seed can be given to see a failure again.
MESSAGES = int(os.environ.get("VFIO_MIGRATION_HOSTILE", "15000"))
SEED = int(os.environ.get("VFIO_MIGRATION_SEED", "1"))
LARGE = MESSAGES >= 100_000
PART, MAX_BYTES = (40_000, 10 * SHORT) if LARGE else (4000, SHORT)
"""After so many messages the server is looked at, and the descriptors are made anew; and so many
messages a client sends at most, so that there are some thirty clients in between. Of a million,
most are to be messages, and not the beginnings and ends of clients."""
WITH_DESCRIPTORS = 8
"""One honest client in so many maps memory and has an interrupt sent."""
MANY_LEFT = MAX_LEFT - 3
"""And after so many clients whose descriptors keep a process of the server from ending: where
`MAX_LEFT` are left, an honest client that sends descriptors is disconnected (docs/serving.md)."""
MIN_CLIENTS = 20
"""As many each server has at least, however many messages one of them sends."""


class Situation(NamedTuple):
    """What a server is started with.

    Attributes:
        kind: The program.
        share: The part of all messages, in a hundred.
        stderr: Where its log goes.
        squatted: Whether another process holds all that it could take for a lock.
    """

    kind: str
    share: int
    stderr: Stderr = "log"
    squatted: bool = False


# Small ones between the large ones, so that the processes of ARGS="-n 4" have as much to do each.
SITUATIONS = {
    "edu": Situation("edu", 26),
    "log that nobody reads": Situation("edu", 6, "full pipe"),
    "memory": Situation("memory", 26),
    "log whose reader is gone": Situation("memory", 4, "no reader"),
    "async": Situation("async", 26),
    "log on a full disk": Situation("edu", 4, "full disk"),
    "closed stdio": Situation("edu", 4, "closed"),
    "squatted locks": Situation("memory", 4, squatted=True),
}


@contextmanager
def squatted(path: Path) -> Iterator[None]:
    """Hold what any other user could hold: the folder, and names in the abstract namespace."""
    with ExitStack() as held:
        folder = os.open(path.parent, os.O_RDONLY)
        held.callback(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        where = path.parent.stat()
        for name in (
            str(path),
            f"{path}.start",
            f"{path}.status",
            f"{where.st_dev}:{where.st_ino}",
        ):
            held.enter_context(socket.socket(socket.AF_UNIX)).bind("\0" + name)
        yield


SAMPLE = ("edu", "async", "log that nobody reads")
"""Both ways to serve, and the log that could keep a server waiting. `make hostile` takes all."""


@pytest.mark.parametrize(
    "situation",
    sample_where(SITUATIONS, lambda name: name in SAMPLE or "VFIO_MIGRATION_HOSTILE" in os.environ),
)
def test_hostile_messages(situation: str, tmp_path) -> None:
    """None ends the server, or keeps an honest client waiting, or makes it hold more and more."""
    begun = time.perf_counter()
    about = SITUATIONS[situation]
    wanted = MESSAGES * about.share // 100
    with ExitStack() as around:
        if about.squatted:
            around.enter_context(squatted(tmp_path / f"{about.kind}.sock"))
        control = around.enter_context(Watched(about.kind, tmp_path, name="control"))
        watched = around.enter_context(Watched(about.kind, tmp_path, stderr=about.stderr))
        # After the processes have been started: a child closes what it inherits, and would wait for
        # the descriptors that are never closed.
        shop = around.enter_context(maker(tmp_path / "hostile"))
        figures = _attack(situation, wanted, watched, control, shop)
    print(f"\n{situation}: {figures}; SIGTERM {watched.end_s:.2f} s;", end="")
    print(f" {time.perf_counter() - begun:.1f} s; not on this machine: {[*shop.missing]}")


def _attack(
    situation: str, wanted: int, watched: Watched, control: Watched, shop: DescriptorMaker
) -> str:
    logged = watched.stderr == "log"
    counted = watched.counted() if logged else 0
    sent = taken = answers = clients = part = 0
    while taken < wanted or clients < MIN_CLIENTS:
        part += 1
        if part > 1:
            shop.make()
        chance = Chance(f"{SEED} {situation} {part}")
        hostile = Hostile(chance, shop, watched.stream[:300_000], longest=MAX_BYTES)
        until = sent + min(PART, max(wanted - taken, 100))
        try:
            while watched.processes() < MANY_LEFT and (sent < until or clients < MIN_CLIENTS):
                client = attack(watched.path, hostile)
                sent += client.messages
                answers += client.answers
                clients += 1
                watched.prober.probe(descriptors=clients % WITH_DESCRIPTORS == 0)
            control.prober.probe(descriptors=True)
            shop.clear()
            now = watched.check()
            taken = watched.counted() - counted if logged else sent
        except BaseException as error:
            ended = watched.process.poll()
            error.add_note(
                f"seed {SEED}, part {part} of {situation}; ended: {ended}; {watched.log}"
            )
            raise
    prober = watched.prober
    return (
        f"{taken} messages of {clients} clients"
        f" ({sent} sent, {answers} answers to DMA);"
        f" memory {watched.start.resident >> 20} MiB, {now.peak >> 20} MiB at most,"
        f" {now.resident >> 20} MiB at the end, {watched.bound >> 20} MiB allowed;"
        f" {watched.most_processes} processes that receive descriptors at most,"
        f" {watched.most_process_memory >> 20} MiB;"
        f" descriptors {watched.start.descriptors} -> {now.descriptors};"
        f" {prober.probes} honest clients, answered within {prober.longest_s * 1000:.0f} ms"
        f" ({prober.longest_wall_s * 1000:.0f} with the wait for a processor;"
        f" control {control.prober.longest_s * 1000:.0f},"
        f" {control.prober.longest_wall_s * 1000:.0f})"
    )
