"""Migrations and recoveries of small groups, run by run: the shortest that breaks what G7 states.

The same places and the same devices as in the proof, but counted: one or two on each side. A run
begins with a migration; then anything may happen that may happen, until something is amiss.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vfio_migration.model import Step, Trace
from vfio_migration.model.plan import Handover, Side, exceeds
from vfio_migration.verifier.solver.obligation import Example
from vfio_migration.verifier.systems.handover import SIDES, Device, Journey, Spot
from vfio_migration.verifier.systems.handover_arrival import Stranded

SIZES = (1, 2)
"""How many devices there are on each side."""

Crowd = tuple[Device | None, ...]
"""The devices of a side; None for one whose server was killed."""


@dataclass(frozen=True, slots=True)
class Now:
    """Everything at one moment; see `handover_proof.Moment`."""

    spot: Spot
    source: Crowd
    destination: Crowd
    ran_source: bool = True
    ran_destination: bool = False
    rolled_back: bool = False
    known: bool = False

    def crowd(self, side: Side) -> Crowd:
        """The devices of a side."""
        return self.source if side == "source" else self.destination


Who = tuple[Side, int]
"""A device: of which side, and which of them."""


@dataclass(frozen=True, slots=True)
class _Event:
    """What happened: in words, or what a device did. `who` is None where it is nobody's doing."""

    words: str | None = None
    who: Who | None = None
    kind: str = "note"
    row: int | None = None


@dataclass(frozen=True, slots=True)
class _Amiss:
    """What must never be, and of which device it is stated; None if of no single one."""

    words: str
    who: Who | None = None


def shortest(journey: Journey) -> Example | None:
    """Search breadth first for a run that breaks the obligation, smaller groups first.

    Returns:
        A shortest run of the smallest groups that have one, or None.
    """
    for size in SIZES:
        found = [run for words in _groups(journey, size) if (run := shortest_of(journey, words))]
        if found:
            return min(found, key=lambda run: len(run.trace.steps if run.trace else ()))
    return None


def shortest_of(journey: Journey, words: tuple[int, ...]) -> Example | None:
    """Search for a run that breaks the obligation, each side with these capability sets."""
    return _Search(journey, words).run()


def deciding_runs(journey: Journey) -> dict[int, Example]:
    """Return, for each handover that ever decides, a shortest run of one device a side."""
    found: dict[int, Example] = {}
    for words in _groups(journey, 1):
        search = _Search(journey, words)
        search.run()
        found = search.decided | found
        if len(found) == len(journey.plans.handovers):
            break
    return found


def accepting_run(journey: Journey) -> Example | None:
    """Return a shortest run in which a destination accepts a stream that is not whole, if any."""
    for words in _groups(journey, 1):
        search = _Search(journey, words)
        search.run()
        if search.accepted is not None:
            return search.accepted
    return None


def stranding(journey: Journey, lost: Stranded) -> Example:
    """Describe a device that a handover does not bring on: a shortest run to there, and on.

    Without a run of one device a side that leads there, the device is all that is reported.
    """
    search = _Search(journey, (lost.word,))
    now = search.reached(lost)
    if now is None:
        return Example(f"{lost.text}; no run of one device a side leads there")
    _, run = search.undisturbed(now)
    return replace(run, text=f"{lost.text}: {run.text}")


def undisturbed(journey: Journey) -> Iterator[tuple[str, bool, Example]]:
    """Report for each migration whether it arrives if nobody is killed and nothing fails.

    Devices move by themselves, so a group arrives if a device of each of its capability sets does.
    The run is that of the last device that does arrive, or of one that does not.
    """
    for migration, begun in zip(journey.plans.migrations, journey.begun, strict=True):
        found: list[tuple[bool, Example]] = []
        for words in _groups(journey, 1):
            search = _Search(journey, words)
            starts = [now for now in search.starts() if now.spot == begun]
            found += map(search.undisturbed, starts)
        yield migration.name, *min(found, key=lambda one: one[0])


