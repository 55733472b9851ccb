"""A table made of next steps and a base table.

Arcs and refusals follow from the cells: a cell that steps to its target is an arc, and a cell that
refuses where a path exists is a refusal. What is left, which no arcs and routing rule express, is
written down cell by cell. Everything else is the base's, matched by name: the place of a state on
the grid, effects, errnos, rules and events. Then every cell, of every capability set if smaller
ones follow from the source, is held against the table that was made.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.load import from_data, to_data
from vfio_migration.model.machine import Machine
from vfio_migration.model.sources.facts import Header, NextSteps, Place, wrong
from vfio_migration.model.spec import Spec

_SHOWN = 12
"""How many cells an error lists."""


def failed_state(base: Spec) -> str:
    """Return the name of the state that cannot be asked for: in a next-step table, a refusal.

    Raises:
        SpecError: The base table has none, or several.
    """
    names = [row.name for row in base.states if not row.settable]
    if len(names) != 1:
        problem = "is how many states cannot be asked for; a next-step table needs one"
        raise SpecError([Mistake("--base", len(names), problem, None)])
    return names[0]


def derive(steps: NextSteps, numbers: Header | None, base: Spec, name: str) -> dict[str, Any]:
    """Return the data of a table that does what the next steps say.

    Args:
        steps: The next-step table.
        numbers: The values of states and capabilities; those of the base by default.
        base: Where everything else is from.
        name: The name of the new table.

    Raises:
        SpecError: The source names what the base does not know, contradicts itself, or does what
            no table can state.
    """
    failed = failed_state(base)
    _fits(steps, numbers, base, failed)
    data = to_data(base)
    data["name"] = name
    _states(data, steps, numbers)
    _capabilities(data, steps, numbers)
    data["arcs"] = list(_arcs(data["arcs"], steps, failed))
    data["session_effects"] = [*data["session_effects"], *_effects(data, steps, failed)]
    # Everything is written down first: what the routing rule selects too is taken out again.
    data["refusals"] = []
    data["next_steps"] = list(_written(steps, failed, steps.cells))
    try:
        free = dataclasses.replace(from_data(data, name), next_steps=())
        flags = sum(row.value for row in free.capabilities)
        data["refusals"] = list(_refusals(base, steps, failed, free.machine(flags)))
        refused = {(row["from"], row["to"]) for row in data["refusals"]}
        shut = [row for row in data["next_steps"] if (row["from"], row["to"]) not in refused]
        data["next_steps"] = shut
        plain = dataclasses.replace(from_data(data, name), next_steps=())
        data["next_steps"] = list(_written(steps, failed, _unlike(plain, steps, failed)))
        taken = _sessions(plain, steps, failed)
        data["session_effects"] = [
            row for row in data["session_effects"] if (row["from"], row["to"]) in taken
        ]
        mistakes = _inexpressible(from_data(data, name), steps, failed)
    except SpecError as error:
        mistakes = tuple(_traced(mistake, data) for mistake in error.mistakes)
    if mistakes:
        # What differs from the base is what somebody changed, as a rule: it is named first.
        changed = changed_cells(steps, base)
        raise SpecError([*_first(changed), *_first(mistakes)], "no table can express this")
    if not data["next_steps"]:
        del data["next_steps"]
    return data


def _fits(steps: NextSteps, numbers: Header | None, base: Spec, failed: str) -> None:
    known = {row.name for row in base.states}
    for state, place in steps.rows.items():
        if state not in known:
            hint = "add it to a copy of the base table, with its operation and session: --base"
            raise wrong(place, state, "is not a state of the base table", hint)
    if failed not in steps.rows:
        raise SpecError([Mistake("--base", failed, "is not a state of the source", None)])
    for (here, there), cell in steps.cells.items():
        refuses = cell.next == failed
        if failed in (here, there) and not refuses:
            problem = f"is not refused, though {failed} is neither left nor asked for"
            raise wrong(cell.place, f"{here} -> {there}", problem)
    if numbers is not None:
        for state, place in steps.rows.items():
            if state not in numbers.states:
                raise wrong(place, state, "is not an enumerator of the header")
        for state, (_, place) in numbers.states.items():
            if state not in steps.rows:
                raise wrong(place, state, "is a state without a row in the next-step table")
    listed = {row.name for row in base.capabilities} | set(numbers.capabilities if numbers else ())
    for names, place in (steps.required or {}).values():
        for capability in names:
            if capability not in listed:
                hint = "give the header that defines it too"
                raise wrong(place, capability, "is not a capability of the base table", hint)


def _states(data: dict[str, Any], steps: NextSteps, numbers: Header | None) -> None:
    data["states"] = [row for row in data["states"] if row["name"] in steps.rows]
    # A column without a state would be between its neighbours.
    columns = {row["operation"] for row in data["states"]}
    data["operations"] = [row for row in data["operations"] if row["name"] in columns]
    for row in data["states"]:
        state = row["name"]
        row["source"] = str(steps.rows[state])
        if numbers is not None:
            row["value"], place = numbers.states[state]
            row["source"] += f"; {place}" if place != steps.rows[state] else ""
        if steps.required is not None and steps.required[state][0]:
            names, place = steps.required[state]
            row["requires"] = list(names)
            row["source"] += f"; {place}"


def _capabilities(data: dict[str, Any], steps: NextSteps, numbers: Header | None) -> None:
    if steps.required is None:
        used = {name for row in data["states"] for name in row["requires"]}
    else:
        used = {name for names, _ in steps.required.values() for name in names}
    rows = {row["name"]: row for row in data["capabilities"]}
    for name, (value, place) in (numbers.capabilities if numbers else {}).items():
        made = {"name": name, "mandatory": False, "summary": "As the header has it."}
        row = rows.setdefault(name, made)
        row["value"], row["source"] = value, str(place)
        used.add(name)
    data["capabilities"] = [row for name, row in rows.items() if name in used]
    for profile in data["profiles"]:
        profile["universe"] = [name for name in profile["universe"] if name in used]
    first = data["profiles"][0]["universe"]
    first += [name for name in rows if name in used and name not in first]
    seen: list[list[str]] = []
    kept = []
    for profile in data["profiles"]:
        if profile["universe"] not in seen:
            seen.append(profile["universe"])
            kept.append(profile)
    data["profiles"] = kept


def _arcs(rows: list[dict[str, Any]], steps: NextSteps, failed: str) -> Iterator[dict[str, Any]]:
    """Yield an arc for each cell that steps to its target: those of the base first."""
    found = {
        (here, there): cell.place
        for (here, there), cell in steps.cells.items()
        if cell.next == there and here != there and failed not in (here, there)
    }
    of_base = {(row["from"], row["to"]): row for row in rows}
    for ends in (*(ends for ends in of_base if ends in found), *found):
        if ends in found:
            made = {"from": ends[0], "to": ends[1], "summary": "As the next-step table has it."}
            yield of_base.get(ends, made) | {"source": str(found.pop(ends))}


def _refusals(
    base: Spec, steps: NextSteps, failed: str, whole: Machine
) -> Iterator[dict[str, Any]]:
    for (here, there), cell in steps.cells.items():
        if cell.next != failed or failed in (here, there):
            continue
        row = base.refusal(here, there)
        if row is None and whole.next_step(here, there) is None:
            continue  # refused in any case: no path leads there
        yield {
            "from": here,
            "to": there,
            "errno": row.errno if row else "EINVAL",
            "reason": row.reason if row else "the next-step table refuses it",
            "source": str(cell.place),
        }


def _effects(data: Mapping[str, Any], steps: NextSteps, failed: str) -> Iterator[dict[str, Any]]:
    """Yield what a step between two sessions does of which the base table does not speak.

    No source reports it. The session that was open is not closed in any way that a table knows: it
    is taken to be there still, and one to be opened if something is streamed at the other end.
    """
    session = {row["name"]: row["session"] for row in data["states"]}
    streams = {row["name"]: row["transfer"] != "none" for row in data["sessions"]}
    known = {(row["from"], row["to"]) for row in data["session_effects"]}
    for (here, there), cell in steps.cells.items():
        # A smaller set may look the step up again, which ends at the target at the latest.
        for end in {cell.next, there} - {failed}:
            ends = session[here], session[end]
            if here != failed and cell.next != failed and ends not in known:
                known.add(ends)
                effect = "opens" if streams[ends[1]] else "closes"
                source = f"assumed, for no source reports it; {cell.place} needs it"
                yield {"from": ends[0], "to": ends[1], "effect": effect, "source": source}


def _sessions(spec: Spec, steps: NextSteps, failed: str) -> set[tuple[str, str]]:
    """Return the pairs of sessions between which a step leads, with any capability set."""
    found = set()
    for flags in spec.capability_sets():
        machine = spec.machine(flags)
        for here, there in _requests(machine, failed):
            step = _looked_up(steps, machine, here, there, failed)
            if isinstance(step, str):
                found.add((spec.state(here).session, spec.state(step).session))
    for (here, there), cell in steps.cells.items():
        if here == there != cell.next and failed not in (here, cell.next):
            found.add((spec.state(here).session, spec.state(cell.next).session))
    return found


def _written(
    steps: NextSteps, failed: str, cells: Iterable[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each of these cells that does step somewhere."""
    for here, there in cells:
        cell = steps.cells[here, there]
        moves = cell.next != here if here == there else cell.next != failed
        if moves and failed not in (here, there):
            source = str(cell.place)
            yield {"from": here, "to": there, "step": cell.next, "source": source}


