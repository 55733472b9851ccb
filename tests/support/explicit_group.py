"""Groups under a plan, situation by situation: a second model of family G, in plain Python.

It reads the raw rows of the plans and, by way of `explicit_device`, of the table, and shares no
code with the model or the prover. Which DMA meets whom is stated here once more, from DESIGN.md.
"""

from __future__ import annotations

import copy
import itertools
import tomllib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from support.explicit_device import ExplicitDevice
from support.table_edits import ROOT, table_data

PLANS = ROOT / "model/group_plan.toml"
BROKEN = ROOT / "tests/data/broken_plans"
WORDS = (1, 3, 5, 7)
BITS = {"STOP_COPY": 1, "P2P": 2, "PRE_COPY": 4}

STARTING = {"RUNNING", "PRE_COPY"}
"""Where a device may start DMA to its peers."""
STOPPED = {"STOP", "STOP_COPY", "RESUMING"}
"""Where it may not accept any."""
LOST = "ERROR"

Where = tuple[str, ...]
Situation = tuple[int, Where]
"""The number of the phase, and where each device is."""


def plan_data() -> dict[str, Any]:
    return tomllib.loads(PLANS.read_text("utf-8"))


def find(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(plan for plan in data["plans"] if plan["name"] == name)


def broken(path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the file states of itself, and the data of the plans it makes."""
    edit = tomllib.loads(path.read_text("utf-8"))
    return edit, apply(edit, plan_data())


def apply(edit: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Edit plans, migrations and handovers.

    Of what a plan goes through (phases), or a migration or handover (steps), one is dropped, or two
    are swapped, or one is put before another; or a key is set of the row, or of one of these (none:
    dropped). Handovers, which have no names, are counted, and dropped and swapped likewise.

    The migrations name the phases: where only plans are edited they are left out.
    """
    data = copy.deepcopy(data)
    if all("plan" in change for change in edit["edit"]):
        data = {name: rows for name, rows in data.items() if name in ("assertions", "plans")}
    for change in edit["edit"]:
        row, parts = _edited(data, change)
        if "drop" in change:
            del parts[_place(parts, change["drop"])]
        elif "swap" in change:
            one, other = (_place(parts, name) for name in change["swap"])
            parts[one], parts[other] = parts[other], parts[one]
        elif "put" in change:
            part = parts.pop(change["put"])
            parts.insert(change["before"], part)
        else:
            if "phase" in change or "step" in change:
                row = parts[_place(parts, change.get("phase", change.get("step")))]
            if "value" in change:
                row[change["key"]] = change["value"]
            else:
                del row[change["key"]]
    return data


def _edited(data: dict[str, Any], change: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The row an edit is about, and what it consists of."""
    if "plan" in change:
        plan = find(data, change["plan"])
        return plan, plan["phases"]
    if "migration" in change:
        row = next(row for row in data["migrations"] if row["name"] == change["migration"])
        return row, row["steps"]
    if "handover" in change:
        row = data["handovers"][change["handover"]]
        return row, row["steps"]
    return data, data["handovers"]


def _place(parts: list[Any], name: str | int) -> int:
    return name if isinstance(name, int) else [part["name"] for part in parts].index(name)


def to_toml(data: dict[str, Any]) -> str:
    """Write plans, and what stands with them, as TOML."""
    return "".join(
        f"{section} = {_value(rows)}\n"
        if isinstance(rows, dict)
        else f"{section} = [\n" + "".join(f"    {_value(row)},\n" for row in rows) + "]\n"
        for section, rows in data.items()
    )


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@cache
def device(word: int) -> ExplicitDevice:
    return ExplicitDevice(table_data(), word)


def unsafe(where: Where) -> bool:
    return any(
        one in STARTING and other in STOPPED for one, other in itertools.permutations(where, 2)
    )


def allowed(plan: dict[str, Any], words: Iterable[int]) -> bool:
    """The plan is for this group."""
    words = list(words)
    return len(words) < 2 or all(
        sum(not word & BITS[limit["lacks"]] for word in words) <= limit["count"]
        for limit in plan.get("limits", ())
    )


def groups(plan: dict[str, Any], size: int) -> Iterator[tuple[int, ...]]:
    for words in itertools.combinations_with_replacement(WORDS, size):
        if allowed(plan, words):
            yield words


def move(phase: dict[str, Any], word: int, state: str) -> dict[str, Any] | None:
    """The move a device in this state has to make, if it is not there already."""
    for row in phase["moves"]:
        needs = all(word & BITS[name] for name in row.get("needs", ()))
        lacks = not any(word & BITS[name] for name in row.get("lacks", ()))
        failed = row.get("failed", False) == (state == LOST)
        may = "may" not in row or row["may"] in device(word).may[state]
        if needs and lacks and failed and may:
            return None if row.get("to") == state else row
    return None


def onward(row: dict[str, Any], word: int, state: str) -> str | None:
    if "event" in row:
        return device(word).event[row["event"]]["to"]
    return device(word).next.get((state, row["to"]))


@dataclass
class Explored:
    """All situations that can be reached, the shortest way to an unsafe one, and the ends."""

    situations: set[Situation]
    unsafe_after: int | None
    ends: set[Where]
    stuck: set[Situation]


def begins(data: dict[str, Any], plan: dict[str, Any], words: tuple[int, ...]) -> set[Where]:
    """Where the plan begins; after other plans, in every situation these can be left in."""
    if "before" in plan:
        places = []
        for word in words:
            rows = [
                row["to"]
                for row in plan["before"]
                if all(word & BITS[name] for name in row.get("needs", ()))
                and not any(word & BITS[name] for name in row.get("lacks", ()))
            ]
            places.append(rows[0])
        return {tuple(places)}
    return {
        where
        for name in plan["after"]
        for _, where in explore(data, find(data, name), words, failing=True).situations
    }


def explore(
    data: dict[str, Any],
    plan: dict[str, Any],
    words: tuple[int, ...],
    *,
    failing: bool,
    starts: set[Where] | None = None,
) -> Explored:
    """Follow a plan breadth first with a group of these capability sets."""
    phases = plan["phases"]
    where0 = begins(data, plan, words) if starts is None else starts
    depth = {(0, where): 0 for where in where0 if not unsafe(where)}
    queue = deque(depth)
    found = Explored(set(depth), None, set(), set())
    while queue:
        now = queue.popleft()
        phase, where = now
        after: list[Situation] = []
        moving = False
        for index, state in enumerate(where):
            row = move(phases[phase], words[index], state)
            if row is None:
                continue
            moving = True
            to = onward(row, words[index], state)
            if to is not None:
                landings = {to, LOST} if failing else {to}
                after += [(phase, (*where[:index], s, *where[index + 1 :])) for s in landings]
        if not moving:
            if phase + 1 == len(phases):
                found.ends.add(where)
            else:
                after.append((phase + 1, where))
        elif not after:
            found.stuck.add(now)
        for then in after:
            if then not in depth:
                depth[then] = depth[now] + 1
                found.situations.add(then)
                if unsafe(then[1]):
                    if found.unsafe_after is None:
                        found.unsafe_after = depth[then]
                else:
                    queue.append(then)
    return found


def shortest(data: dict[str, Any], name: str, size: int, *, failing: bool = False) -> int | None:
    """The length of the shortest run of any group of this size that comes to grief."""
    plan = find(data, name)
    lengths = [
        explore(data, plan, words, failing=failing).unsafe_after for words in groups(plan, size)
    ]
    return min((length for length in lengths if length is not None), default=None)


# --- without any plan ---


def safe_route(
    words: tuple[int, ...],
    from_: Where,
    arrived: Callable[[Where], bool],
    *,
    mishaps: Collection[int] = (),
    refusing: Collection[int] = (),
) -> list[Where] | None:
    """Search every order of every arc for one in which nobody meets; a shortest one, or None.

    Devices of `mishaps` may also fail for good and be reset wherever that helps. Those of
    `refusing` never leave RESUMING but by a reset.
    """
    before: dict[Where, Where | None] = {from_: None}
    queue = deque([from_])
    while queue:
        where = queue.popleft()
        if arrived(where):
            route: list[Where] = []
            step: Where | None = where
            while step is not None:
                route.append(step)
                step = before[step]
            return route[::-1]
        for index, state in enumerate(where):
            landings = [to for here, to in device(words[index]).arcs if here == state]
            if index in mishaps:
                landings += [LOST, "RUNNING"] if landings else ["RUNNING"]
            if index in refusing and state == "RESUMING":
                landings = ["RUNNING"]
            for to in landings:
                then = (*where[:index], to, *where[index + 1 :])
                if then not in before and not unsafe(then):
                    before[then] = where
                    queue.append(then)
    return None