def _groups(journey: Journey, size: int) -> Iterator[tuple[int, ...]]:
    """The groups of so many devices that are searched: all of one, of two the most able with any.

    Every plan of the journey is for them.
    """
    machines = journey.encoding.machines
    plans = {place.plan.name: place.plan for place in journey.places if place.plan is not None}
    for word in sorted(machines, reverse=True):
        words = (*[max(machines)] * (size - 1), word)
        names = [frozenset(machines[word].names) for word in words]
        if all(exceeds(plan, names) is None for plan in plans.values()):
            yield words


class _Search:
    """One group: the capability sets of the devices of each side.

    Attributes:
        decided: A shortest run to the first time that each handover decided.
        accepted: A shortest run to where a destination accepts a stream that is not whole.
    """

    def __init__(self, journey: Journey, words: tuple[int, ...]) -> None:
        self.journey = journey
        self.words = words
        self.machines = [journey.encoding.machines[word] for word in words]
        self.before: dict[Now, tuple[Now, _Event] | None] = {}
        self.decided: dict[int, Example] = {}
        self.accepted: Example | None = None

    def run(self) -> Example | None:
        """Return a shortest run to where something is amiss, or None."""
        level = list(self.starts())
        self.before = dict.fromkeys(level)
        while level:
            onward = []
            for now in level:
                if (amiss := self._amiss(now)) is not None:
                    return self._example(now, None, None, amiss)
                for event, then, amiss in self._events(now):
                    if amiss is not None:
                        return self._example(now, event, then, amiss)
                    if event.row is not None and event.row not in self.decided:
                        text = f"so it ends as handover {event.row} requires"
                        self.decided[event.row] = self._example(now, event, then, _Amiss(text))
                    if self.accepted is None and event.who and self._accepts(now, event):
                        text = f"{_name(event.who)} accepted a stream that is not whole"
                        self.accepted = self._example(now, event, then, _Amiss(text, event.who))
                    if then is not None and then not in self.before:
                        self.before[then] = now, event
                        onward.append(then)
            level = onward
        return None

    def _accepts(self, now: Now, event: _Event) -> bool:
        """A destination leaves where it is loaded, and does not hold the whole state."""
        if event.kind != "arc" or event.who is None or event.who[0] != "destination":
            return False
        device = now.destination[event.who[1]]
        return device is not None and device[0] in self.journey.writing and not device[1]

    def starts(self) -> Iterator[Now]:
        """How migrations begin."""
        begins, initial = self.journey.begins, self.journey.spec.initial

        def late(crowd: Crowd) -> tuple[bool, str]:
            return crowd[0] != (initial, False), str(crowd)

        for spot in self.journey.begun:
            crowds = [
                # A group that met is none: all run, or all are stopped.
                [(device,) * len(self.words) for device in begins[side][self.words[0]]]
                for side in SIDES
            ]
            for source in sorted(crowds[0], key=late):
                for destination in sorted(crowds[1], key=late):
                    yield Now(spot, source, destination)

    def reached(self, lost: Stranded) -> Now | None:
        """Return the first moment at which a handover begins with a device as given."""
        level = list(self.starts())
        self.before = dict.fromkeys(level)
        while level:
            onward = []
            for now in level:
                if now.spot == lost.begun and now.crowd(lost.side)[0] == lost.device:
                    return now
                for event, then, _ in self._events(now):
                    if then is not None and then not in self.before:
                        self.before[then] = now, event
                        onward.append(then)
            level = onward
        return None

    def undisturbed(self, now: Now) -> tuple[bool, Example]:
        """Follow a program to its end, or to where it does not go on; return whether it arrives."""
        self.before.setdefault(now, None)
        events, moments = self._history(now)
        seen = {now}
        while (onward := self._undisturbed_step(now)) is not None and onward[1] not in seen:
            event, now = onward
            seen.add(now)
            events.append(event)
            moments.append(now)
        place = self.journey.places[now.spot.place or 0]
        wrong = [
            (side, index)
            for side in SIDES
            for index, device in enumerate(now.crowd(side))
            if device and not self._rests(now, side, index, device)
        ]
        if not wrong:
            amiss = _Amiss("so it ends, and the destination runs")
            return True, self._example_of(events, moments, amiss)
        side, index = wrong[0]
        device = now.crowd(side)[index] or ("", True)
        bare = "" if device[1] else ", which holds no state,"
        words = f"{place}: {_name(wrong[0])} in {device[0]}{bare} does not get on"
        return False, self._example_of(events, moments, _Amiss(words, wrong[0]))

    def _undisturbed_step(self, now: Now) -> tuple[_Event, Now] | None:
        """A step of a device that has one to take, or else to the next place; None if neither."""
        for event, then, _ in self._goes_on(now):
            if then is not None and event.kind in ("arc", "loaded", "reset"):
                return event, then
            if then is not None and then.spot.place not in (None, now.spot.place):
                return event, then
        return None

    def _rests(self, now: Now, side: Side, index: int, device: Device) -> bool:
        """A device is where it is to be when the place is done."""
        place = self.journey.places[now.spot.place or 0]
        if place.kind == "end":
            return self.journey.right(now.spot, side, self.words[index], device)
        return self.journey.passes(now.spot, side, self.machines[index], device)

    # --- what may happen ---

    def _events(self, now: Now) -> Iterator[tuple[_Event, Now | None, _Amiss | None]]:
        """What may happen, where it leads, and what is amiss about it."""
        if now.spot.place is None:
            yield from self._decisions(now)
        else:
            yield from self._goes_on(now)
        for side in SIDES:
            for index, device in enumerate(now.crowd(side)):
                if device is not None:
                    words = f"the server of {_name((side, index))} is killed"
                    killed = _with(now, side, index, None)
                    yield _Event(words, (side, index)), killed, None

    def _goes_on(self, now: Now) -> Iterator[tuple[_Event, Now | None, _Amiss | None]]:
        for side in SIDES:
            for index, device in enumerate(now.crowd(side)):
                if device is not None:
                    yield from self._moves(now, side, index, device)
        onward = self.journey.after(now.spot)
        assert now.spot.place is not None
        place = self.journey.places[now.spot.place]
        if onward is not None and self._over(now):
            ran = now.ran_source and not self.journey.begins_rest(now.spot)
            words = f"the journal has: {place.holder}"
            event = _Event(words, kind="note" if place.holder else "done")
            known = now.known or self.journey.records_delivery(now.spot)
            yield event, replace(now, spot=onward, ran_source=ran, known=known), None
        if place.kind != "end":
            down = replace(now, spot=self.journey.down(now.spot))
            yield _Event("the coordinator is killed, or gives up"), down, None

    def _moves(
        self, now: Now, side: Side, index: int, device: Device
    ) -> Iterator[tuple[_Event, Now, _Amiss | None]]:
        journey, machine = self.journey, self.machines[index]
        for kind, then in journey.transitions(now.spot, side, machine, device):
            if kind == "loaded" and not self._kept(now.source[index]):
                continue
            moved = _with(now, side, index, then)
            runs = bool(then[1]) and then[0] in journey.acting
            if side == "source":
                moved = replace(moved, ran_source=now.ran_source or runs)
            else:
                moved = replace(moved, ran_destination=now.ran_destination or runs)
            starts = then[0] in journey.acting and then[0] != device[0]
            amiss = self._starting(now, side, index, then) if starts else None
            if amiss is None and journey.tears(now.spot, kind, device[0], then[0]):
                who = (side, index)
                words = f"{_name(who)} gives up a session that was transferred in part"
                amiss = _Amiss(words, who)
            yield _Event(None, (side, index), kind), moved, amiss

    def _starting(self, now: Now, side: Side, index: int, device: Device) -> _Amiss | None:
        """What is amiss about a device that starts."""
        if now.spot.degraded or (side == "destination" and now.spot.holder == "source"):
            return None
        why = None
        if not device[1]:
            why = "without the state it is to have"
        elif side == "source" and now.ran_destination and not now.rolled_back:
            why = "although the destination has run, and no handover allows it"
        elif side == "destination" and now.ran_source:
            why = "on what the source has left behind"
        who = (side, index)
        return _Amiss(f"{_name(who)} starts {why}", who) if why else None

    def _over(self, now: Now) -> bool:
        """A place is done. It never is if a device that is needed is gone.

        In the proof it may be all the same: that a device is gone is seen when it is spoken to.
        """
        spot, place = now.spot, self.journey.places[now.spot.place or 0]
        return all(
            self.journey.passes(spot, side, machine, device)
            if device is not None
            else side != place.side or not self.journey.needed(spot, side)
            for side in SIDES
            for device, machine in zip(now.crowd(side), self.machines, strict=True)
        )

    def _decisions(self, now: Now) -> Iterator[tuple[_Event, Now | None, _Amiss | None]]:
        for index, row, begun in self.journey.choices(now.spot):
            if self._holds(row, now):
                words = f'handover {index} decides: the {row.winner}. "{row.summary}"'
                event = _Event(words, row=index)
                then = replace(now, spot=begun, rolled_back=now.rolled_back or row.rolls_back)
                yield event, then, self._given_up(row, now)
                if self._whole(now, row.winner):
                    return
        amiss = self._given_up(None, now)
        yield _Event("no handover holds: the state is lost"), None, amiss

    def _holds(self, row: Handover, now: Now) -> bool:
        return all(
            device is not None and (row.failed or device[0] != self.journey.lost)
            for device in now.crowd(row.winner)
        ) and not any(
            device is not None and device[0] in self.journey.acting
            for side in row.still
            for device in now.crowd(side)
        )

    def _whole(self, now: Now, side: Side) -> bool:
        return all(map(self._kept, now.crowd(side)))

    def _kept(self, device: Device | None) -> bool:
        return device is not None and bool(device[1])

    def _given_up(self, row: Handover | None, now: Now) -> _Amiss | None:
        if now.spot.degraded:
            return None
        sides: tuple[Side, ...] = SIDES
        if row is not None and not row.failed:
            sides = ("destination",) if row.rolls_back else ()
        known = [side for side in sides if side == "source" or now.known]
        whole = [side for side in known if self._whole(now, side)]
        return _Amiss(f"the {whole[0]} holds the whole state, which is given up") if whole else None

    # --- what must never be ---

    def _amiss(self, now: Now) -> _Amiss | None:
        journey = self.journey
        runs = {
            side: [d for d in now.crowd(side) if d and d[1] and d[0] in journey.acting]
            for side in SIDES
        }
        if runs["source"] and runs["destination"]:
            return _Amiss("both sides run")
        if not now.spot.degraded and runs["destination"]:
            for index, device in enumerate(now.destination):
                if device is not None and device[0] in journey.writing:
                    who: Who = ("destination", index)
                    return _Amiss(f"the destination runs while {_name(who)} is being loaded", who)
        if now.spot.place is None:
            return None
        if journey.unwritten(now.spot) and self._whole(now, "destination"):
            return _Amiss("the destination holds the whole state, and nobody has written it down")
        place = journey.places[now.spot.place]
        for side in SIDES:
            for index, device in enumerate(now.crowd(side)):
                if device is not None and not journey.right(
                    now.spot, side, self.words[index], device
                ):
                    who = (side, index)
                    if place.kind == "transfer" and place.row is not None:
                        words = f"what was read of {_name(who)} before is lost"
                        return _Amiss(f"{place}: {words}", who)
                    bare = "" if device[1] else ", which holds no state"
                    return _Amiss(f"{place}: not for {_name(who)} in {device[0]}{bare}", who)
        return None

    # --- as a trace ---

    def _example(self, now: Now, event: _Event | None, then: Now | None, amiss: _Amiss) -> Example:
        events, moments = self._history(now)
        if event is not None:
            events.append(event)
            moments.append(then or now)
        return self._example_of(events, moments, amiss)

    def _history(self, now: Now) -> tuple[list[_Event], list[Now]]:
        """What happened before a moment, and the moments up to it."""
        events: list[_Event] = []
        moments = [now]
        while (earlier := self.before[moments[0]]) is not None:
            moments.insert(0, earlier[0])
            events.insert(0, earlier[1])
        return events, moments

    def _example_of(self, events: list[_Event], moments: list[Now], amiss: _Amiss) -> Example:
        spec, first = self.journey.spec, moments[0]
        everybody = [(side, index) for side in SIDES for index in range(len(self.words))]
        devices = [first.crowd(side)[index] for side, index in everybody]
        start = tuple(device[0] if device else spec.initial for device in devices)
        # A device whose server was killed is assumed to be where it was last seen.
        where = dict(zip(everybody, start, strict=True))
        steps: list[Step] = []
        for happened, (one, other) in zip(events, itertools.pairwise(moments), strict=True):
            if happened.kind != "done":
                steps += self._steps(happened, one, other, where)
        steps.append(self._note(_Event(amiss.words, amiss.who), where))
        trace = Trace(
            spec=spec.name,
            capabilities=tuple(machine.names for machine in self.machines) * 2,
            start=start,
            steps=tuple(steps),
            names=tuple(map(_name, everybody)),
        )
        place = self.journey.places[first.spot.place or 0]
        text = f"{place.program}, {len(self.words)} device{'s' * (len(self.words) > 1)} a side: "
        text += "; ".join(map(trace.describe, steps))
        return Example(text, replace(trace, title=text))

    def _number(self, who: Who) -> int:
        return who[1] + (len(self.words) if who[0] == "destination" else 0)

    def _note(self, event: _Event, where: dict[Who, str]) -> Step:
        who = event.who or ("source", 0)
        return Step(kind="note", device=self._number(who), state=where[who], note=event.words)

    def _steps(self, event: _Event, now: Now, then: Now, where: dict[Who, str]) -> Iterator[Step]:
        """Report one event, and note in `where` where its device then is."""
        who = event.who
        here = now.crowd(who[0])[who[1]] if who else None
        there = then.crowd(who[0])[who[1]] if who else None
        if event.words is not None or who is None or here is None or there is None:
            yield self._note(event, where)
            return
        spec, number, machine = self.journey.spec, self._number(who), self.machines[who[1]]
        before, where[who] = here[0], there[0]
        if event.kind == "loaded":
            yield self._note(_Event(f"the stream of {_name(who)} is whole", who), where)
        elif event.kind == "refuses":
            yield self._note(_Event(f"{_name(who)} refuses what it was given", who), where)
        elif event.kind == "arc":
            yield Step(kind="arc", device=number, from_=before, to=there[0], state=there[0])
        elif event.kind == "fails":
            yield Step(
                kind="arc_failed_for_good",
                device=number,
                from_=before,
                to=self.journey.onward(now.spot, machine, before),
                state=there[0],
                errno=spec.event("arc_failed_for_good").errno,
            )
        elif event.kind == "reset":
            yield Step(kind="reset", device=number, state=there[0])
        else:
            # It is asked again once it is reset, and nobody meets it on the way.
            reset = spec.event("reset").to or before
            note = "its maps are taken away"
            yield Step(kind="reset", device=number, state=reset, note=note)
            for arc in machine.follow(reset, there[0]) or ():
                yield Step(kind="arc", device=number, from_=arc.from_, to=arc.to, state=arc.to)


def _name(who: Who) -> str:
    return f"{who[0]} device {who[1]}"


def _with(now: Now, side: Side, index: int, device: Device | None) -> Now:
    crowd = (*now.crowd(side)[:index], device, *now.crowd(side)[index + 1 :])
    return replace(now, source=crowd) if side == "source" else replace(now, destination=crowd)