def _unlike(spec: Spec, steps: NextSteps, failed: str) -> list[tuple[str, str]]:
    """Return the cells that are not as the routing rule selects, with any capability set."""
    found = {(here, here): None for here in steps.rows if steps.cells[here, here].next != here}
    for flags in reversed(spec.capability_sets() if steps.skips else (spec.capability_set(),)):
        machine = spec.machine(flags)
        for here, there in _requests(machine, failed):
            if _looked_up(steps, machine, here, there, failed) != machine.next_step(here, there):
                found[here, there] = None
        if found:
            break  # and what is written down makes the smaller sets, too, the source's
    return list(found)


def _inexpressible(spec: Spec, steps: NextSteps, failed: str) -> tuple[Mistake, ...]:
    """Hold every cell against the paths of the table; return those that it cannot express."""
    mistakes: dict[tuple[Place, str], Mistake] = {}
    for flags in spec.capability_sets() if steps.skips else (spec.capability_set(),):
        machine = spec.machine(flags)
        for here, there in _requests(machine, failed):
            place = steps.cells[here, there].place
            step = _looked_up(steps, machine, here, there, failed)
            wanted = machine.next_step(here, there)
            if step is _NEVER_ENDS and spec.next_steps:
                continue  # there is no step then, and T6 states of which request it is so
            if step != wanted:
                request = f"{here} -> {there}"
                problem = f"{_steps(step)}; by the shortest path of its arcs it {_steps(wanted)}"
                hint = f"so it is with {','.join(machine.names)}"
                mistakes.setdefault((place, request), Mistake(str(place), request, problem, hint))
    return tuple(mistakes.values())


