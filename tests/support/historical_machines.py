"""The defects that real implementations of this interface had, as machines a suite is led through.

`DEFECTS` has each, in the order of docs/conform.md: what was wrong, and a machine that shows of it
what a client of the migration interface can see; None where that is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from support.faulty_machines import Faulty, Place, replace_state, right
from vfio_migration.model import load
from vfio_migration.model.suite import Behaviour, Input, Output

SPEC = load()
VALUES = {row.name: row.value for row in SPEC.states}
FREE = Input("set", 8)
Moves = dict[tuple[Place, Input], tuple[Place, Output]]


class Defect(NamedTuple):
    """One of them.

    Attributes:
        where: Whose it was.
        about: What was wrong.
        machine: A device that has it, or None.
        seen_by: What shows it instead, or besides.
    """

    where: str
    about: str
    machine: Callable[[Behaviour], Faulty] | None
    seen_by: str = ""


def asks(state: str) -> Input:
    return Input("set", VALUES[state])


def _made(tested: Behaviour, change: Callable[[Moves], None]) -> Faulty:
    moves = right(tested)
    change(moves)
    return Faulty("a defect of old", moves, (tested.initial, 0))


def _answers(
    tested: Behaviour, state: str, given: Input, seen: Output, place: int = 0
) -> Callable[[Moves], None]:
    def change(moves: Moves) -> None:
        moves[(state, 0), given] = ((seen.state, place), seen)

    return change


def _twin(tested: Behaviour, moves: Moves, state: str) -> None:
    """Give a state a hidden twin, from which all leads on as from the state itself."""
    for one in tested.inputs:
        moves[(state, 1), one] = moves[(state, 0), one]


def hangs(tested: Behaviour) -> Faulty:
    """What the client sees is that no reply comes."""
    return _made(
        tested, _answers(tested, "STOP_COPY", asks("PRE_COPY"), Output("STOP_COPY", "no reply"))
    )


def no_way_out_of_stop(tested: Behaviour) -> Faulty:
    def change(moves: Moves) -> None:
        for one in tested.inputs:
            if one.kind == "set":
                moves[("STOP", 0), one] = (("STOP", 0), Output("STOP", "EINVAL"))

    return _made(tested, change)


def pre_copy_is_refused_in_pre_copy(tested: Behaviour) -> Faulty:
    seen = Output("PRE_COPY", "EINVAL")
    return _made(tested, _answers(tested, "PRE_COPY", asks("PRE_COPY"), seen))


def a_number_too_large(tested: Behaviour) -> Faulty:
    """What stands behind the end of the table is a state by chance."""
    return _made(tested, _answers(tested, "RUNNING", FREE, Output("STOP")))


def session_is_closed_first(tested: Behaviour) -> Faulty:
    def change(moves: Moves) -> None:
        _twin(tested, moves, "PRE_COPY")
        kept = Output("PRE_COPY", "EIO")
        moves[("PRE_COPY", 0), Input("fail")] = (("PRE_COPY", 1), kept)
        moves[("PRE_COPY", 1), Input("stream")] = (("PRE_COPY", 1), Output("PRE_COPY", "EINVAL"))

    return _made(tested, change)


def leaves_resuming_whatever_came(tested: Behaviour) -> Faulty:
    """What should fail the step is the stream; a tester makes it fail, and it succeeds."""
    seen = tested.moves["RESUMING", asks("STOP")]
    return _made(tested, _answers(tested, "RESUMING", Input("fail"), seen))


def a_check_is_skipped_in_the_second_life(tested: Behaviour) -> Faulty:
    """The same, but only once a stream was accepted."""

    def change(moves: Moves) -> None:
        for (place, one), ((there, _), seen) in list(moves.items()):
            moves[(place[0], 1), one] = ((there, 1), seen)
            if place[0] == "RESUMING" and "closes" in seen.session and seen.errno is None:
                moves[place, one] = ((there, 1), seen)
        accepted = moves[("RESUMING", 1), asks("STOP")]
        moves[("RESUMING", 1), Input("fail")] = accepted

    return _made(tested, change)


def a_killed_client_leaves_it_stuck(tested: Behaviour) -> Faulty:
    def change(moves: Moves) -> None:
        for one in tested.inputs:
            stuck = Output("STOP_COPY", "EINVAL")
            moves[("STOP_COPY", 1), one] = (("STOP_COPY", 1), stuck)
        seen = moves[("STOP_COPY", 0), Input("reconnect")][1]
        moves[("STOP_COPY", 0), Input("reconnect")] = (("STOP_COPY", 1), seen)

    return _made(tested, change)


def reset_keeps_pre_copy(tested: Behaviour) -> Faulty:
    seen = replace_state(tested.moves["PRE_COPY", Input("reset")], "PRE_COPY")
    return _made(tested, _answers(tested, "PRE_COPY", Input("reset"), seen._replace(session=())))


DEFECTS = (
    Defect("Linux 6.2 to 2026", "STOP_COPY -> PRE_COPY never returns", hangs),
    Defect("libvfio-user before v2", "nothing leads out of STOP", no_way_out_of_stop),
    Defect(
        "libvfio-user before v2",
        "PRE_COPY is refused in PRE_COPY",
        pre_copy_is_refused_in_pre_copy,
    ),
    Defect("libvfio-user", "state number 8 is accepted", a_number_too_large),
    Defect(
        "mlx5, Linux 6.9 to 7.3",
        "a failed PRE_COPY -> RUNNING leaves PRE_COPY without a session",
        session_is_closed_first,
    ),
    Defect(
        "hisi_acc",
        "the position in the stream is lost between PRE_COPY and STOP_COPY",
        None,
        "bytes are opaque to a client; the device kit compares what arrives (`check_migration`)",
    ),
    Defect(
        "hisi_acc",
        "a flag of the first migration makes the second one skip a check",
        a_check_is_skipped_in_the_second_life,
        "of a device that cannot be made to fail: `stream_accepted` of `conform`, whose damaged "
        "streams come after good ones",
    ),
    Defect(
        "virtio, mlx5",
        "RESUMING -> STOP accepts a stream that is cut off",
        leaves_resuming_whatever_came,
        "the same",
    ),
    Defect(
        "xe",
        "a refused request stops the device, which is in RUNNING by what it answers",
        None,
        "no migration command shows whether a device runs; the device kit drives it "
        "(`check_refusals`)",
    ),
    Defect(
        "libvfio-user",
        "a client killed in STOP_COPY leaves a device that refuses everything",
        a_killed_client_leaves_it_stuck,
    ),
    Defect("libvfio-user since 4f4fce4", "a reset in PRE_COPY keeps it", reset_keeps_pre_copy),
)
