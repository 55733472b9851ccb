"""The round trip of a command against a bare C echo of the same sizes.

Each server runs in a process of its own, and one C client drives both in turns; what is shown are
the best and the middle of many rounds. It is done twice. With client and server each on a processor
of its own, as a virtual machine and its device are, most of the time is the wake-up, and what the
server does once it has replied (log, say) costs nobody anything. With both on the same processor a
wake-up costs next to nothing, each instruction of the server is seen, and Python's `recvmsg` and
`send` alone take 1.5 times as long as all that C does.

Nothing here asserts a time: a busy machine is no bug.
"""

from __future__ import annotations

import statistics

import pytest

from support import c_peers
from support.c_peers import (
    Driver,
    Exchange,
    get_state,
    handshake,
    region_read,
    region_write,
    running,
    serving,
    set_state,
)

TARGET = 1.6
ROUNDS = 25
TURNS = 2_000

REGISTER, MEMORY = 0, 2
"""The regions that are accessed: registers, and memory that the device has in one piece."""
LIVENESS = 0x04
"""The register of `edu` that can be read and written and does nothing."""

COMMANDS: dict[str, tuple[str, list[Exchange]]] = {
    "REGION_READ of 4 bytes, edu": ("edu", [region_read(REGISTER, LIVENESS, 4)]),
    "REGION_WRITE of 4 bytes, edu": ("edu", [region_write(REGISTER, LIVENESS, b"live")]),
    "REGION_READ of 4 bytes, memory": ("memory", [region_read(MEMORY, 0, 4)]),
    "REGION_WRITE of 4 bytes, memory": ("memory", [region_write(MEMORY, 0, b"data")]),
    "DEVICE_FEATURE GET": ("edu", [get_state()]),
    "SET_STATE, one arc": ("edu", [set_state(5), set_state(2)]),
    "SET_STATE, two arcs": ("edu", [set_state(1), set_state(2)]),
}
"""By name, the device and the commands that are sent to it in turn."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    try:
        return c_peers.build(tmp_path_factory.mktemp("peers"))
    except c_peers.NotBuiltError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize("apart", [False, True], ids=["shared", "apart"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_round_trip(built, tmp_path, name: str, apart: bool) -> None:
    device, messages = COMMANDS[name]
    (message, reply), *_ = messages
    ours, theirs = tmp_path / "ours.sock", tmp_path / "theirs.sock"
    echo = [built / "echo", theirs, str(len(message)), str(reply)]
    there, here = c_peers.processors(apart)
    with (
        running(serving(ours, "--device", device), ours, there),
        running(echo, theirs, there),
        Driver(built, ours, here) as us,
        Driver(built, theirs, here) as them,
    ):
        us.turns(1, handshake())
        us.turns(100, *messages)
        them.turns(100, *messages)
        # In turns, so that whatever else the machine does falls on both alike.
        rounds = [(us.turns(TURNS, *messages), them.turns(TURNS, *messages)) for _ in range(ROUNDS)]
    assert all(answer[8] == 1 for (_, answer), _ in rounds), "no error reply"
    mine = [taken / TURNS / 1000 for (taken, _), _ in rounds]
    others = [taken / TURNS / 1000 for _, (taken, _) in rounds]
    print(
        f"\n{name}, {'two processors' if apart else 'one processor'}: {min(mine):.2f} us, "
        f"C echo {min(others):.2f} us: {min(mine) / min(others):.2f} times its time "
        f"(target: at most {TARGET}); in the middle {statistics.median(mine):.2f} us and "
        f"{statistics.median(others):.2f} us"
    )


def test_without_a_compiler_it_states_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(c_peers.NotBuiltError, match="apt-get install gcc"):
        c_peers.build(tmp_path)