def changed_cells(steps: NextSteps, base: Spec) -> tuple[Mistake, ...]:
    """Return the cells that are not as the paths of the base table have them."""
    failed = failed_state(base)
    machine = base.machine({name for row in steps.rows for name in base.state(row).requires})
    found = []
    for (here, there), cell in steps.cells.items():
        if failed in (here, there):
            continue
        wanted = here if here == there else machine.next_step(here, there)
        if cell.next != (failed if wanted is None else wanted):
            step = None if cell.next == failed else cell.next
            problem = f"{_steps(step)}; in the base table it {_steps(wanted)}"
            found.append(Mistake(str(cell.place), f"{here} -> {there}", problem, None))
    return tuple(found)


def _requests(machine: Machine, failed: str) -> Iterator[tuple[str, str]]:
    for state in machine.states:
        for target in machine.states:
            if state != target and failed not in (state.name, target.name):
                yield state.name, target.name


def _first(mistakes: tuple[Mistake, ...]) -> Iterator[Mistake]:
    yield from mistakes[:_SHOWN]
    if len(mistakes) > _SHOWN:
        more = len(mistakes) - _SHOWN
        yield Mistake("...", more, "more cells", "mend those above first")


def _traced(mistake: Mistake, data: Mapping[str, Any]) -> Mistake:
    """Name the line of the source that a row of the made table is from."""
    row = re.search(r"(\w+)\[(\d+)\]", f"{mistake.place} {mistake.problem}")
    if row is None:
        return mistake
    made = data[row[1]][int(row[2])]
    called = made.get("name") or f"{made['from']} -> {made['to']}"
    source = str(made["source"]).partition(";")[0]
    return Mistake(source, called, f"{mistake.problem} ({mistake.place})", mistake.hint)


_NEVER_ENDS = object()


def _looked_up(
    steps: NextSteps, machine: Machine, here: str, there: str, failed: str
) -> str | object | None:
    """Return the next step as the source looks it up, skipping states this set lacks."""
    step = steps.cells[here, there].next
    for _ in steps.rows:
        if step == failed:
            return None
        if machine.supports(step):
            return step
        step = steps.cells[step, there].next
    return _NEVER_ENDS


def _steps(step: str | object | None) -> str:
    if step is _NEVER_ENDS:
        return "is looked up for ever"
    return "is refused" if step is None else f"steps to {step}"


# --- rows as data ---------------------------------------------------------------------------------


def to_toml(data: Mapping[str, Any]) -> str:
    """Write the data of a table as TOML."""
    import json

    def line(key: str, value: object) -> str:
        # A JSON string, number, truth value or list of strings is one of TOML too.
        return f"{key} = {json.dumps(value, ensure_ascii=False)}"

    scalars = {key: value for key, value in data.items() if not isinstance(value, list)}
    lines = [line(key, value) for key, value in scalars.items()]
    for section, rows in data.items():
        if section not in scalars:
            for row in rows:
                lines += ["", f"[[{section}]]", *(line(key, value) for key, value in row.items())]
    return "\n".join(lines) + "\n"


__all__ = ["derive", "failed_state", "to_toml"]
