"""Runs of G7 followed in the second model: is each step what the plan lets happen, to that device?

A trace states what happens in steps and words; `explicit_handover` knows what can happen, from the
raw rows. Between two steps the coordinator may go on to its next place, of which a trace states
nothing: so several situations may be meant, and a step is wrong if it happens in none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from support import explicit_group
from support.explicit_handover import ACTING, SIDES, HandoverModel, World
from vfio_migration.model import Step, Trace

_NAME = re.compile(r"(source|destination) device (\d+)")


class Follower:
    """A trace of a migration, held against its plans."""

    def __init__(self, data: dict[str, Any], trace: Trace) -> None:
        size = len(trace.start) // 2
        self.trace = trace
        self.words = tuple(
            sum(explicit_group.BITS[n] for n in names) for names in trace.capabilities[:size]
        )
        assert trace.capabilities[size:] == trace.capabilities[:size]
        self.names = [f"{side} device {index}" for side in SIDES for index in range(size)]
        assert list(trace.names) == self.names
        self.where = [(side, index) for side in SIDES for index in range(size)]
        self.model = HandoverModel(data, self.words)
        program = re.match(r"migration (\S+),", trace.title)
        assert program is not None
        which = [row["name"] for row in data["migrations"]].index(program[1])
        starts = [w for w in self.model.starts() if w.program == ("migration", which)]
        self.worlds = {
            world
            for world in starts
            if tuple(str(d and d[0]) for d in world.source + world.destination) == trace.start
        }
        assert self.worlds, "no migration begins like this"
        self.states = list(trace.start)

    def follow(self) -> str:
        """Take every step but the last, which states what is wrong; return what that states."""
        *steps, last = self.trace.steps
        index = 0
        while index < len(steps):
            index += self._take(index)
            assert self.worlds, f"step {index} cannot happen: {steps[index - 1]}"
            for step in steps[:index]:
                self.states[step.device] = step.state
            self._hold(steps[index - 1])
        assert last.kind == "note"
        self._hold(last)
        assert any(self._is_so(str(last.note), world) for world in self._finished()), last.note
        return str(last.note)

    # --- one step ---

    def _take(self, index: int) -> int:
        """Take a step, and those that belong to it; return how many."""
        step = self.trace.steps[index]
        side, number = self.where[step.device]
        if step.kind == "note":
            self._note(str(step.note))
            return 1
        self.worlds = self._finished()
        count = 1
        if step.kind == "reset" and step.note:
            # It is reset without its maps, and asked again: one step of the second model.
            arcs = explicit_group.device(self.words[number]).arcs
            here = step.state
            assert (here, step.note) == ("RUNNING", "its maps are taken away")
            for more in self.trace.steps[index + 1 :]:
                if more.kind != "arc" or more.device != step.device or count > 2:
                    break
                arrived = {
                    w for w in self._changed(side, number) if w.side(side)[number] == (here, False)
                }
                if arrived:
                    break
                assert more.from_ == here
                assert (here, more.to) in arcs
                here, count = more.state, count + 1
            end = (here, False)
        elif step.kind == "arc_failed_for_good":
            assert step.state == explicit_group.LOST
            assert (step.from_, step.to) in explicit_group.device(self.words[number]).arcs
            end = (explicit_group.LOST, False)
        else:
            end = None
        found = set()
        for world in self.worlds:
            before = world.side(side)[number]
            for then in self.model.after(world):
                after = then.side(side)[number]
                if before is None or after is None or after == before:
                    continue
                if step.kind == "arc" and (before[0], after[0]) != (step.from_, step.to):
                    continue
                if step.kind == "reset" and not step.note and before[0] != explicit_group.LOST:
                    continue
                if step.from_ in (None, before[0]) and (
                    after == end if end else after[0] == step.state
                ):
                    found.add(then)
        self.worlds = found
        return count

    def _changed(self, side: str, number: int) -> Iterator[World]:
        for world in self.worlds:
            for then in self.model.after(world):
                if then.side(side)[number] != world.side(side)[number]:
                    yield then

    def _note(self, note: str) -> None:
        worlds = self._finished()
        if note.startswith("the journal has: "):
            reported = note.rpartition(" ")[2]
            self.worlds = {
                self.model.onward(world)
                for world in worlds
                if self.model._op(world) == ("say", reported)
            }
        elif note.startswith("the coordinator"):
            ended = (then for world in worlds for then in self.model.after(world))
            self.worlds = {then for then in ended if then.program is None}
        elif found := re.fullmatch(r"the server of (.*) is killed", note):
            side, number = self._who(found[1])
            self.worlds = {
                w.with_device(side, number, None) for w in worlds if w.side(side)[number]
            }
        elif found := re.fullmatch(r"the stream of (.*) is whole", note):
            side, number = self._who(found[1])
            assert side == "destination"
            loads = (then for world in worlds for then in self.model.after(world))
            self.worlds = {
                then
                for then in loads
                if then.side(side)[number] == ("RESUMING", True)
                and then.with_device(side, number, ("RESUMING", False)) in worlds
            }
        elif found := re.fullmatch(r"(.*) refuses what it was given", note):
            side, number = self._who(found[1])
            assert side == "destination"
            self.worlds = {
                w.with_device(side, number, ("RESUMING", None))
                for w in worlds
                if w.side(side)[number] == ("RESUMING", True)
                and ("RESUMING", None) in (self.model.moves(w, side, number, failing=True) or ())
            }
        elif found := re.fullmatch(r'handover (\d+) decides: the (\w+)\. "(.*)"', note):
            row = self.model.data["handovers"][int(found[1])]
            assert (row["winner"], row["summary"]) == (found[2], found[3])
            decided = set()
            for world in worlds:
                tried: World | None = world
                # Rows before this one may have been tried, and not have come to anything.
                while tried is not None and tried.program is None:
                    then = self.model.decide(tried)
                    if then is not None and then.program == ("handover", int(found[1])):
                        decided.add(then)
                        break
                    if then is None or self.model.whole(then, self.model.winner(then)):
                        break
                    tried = self.model.fails(then)
            self.worlds = decided
        else:
            assert note == "no handover holds: the state is lost", note
            self.worlds = {world for world in worlds if self._nobody(world)}

    def _nobody(self, world: World) -> bool:
        """Of the rows that hold, none leads to a winner that is whole."""
        while (then := self.model.decide(world)) is not None:
            if self.model.whole(then, self.model.winner(then)):
                return False
            world = self.model.fails(then)
        return True

    # --- what holds ---

    def _finished(self) -> set[World]:
        """The situations, and those that are reached from them in silence."""
        todo, found = list(self.worlds), set(self.worlds)
        while todo:
            world = todo.pop()
            op = self.model._op(world) if world.program else None
            if op is not None and op[0] != "say" and self.model.over(world):
                then = self.model.onward(world)
                if then not in found:
                    found.add(then)
                    todo.append(then)
        return found

    def _who(self, name: str) -> tuple[str, int]:
        side, _, number = name.partition(" device ")
        return side, int(number)

    def _hold(self, step: Step) -> None:
        """The device that a step is of stands where it states, and its note names no other."""
        assert step.state == self.states[step.device], step
        for world in self.worlds:
            side, number = self.where[step.device]
            device = world.side(side)[number]
            assert device is None or device[0] == step.state, step
        named = _NAME.search(step.note or "")
        if named:
            assert self.names[step.device] == named[0], step
        elif step.kind == "note":
            assert step.device == 0

    def _goes_on(self, world: World, side: str) -> bool:
        """The next place can be reached, or a device of the side has something to do."""
        if self.model._op(world) is None:
            return False
        moves = (self.model.moves(world, side, i, failing=False) for i in range(len(self.words)))
        return self.model.over(world) or any(moves)

    def _is_so(self, reported: str, world: World) -> bool:
        """What the end of a trace states is so."""
        running = {s: [d for d in world.side(s) if d and d[1] and d[0] in ACTING] for s in SIDES}
        if reported == "both sides run":
            return all(running.values())
        if found := re.fullmatch(r"the (\w+) holds the whole state, which is given up", reported):
            known = found[1] == "source" or world.known
            return known and self.model.whole(world, found[1])
        if reported == "the destination holds the whole state, and nobody has written it down":
            return self.model._unrecorded(world) and self.model.whole(world, "destination")
        named = _NAME.search(reported)
        assert named is not None, reported
        side, number = self._who(named[0])
        device = world.side(side)[number]
        if device is None:
            return False
        if reported.startswith("the destination runs while"):
            return bool(running["destination"]) and device[0] == "RESUMING"
        if " starts " in reported:
            claims = {
                "without the state it is to have": not device[1],
                "although the destination has run, and no handover allows it": world.started
                and not world.rolled_back
                and side == "source",
                "on what the source has left behind": world.moved_on and side == "destination",
            }
            return device[0] in ACTING and claims[reported.partition(" starts ")[2]]
        if reported.endswith("before is lost"):
            return self.model._op(world) == (
                "transfer",
                reported.split("transfer: ")[1].split(":")[0],
            )
        if reported.endswith(" gives up a session that was transferred in part"):
            return explicit_group.device(self.words[number]).transfer[device[0]] == "none"
        if found := re.search(r" in (\w+)(, which holds no state,)? does not get on$", reported):
            return device == (found[1], found[2] is None) and not self._goes_on(world, side)
        found = re.search(r"not for \S+ device \d+ in (\w+)(, which holds no state)?$", reported)
        assert found is not None, reported
        return device == (found[1], found[2] is None)


def follow(data: dict[str, Any], trace: Trace) -> str:
    """Check every step of a trace against its plans; return what it states is wrong."""
    return Follower(data, trace).follow()
