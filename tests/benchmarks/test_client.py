"""What a call of a client costs, alone, attended, in threads and in tasks; and how fast data is."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
import time

import pytest

from support.waiting import wait_for
from vfio_migration.runtime.client import Client, calls
from vfio_migration.runtime.client.asynchronous import AsyncClient

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    """A server in a process of its own, of a device with 64 MiB of memory."""
    path = tmp_path / "memory.sock"
    program = [sys.executable, "-m", "vfio_migration.cli.main", "serve", str(path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*program, "--device", "memory"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        wait_for(path, process, tmp_path / "log")
        yield path
        process.terminate()
        assert process.wait(10) == 0


def microseconds(act, count: int = 2000, rounds: int = 9) -> str:
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        act(count)
        found.append((time.perf_counter() - begun) / count * 1e6)
    return f"{min(found):6.1f} us at best, {statistics.median(found):6.1f} us"


def test_a_call(path) -> None:
    with Client(path) as client:

        def alone(count: int) -> None:
            for _ in range(count):
                client.do(calls.get_state())

        def ahead(count: int) -> None:
            for _ in range(count // 16):
                begun = [client.begin(calls.get_state()) for _ in range(16)]
                for one in begun:
                    client.finish(one)

        def threads(count: int) -> None:
            running = [threading.Thread(target=alone, args=(count // 4,)) for _ in range(4)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()

        print(f"\nalone                {microseconds(alone)}")
        print(f"16 ahead             {microseconds(ahead)}")
        print(f"four threads         {microseconds(threads)}")
        with client.answering_dma():
            print(f"attended             {microseconds(alone)}")


def test_a_call_of_a_task(path) -> None:
    async def main() -> None:
        async with AsyncClient(path) as client:
            for tasks in (1, 16):
                found = []
                for _ in range(9):
                    begun = time.perf_counter()
                    for _ in range(2000 // tasks):
                        await asyncio.gather(*(client.state() for _ in range(tasks)))
                    found.append((time.perf_counter() - begun) / 2000 * 1e6)
                print(
                    f"\n{tasks:2} tasks             {min(found):6.1f} us at best, "
                    f"{statistics.median(found):6.1f} us"
                )

    asyncio.run(main())


def test_migration_data(path) -> None:
    """Read as the coordinator does: several reads under way, each of a MiB."""
    with Client(path) as client:
        best = 0.0
        for _ in range(3):
            client.reset()
            client.set_state("STOP_COPY")
            size, begun = 0, time.perf_counter()
            ahead = [client.begin(calls.data_read(MIB, len)) for _ in range(4)]
            while ahead:
                got = client.finish(ahead.pop(0))
                size += got
                if got == MIB:
                    ahead.append(client.begin(calls.data_read(MIB, len)))
            best = max(best, size / (time.perf_counter() - begun))
        print(f"\nmigration data: {best / 2**30:.2f} GiB/s")
        assert best > 0
