"""Hostile messages against real servers: none ends one, and the next honest client is served.

`make test` sends some ten thousands; `make hostile` a million, with figures.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from hostile_clients import attack
from hostile_messages import Hostile, descriptors
from hostile_server import PROGRAMS, Watched

# `make hostile` says how many messages; the seed can be given to see a failure again.
MESSAGES = int(os.environ.get("VFIO_MIGRATION_HOSTILE", "30000"))
SEED = int(os.environ.get("VFIO_MIGRATION_SEED", "1"))
PART = 4000
"""After so many messages the server is looked at."""


@pytest.mark.parametrize("kind", PROGRAMS)
def test_hostile_messages(kind: str, tmp_path) -> None:
    begun = time.perf_counter()
    sent = taken = answers = clients = part = 0
    wanted = MESSAGES // len(PROGRAMS)
    with Watched(kind, tmp_path) as watched, descriptors() as fds:
        counted = watched.counted()
        while taken < wanted:
            part += 1
            hostile = Hostile(random.Random(f"{SEED} {kind} {part}"), fds, watched.stream[:300_000])
            until = sent + PART
            try:
                while sent < until:
                    client = attack(watched.path, hostile)
                    sent += client.messages
                    answers += client.answers
                    clients += 1
                now = watched.check()
                taken = watched.counted() - counted
            except BaseException as error:
                ended = watched.process.poll()
                error.add_note(f"seed {SEED}, part {part} of {kind}; ended: {ended}; {watched.log}")
                raise
    seconds = time.perf_counter() - begun
    print(
        f"\n{kind}: {taken} messages of {clients} clients in {seconds:.1f} s"
        f" ({sent} sent, {answers} answers to DMA);"
        f" memory {watched.start.resident >> 20} MiB, {now.peak >> 20} MiB at most,"
        f" {now.resident >> 20} MiB at the end, {watched.bound >> 20} MiB allowed;"
        f" descriptors {watched.start.descriptors} -> {now.descriptors}"
    )
