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

import peers
import pytest
from peers import Driver, get_state, hello, running, serving, set_state

TARGET = 1.6
ROUNDS = 25
TURNS = 2_000

COMMANDS = {
    "DEVICE_FEATURE GET": [get_state()],
    "SET_STATE, one arc": [set_state(5), set_state(2)],
    "SET_STATE, two arcs": [set_state(1), set_state(2)],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    try:
        return peers.build(tmp_path_factory.mktemp("peers"))
    except peers.NotBuiltError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize("apart", [False, True], ids=["shared", "apart"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_round_trip(built, tmp_path, name: str, apart: bool) -> None:
    messages = COMMANDS[name]
    (message, reply), *_ = messages
    ours, theirs = tmp_path / "ours.sock", tmp_path / "theirs.sock"
    echo = [built / "echo", theirs, str(len(message)), str(reply)]
    there, here = peers.processors(apart)
    with (
        running(serving(ours), ours, there),
        running(echo, theirs, there),
        Driver(built, ours, here) as us,
        Driver(built, theirs, here) as them,
    ):
        us.turns(1, hello())
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


def test_without_a_compiler_it_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(peers.NotBuiltError, match="apt-get install gcc"):
        peers.build(tmp_path)
