"""Migrations and recoveries of small groups: a second model of G7, in plain Python.

It reads the raw rows, by way of `explicit_group` and `explicit_device`, and shares no code with the
model or the prover. Where the prover has an invariant, this one has a coordinator that remembers
which handovers it has tried; and it asks more directly: from every situation in which somebody may
be found dead, a recovery that nobody disturbs must end with one side running on the whole state, if
a side has it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from support import explicit_group

ACTING = explicit_group.STARTING | {"RUNNING_P2P", "PRE_COPY_P2P"}
SIDES = ("source", "destination")

Device = tuple[str, bool | None] | None
"""Where a device is, and whether it has the state (None: it refused what it was given, and will
again); None once its server was killed."""
Op = tuple[Any, ...]


@dataclass(frozen=True)
class World:
    """Everything. The program is ("migration", n), ("handover", n), or None: nobody coordinates."""

    program: tuple[str, int] | None
    at: int
    journal: str
    source: tuple[Device, ...]
    destination: tuple[Device, ...]
    tried: frozenset[int] = frozenset()
    spoilt: bool = False  # a handover for failed devices was chosen
    rolled_back: bool = False  # one that rolls back was chosen
    started: bool = False  # the destination acted with the state
    moved_on: bool = False  # the source acted since the rest was transferred
    known: bool = False  # the journal has recorded that the destination was given all of it

    def side(self, name: str) -> tuple[Device, ...]:
        return self.source if name == "source" else self.destination

    def with_device(self, name: str, index: int, device: Device) -> World:
        row = list(self.side(name))
        row[index] = device
        return replace(self, **{name: tuple(row)})


class HandoverModel:
    """The migrations and handovers of some plans, for devices of these capability sets."""

    def __init__(self, data: dict[str, Any], words: tuple[int, ...]) -> None:
        self.data = data
        self.words = words
        self.programs = {
            (kind, index): list(self._ops(row["steps"]))
            for kind in ("migration", "handover")
            for index, row in enumerate(data[f"{kind}s"])
        }
        self.wrong: list[str] = []

    def _ops(self, steps: list[dict[str, Any]]) -> Iterator[Op]:
        for step in steps:
            if "holder" in step:
                yield ("say", step["holder"])
            if "transfer" in step:
                yield ("transfer", step["transfer"])
                continue
            for phase in explicit_group.find(self.data, step["plan"])["phases"]:
                if not step.get("phases") or phase["name"] in step["phases"]:
                    yield ("phase", step["side"], phase)

    # --- who is what ---

    def winner(self, world: World) -> str:
        kind, index = world.program or ("", 0)
        return self.data["handovers"][index]["winner"] if kind == "handover" else "destination"

    def row(self, world: World) -> dict[str, Any]:
        kind, index = world.program or ("", 0)
        return self.data["handovers"][index] if kind == "handover" else {}

    def indispensable(self, world: World, side: str) -> bool:
        if world.program and world.program[0] == "handover":
            return side == self.winner(world)
        return side == "destination" or world.journal != "destination"

    def whole(self, world: World, side: str) -> bool:
        return all(device is not None and bool(device[1]) for device in world.side(side))

    # --- one thing at a time ---

    def moves(self, world: World, side: str, index: int, *, failing: bool) -> list[Device] | None:
        """What a device may become at this place; None if it has nothing to do."""
        device = world.side(side)[index]
        op = self._op(world)
        if device is None or op is None or op[0] != "phase" or op[1] != side:
            return None
        state, has = device
        word = self.words[index]
        row = explicit_group.move(op[2], word, state)
        if row is None:
            return None
        to = explicit_group.onward(row, word, state)
        if to is None:
            return []
        if "event" in row:
            return [(to, False)]
        found: list[Device] = [(explicit_group.LOST, False)] if failing else []
        # It accepts whatever it was given, unless it has refused that before.
        if has is not None:
            found.append((to, has and to != "RESUMING"))
        if failing and has and state == "RESUMING":
            found.append((state, None))
        loser = not self.indispensable(world, side)
        if loser and (state == "RESUMING" or (failing and state in ACTING)):
            found.append((to, False))
        return found

    def _op(self, world: World) -> Op | None:
        ops = self.programs[world.program] if world.program else []
        return ops[world.at] if world.at < len(ops) else None

    def over(self, world: World) -> bool:
        """The place is done, as far as the coordinator sees."""
        op = self._op(world)
        if op is None or op[0] == "say":
            return op is not None
        if op[0] == "transfer":
            return op[1] == "passes" or self.whole(world, "destination")
        if any(
            self.moves(world, op[1], index, failing=False) is not None
            for index in range(len(self.words))
        ):
            return False
        if not self.indispensable(world, op[1]):
            return True
        ops = self.programs[world.program] if world.program else []
        more = world.at + 1 < len(ops) and ops[world.at + 1][:2] == op[:2]
        bad = [d is None or (d[0] == explicit_group.LOST) for d in world.side(op[1])]
        return not any(bad) or bool(self.row(world).get("failed") and more)

    def onward(self, world: World) -> World:
        op = self._op(world)
        assert op is not None
        then = replace(world, at=world.at + 1)
        if self._op(then) == ("transfer", "rest"):
            then = replace(then, moved_on=False)
        if op[0] != "say":
            return then
        return replace(then, journal=op[1], known=then.known or op[1] != "source")

    def decide(self, world: World) -> World | None:
        """Choose the first handover that holds and was not tried; None: the state is lost."""
        for index, row in enumerate(self.data["handovers"]):
            devices = world.side(row["winner"])
            fit = all(
                d is not None and (row.get("failed") or d[0] != explicit_group.LOST)
                for d in devices
            )
            found = [d for side in row.get("still", ()) for d in world.side(side) if d is not None]
            fit = fit and not any(d[0] in ACTING for d in found)
            if index not in world.tried and world.journal in row["holders"] and fit:
                return replace(
                    world,
                    program=("handover", index),
                    at=0,
                    rolled_back=world.rolled_back or row.get("rolls_back", False),
                    spoilt=world.spoilt or row.get("failed", False),
                )
        return None

    def fails(self, world: World) -> World:
        """Anybody who coordinates sees that the program cannot go on, and does not try it again."""
        kind, index = world.program or ("", 0)
        tried = world.tried | ({index} if kind == "handover" else set())
        return replace(world, program=None, at=0, tried=tried)

    # --- everything that can happen ---

    def starts(self) -> Iterator[World]:
        size = len(self.words)
        for index in range(len(self.data["migrations"])):
            for blank in ("RUNNING", "STOP"):
                yield World(
                    ("migration", index),
                    0,
                    "source",
                    (("RUNNING", True),) * size,
                    ((blank, False),) * size,
                )

    def explore(self, *, to_the_end: bool = True) -> set[World]:
        """Visit every situation, killing anybody anywhere; note what is wrong on the way."""
        queue = deque(self.starts())
        seen = set(queue)
        while queue and (to_the_end or not self.wrong):
            world = queue.popleft()
            self.look(world)
            for then in self.after(world):
                if then not in seen:
                    seen.add(then)
                    queue.append(then)
        return seen

    def after(self, world: World) -> Iterator[World]:
        for side in SIDES:
            for index, device in enumerate(world.side(side)):
                if device is not None:
                    yield world.with_device(side, index, None)
                    for then in self.moves(world, side, index, failing=True) or ():
                        yield self._moved(world, side, index, then)
        if world.program is None:
            then = self.decide(world)
            if then is not None:
                yield then
            return
        op = self._op(world)
        if op == ("transfer", "rest"):
            yield from self._load(world)
        if op is not None:
            if self.over(world):
                yield self.onward(world)
            yield replace(world, program=None, at=0, tried=frozenset())
            if self.stopped(world):
                yield self.fails(world)

    def arrives(self, world: World) -> bool:
        """A migration that nobody disturbs ends with the destination, and the source at rest."""
        seen = set()
        while self._op(world) is not None and world not in seen:
            seen.add(world)
            if self.over(world):
                world = self.onward(world)
                continue
            op = self._op(world)
            assert op is not None
            loads = self._load(world) if op == ("transfer", "rest") else iter(())
            moves = (
                self._moved(world, op[1], index, then)
                for index in range(len(self.words))
                for then in self.moves(world, str(op[1]), index, failing=False) or ()
            )
            world = next(itertools.chain(loads, moves), world)
        at_rest = all(device and device[0] == "STOP" for device in world.source)
        runs = all(device == ("RUNNING", True) for device in world.destination)
        return self._op(world) is None and at_rest and runs

    def stopped(self, world: World) -> bool:
        """A device that cannot be done without is gone, has failed or refuses."""
        for side in SIDES:
            for index, device in enumerate(world.side(side)):
                moves = self.moves(world, side, index, failing=False)
                # One that judges refuses what is not whole.
                refuses = moves == [] or (moves is not None and device == ("RESUMING", False))
                unfit = device is None or device[0] == explicit_group.LOST or refuses
                if unfit and self.indispensable(world, side):
                    return True
        return False

    def _load(self, world: World) -> Iterator[World]:
        pairs = zip(world.source, world.destination, strict=True)
        for index, (one, two) in enumerate(pairs):
            if one is not None and one[1] and two is not None and two == ("RESUMING", False):
                yield world.with_device("destination", index, ("RESUMING", True))

    def _moved(self, world: World, side: str, index: int, then: Device) -> World:
        before = world.side(side)[index]
        moved = world.with_device(side, index, then)
        assert before is not None
        assert then is not None
        if self._midway(world) and self._closes(index, before[0], then[0]):
            self.wrong.append("a session is given up of which part was transferred")
        acts = then[0] in ACTING
        if acts and then[0] != before[0] and not world.spoilt:
            if side == "source" and world.started and not world.rolled_back:
                self.wrong.append("the source goes on behind the back of the destination")
            if side == "destination" and world.journal != "source":
                if not then[1]:
                    self.wrong.append("the destination runs without the state")
                if world.moved_on:
                    self.wrong.append("the destination runs on an old state")
        if acts and then[1]:
            moved = replace(
                moved,
                started=moved.started or side == "destination",
                moved_on=moved.moved_on or side == "source",
            )
        return moved

    def _midway(self, world: World) -> bool:
        """A migration has transferred something, and will transfer more."""
        if world.program is None or world.program[0] != "migration":
            return False
        ops = [op[0] for op in self.programs[world.program]]
        return "transfer" in ops[: world.at] and "transfer" in ops[world.at :]

    def _closes(self, index: int, before: str, then: str) -> bool:
        device = explicit_group.device(self.words[index])
        if device.transfer[before] == "none" or then == explicit_group.LOST:
            return False
        sessions = device.session_of[before], device.session_of[then]
        return (before, then) not in device.arcs or device.effects[sessions] != "keeps"

    def look(self, world: World) -> None:
        """What must never be."""
        running = {
            side: [d for d in world.side(side) if d and d[1] and d[0] in ACTING] for side in SIDES
        }
        if running["source"] and running["destination"]:
            self.wrong.append("both run")
        loading = [d for d in world.destination if d and d[0] == "RESUMING"]
        if not world.spoilt and running["destination"] and loading:
            self.wrong.append("one runs while another is loaded")
        op = self._op(world)
        if self._unrecorded(world) and self.whole(world, "destination"):
            self.wrong.append("nobody has written down that the destination has the whole state")
        if op is not None and op[0] == "transfer":
            if world.program and world.program[0] == "handover":
                self.wrong.append("a stream is continued by one who did not begin it")
            if any(device and device[0] != "RESUMING" for device in world.destination):
                self.wrong.append("a stream goes to a device that takes none")
            stopped = [device and device[0] == "STOP_COPY" for device in world.source if device]
            if not all(stopped) if op[1] == "rest" else any(stopped):
                self.wrong.append("a stream comes from a device that does not give it")

    def _unrecorded(self, world: World) -> bool:
        """A migration has gone on after it transferred the rest, and did not write that down."""
        if world.program is None or world.program[0] != "migration" or world.journal != "source":
            return False
        ops = self.programs[world.program]
        if ("transfer", "rest") not in ops:
            return False
        since = world.at - max(i for i, op in enumerate(ops) if op == ("transfer", "rest"))
        return since > 1 or (since == 1 and (world.at == len(ops) or ops[world.at][0] != "say"))

    # --- a recovery that nobody disturbs ---

    def recover(self, world: World) -> tuple[str | None, World]:
        """Recover; return who runs (None: the state is lost), and how it all stands."""
        world = replace(world, program=None, at=0, tried=frozenset())
        while True:
            chosen = self.decide(world)
            if chosen is None:
                return None, world
            ended = self._carry_out(chosen)
            if ended.program is not None:
                return self.winner(ended), ended
            world = ended

    def _carry_out(self, world: World) -> World:
        while self._op(world) is not None:
            if self.over(world):
                world = self.onward(world)
                continue
            op = self._op(world)
            assert op is not None
            then = None
            for index in range(len(self.words)) if op[0] == "phase" else ():
                found = self.moves(world, op[1], index, failing=False)
                if found:
                    then = self._moved(world, op[1], index, found[0])
                    break
            if then is None:
                return self.fails(world)
            world = then
        return world


def left(situations: set[World]) -> set[World]:
    """The situations in which somebody who comes to recover may find it, each once."""
    nobody = {"program": None, "at": 0, "tried": frozenset()}
    cleared = {"spoilt": False, "rolled_back": False, "started": False, "moved_on": False}
    return {replace(world, **nobody, **cleared) for world in situations if not world.spoilt}


def unfinished(model: HandoverModel, world: World) -> str | None:
    """What is wrong with how a recovery from here ends."""
    winner, ended = model.recover(world)
    able = [side for side in SIDES if model.whole(world, side)]
    if "destination" in able and not world.known:
        able.remove("destination")  # nobody knows it
    if not able:
        return None
    if winner not in able:
        return f"{' and '.join(able)} could run, and {winner} does"
    if any(device != ("RUNNING", True) for device in ended.side(str(winner))):
        return f"the {winner} does not run"
    loser = "source" if winner == "destination" else "destination"
    if any(
        device and device[0] not in ("STOP", explicit_group.LOST) for device in ended.side(loser)
    ):
        return f"the {loser} does not be stopped"
    return None


def given_up(model: HandoverModel, world: World) -> bool:
    """A side that is all there, and is to run whatever has failed, does not come to run."""
    there = {side: all(world.side(side)) for side in SIDES}
    due = there["source"] or (there["destination"] and world.journal == "destination")
    return due and model.recover(world)[0] is None
