"""What must hold between the rows of a table, beyond each row having the right shape.

The checks read the plain data of the file, not the typed rows, so that a table with a misspelt key
in one place still gets its dangling arcs in another reported in the same run. What has the wrong
type is passed over here: `vfio_migration.model.load` reports it. And one mistake is reported once:
where a section cannot be read, nothing is stated of the rows that refer to it.
"""

from __future__ import annotations

import errno as errno_module
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, get_args

from vfio_migration.model.errors import Mistake, closest, did_you_mean, escaped
from vfio_migration.model.raw_rows import (
    NAME,
    Data,
    PlainTable,
    arrow,
    name_of,
    number_of,
    pair_of,
    text_of,
)
from vfio_migration.model.spec import Condition, EventName, Row

_ROWS: list[Any] = Row.__subclasses__()
_KEYS = {field.name.rstrip("_") for rows in _ROWS for field in fields(rows)}
_MAY_BE_EMPTY = ("activities", "refusals", "next_steps")


def check(data: Data) -> list[Mistake]:
    """Return every mistake that rows make against each other."""
    table = PlainTable(data)
    for look in (
        _texts,
        _names,
        _capabilities,
        _axes,
        _states,
        _arcs,
        _refusals,
        _requests,
        _routing,
        _next_steps,
        _events,
    ):
        look(table)
    table.report_unknown()
    if _connected_by_known_arcs(table) and not table.data.get("next_steps"):
        # Only then: one misspelt arc would make half the states unreachable. Where next steps are
        # written down, arcs alone do not state what is reached; T3 and D9 do.
        _reachability(table)
    return table.mistakes


def _texts(table: PlainTable) -> None:
    texts(table, ("name", "title", "initial"), _KEYS)


def texts(table: PlainTable, heads: Collection[str], keys: Collection[str]) -> None:
    """Report texts that say nothing, and items that occur twice in one list.

    `heads` are the keys outside of all sections, `keys` those that a row may have.
    """
    for key in heads:
        _blank(table, key, table.data.get(key))
    for section in table.sections:
        for index, row in table.rows(section):
            for key, value in row.items():
                if key not in keys:
                    continue
                place = f"{section}[{index}].{key}"
                _blank(table, place, value)
                if isinstance(value, list):
                    for position, item in enumerate(value):
                        _blank(table, f"{place}[{position}]", item)
                        if isinstance(item, str) and item in value[:position]:
                            problem = "occurs twice in this list"
                            table.report(f"{place}[{position}]", item, problem, "remove one")


def _blank(table: PlainTable, place: str, value: object) -> None:
    if isinstance(value, str) and not value.strip():
        table.report(place, value, "is empty")


def _names(table: PlainTable) -> None:
    names(table, _MAY_BE_EMPTY, ("events",))  # those: see _events
    table.refer("initial", table.data.get("initial"), "states", "state")


def names(table: PlainTable, may_be_empty: Collection[str], repeated: Collection[str]) -> None:
    """Report names that are none or are taken, and sections that lack rows.

    `repeated` are the sections in which a name may occur more than once.
    """
    for section in table.sections:
        if section not in repeated:
            table.unique(section, ".name", name_of, "give it another")
        for index, row in table.rows(section):
            name = name_of(row)
            if name is not None and name.strip() and not NAME.fullmatch(name):
                table.report(
                    f"{section}[{index}].name",
                    name,
                    "is not a name",
                    "a name is a letter, then letters, digits, _ and -",
                )
        if table.data.get(section) == [] and section not in may_be_empty:
            table.report(section, None, "has no rows", f"add [[{section}]]")


def _capabilities(table: PlainTable) -> None:
    table.unique("capabilities", ".value", lambda row: number_of(row, "value"), "give it another")
    for index, row in table.rows("capabilities"):
        place, value = f"capabilities[{index}]", number_of(row, "value")
        if value is not None and value >= 1 << 64:
            table.report(f"{place}.value", value, "does not fit the 64 bits of the flags word")
        elif value is not None and (value <= 0 or value & (value - 1)):
            table.report(f"{place}.value", value, "is not one bit", "take 1, 2, 4, 8, ...")
        if row.get("name") in _TAKEN:
            table.report(f"{place}.name", row["name"], "is taken", "choose another name")
    table.refer_all("profiles", "universe", "capabilities", "capability")
    for index, row in table.rows("profiles"):
        universe = row.get("universe")
        if isinstance(universe, list) and all(
            table.knows("capabilities", name) for name in universe
        ):
            for name in table.mandatory:
                if name not in universe:
                    table.report(
                        f"profiles[{index}].universe",
                        universe,
                        f"lacks {escaped(name, quotes=False)}, which is mandatory",
                        f'add "{escaped(name)}"',
                    )


_TAKEN = ("mro", "name", "value")
"""What a member of a `Flag`, which capabilities become, cannot be called."""


def _axes(table: PlainTable) -> None:
    table.unique("activities", ".role", _role, 'give one of them role = "none"')
    table.refer_all("operations", "may", "activities", "activity")
    table.refer_all("sessions", "grows_while", "activities", "activity")
    table.refer_all("session_effects", "from", "sessions", "session")
    table.refer_all("session_effects", "to", "sessions", "session")
    table.unique("session_effects", "", pair_of, "remove one of the two")
    _one_each(table, "stream_ends", "kind", ("temporary", "final"))
    for index, row in table.rows("sessions"):
        if row.get("judged") is True and row.get("transfer") in ("none", "read"):
            table.report(
                f"sessions[{index}].judged",
                True,
                f'is for a session whose transfer is "{row["transfer"]}": there is no stream '
                "to judge",
                "remove it",
            )


def _role(row: Mapping[str, object]) -> str | None:
    """Return the role of an activity, if no other may have it."""
    role = text_of(row, "role")
    return None if role == "none" else role


def _one_each(table: PlainTable, section: str, key: str, wanted: Collection[str]) -> None:
    """Report rows of a section that say the same twice, and what none of them says."""
    table.unique(section, f".{key}", lambda row: text_of(row, key), "remove one of the two")
    rows = table.data.get(section)
    given = [text_of(row, key) for _, row in table.rows(section)]
    # A row that states something else, or nothing that can be read, may be the one that is missing.
    if (
        isinstance(rows, list)
        and rows
        and len(given) == len(rows)
        and all(s in wanted for s in given)
    ):
        for one in wanted:
            if one not in given:
                table.report(section, None, f'has no row with {key} = "{one}"', "add one")


def _states(table: PlainTable) -> None:
    table.refer_all("states", "requires", "capabilities", "capability")
    table.refer_all("states", "operation", "operations", "operation")
    table.refer_all("states", "session", "sessions", "session")
    table.unique("states", ".value", lambda row: number_of(row, "value"), "give it another")
    off_grid = [row.get("name") for _, row in table.rows("operations") if row.get("off_grid")]
    places: dict[tuple[str, str], int] = {}
    for index, row in table.rows("states"):
        value = number_of(row, "value")
        if value is not None and not 0 <= value < 1 << 32:
            table.report(
                f"states[{index}].value", value, "does not fit the 32 bits of device_state"
            )
        operation, session = text_of(row, "operation"), text_of(row, "session")
        if operation is None or session is None or operation in off_grid:
            continue
        if not table.knows("operations", operation) or not table.knows("sessions", session):
            continue
        first = places.setdefault((operation, session), index)
        if first != index:
            table.report(
                f"states[{index}]",
                f"{operation}, {session}",
                f"is the place on the grid that states[{first}] has already",
                "give it an operation or a session of its own",
            )
    _initial(table)


def _initial(table: PlainTable) -> None:
    """Report an initial state that requires what a device may lack."""
    name = table.data.get("initial")
    for _, row in table.rows("states"):
        requires = row.get("requires")
        if row.get("name") != name or not isinstance(requires, list):
            continue
        lacking = [capability for capability in requires if capability in table.optional]
        if lacking and table.readable("states"):
            problem = f"requires {' and '.join(lacking)}, which a device may lack"
            table.report("initial", name, problem, "every device must have the initial state")


def _arcs(table: PlainTable) -> None:
    table.unique("arcs", "", pair_of, "remove one of the two")
    table.refer_all("arcs", "from", "states", "state")
    table.refer_all("arcs", "to", "states", "state")
    for index, row in table.rows("arcs"):
        if "via" in row:
            table.report(f"arcs[{index}].via", row["via"], "is computed, not written", "remove it")
        pair = pair_of(row)
        if pair is not None and pair[0] == pair[1]:
            table.report(
                f"arcs[{index}]",
                arrow(pair),
                "leads back to where it begins",
                "a request for the present state needs no arc; remove this row",
            )
    _effects(table)


def _effects(table: PlainTable) -> None:
    """Report moves from session to session that arcs make and no row of effects speaks of."""
    rows = table.data.get("session_effects")
    effects = [pair for _, row in table.rows("session_effects") if (pair := pair_of(row))]
    if not isinstance(rows, list) or not rows or len(set(effects)) != len(rows):
        return  # a row that cannot be read, or occurs twice, may be the one that seems to lack
    if not all(table.knows("sessions", end) for pair in effects for end in pair):
        return
    if any(mistake.place.startswith("states[") for mistake in table.mistakes):
        return  # a state with the wrong name or session makes its arcs look wrong
    sessions = {name_of(row): text_of(row, "session") for _, row in table.rows("states")}
    lacking: dict[tuple[str, str], list[int]] = {}
    for index, row in table.rows("arcs"):
        pair = pair_of(row)
        if pair is None or pair[0] == pair[1]:
            continue
        from_, to = (sessions.get(end) for end in pair)
        if from_ is None or to is None or (from_, to) in effects:
            continue
        if table.knows("sessions", from_) and table.knows("sessions", to):
            lacking.setdefault((from_, to), []).append(index)
    for (from_, to), arcs in lacking.items():
        needed = ", ".join(f"arcs[{index}]" for index in arcs[:3])
        more = f" and {len(arcs) - 3} more" if len(arcs) > 3 else ""
        table.report(
            "session_effects",
            None,
            f"has no row for the move from {from_} to {to} that {needed}{more} would make",
            f'add one with from = "{from_}" and to = "{to}"',
        )


def _refusals(table: PlainTable) -> None:
    table.unique("refusals", "", pair_of, "remove one of the two")
    table.refer_all("refusals", "from", "states", "state")
    table.refer_all("refusals", "to", "states", "state")
    arcs: dict[object, int] = {}
    for index, row in table.rows("arcs"):
        arcs.setdefault(pair_of(row), index)
    for index, row in table.rows("refusals"):
        pair = pair_of(row)
        if pair is None:
            continue
        if pair[0] == pair[1]:
            table.report(
                f"refusals[{index}]",
                arrow(pair),
                "refuses a request that changes nothing",
                "remove this row",
            )
        elif pair in arcs:
            table.report(
                f"refusals[{index}]",
                arrow(pair),
                f"contradicts arcs[{arcs[pair]}], which allows it",
                "remove one of the two",
            )
    for section in ("refusals", "requests", "events"):
        errnos(table, section)


def errnos(table: PlainTable, section: str) -> None:
    """Report errnos that this system does not have."""
    known = errno_module.errorcode.values()
    for index, row in table.rows(section):
        name = text_of(row, "errno")
        if name is not None and name.strip() and name not in known:
            hint = did_you_mean(closest(name, known)) or 'write its name, as in "EINVAL"'
            table.report(f"{section}[{index}].errno", name, "is not an errno of this system", hint)


def _requests(table: PlainTable) -> None:
    _one_each(table, "requests", "when", get_args(Condition))
    for index, row in table.rows("requests"):
        if row.get("when") not in get_args(Condition):
            continue
        refuses = row.get("outcome") == "refused"
        by_name = row.get("when") == "pair_refused"
        for key in ("errno", "reason"):
            place = f"requests[{index}].{key}"
            if refuses and not by_name and key not in row:
                table.report(
                    place, None, "is missing from a row that refuses", f'add {key} = "..."'
                )
            elif refuses and by_name and key in row:
                problem = "is never used: [[refusals]] specifies it for each pair"
                table.report(place, row[key], problem, "remove it")
        if row.get("outcome") == "nothing" and "errno" in row:
            table.report(
                f"requests[{index}].errno",
                row["errno"],
                "is never used: the row refuses nothing",
                "remove it",
            )


def _routing(table: PlainTable) -> None:
    table.refer_all("routing", "guarded", "sessions", "session")
    rules = table.data.get("routing")
    if not isinstance(rules, list) or not rules:
        return
    given = [row.get("in_force") if isinstance(row, Mapping) else None for row in rules]
    in_force = [index for index, value in enumerate(given) if value is True]
    if not in_force and all(value is False for value in given):
        table.report("routing", None, "has no rule in force", "set in_force = true on one of them")
    for index in in_force[1:]:
        table.report(
            f"routing[{index}].in_force",
            True,
            f"makes a second rule in force, beside routing[{in_force[0]}]",
            "only one can be",
        )


def _next_steps(table: PlainTable) -> None:
    table.unique("next_steps", "", pair_of, "remove one of the two")
    for key in ("from", "to", "step"):
        table.refer_all("next_steps", key, "states", "state")
    refused: dict[object, int] = {}
    for index, row in table.rows("refusals"):
        refused.setdefault(pair_of(row), index)
    for index, row in table.rows("next_steps"):
        pair = pair_of(row)
        if pair is not None and pair in refused:
            table.report(
                f"next_steps[{index}]",
                arrow(pair),
                f"contradicts refusals[{refused[pair]}], which refuses it",
                "remove one of the two",
            )


def _events(table: PlainTable) -> None:
    table.refer_all("events", "to", "states", "state")
    _one_each(table, "events", "name", get_args(EventName))
    for index, row in table.rows("events"):
        if row.get("name") in _FAILURES and "errno" not in row:
            table.report(
                f"events[{index}].errno",
                None,
                "is missing: the failed request must be answered something",
                'add errno = "..."',
            )
        # A name that occurs twice is a mistake of its own: which event the row means is not known.
        known = row.get("name") in get_args(EventName)
        single = table.names["events"].count(str(row.get("name"))) == 1
        if row.get("drops") and known and single and row["name"] != _LEAVING:
            table.report(
                f"events[{index}].drops",
                row["drops"],
                "is read where a client goes away only",
                f'put it into the row name = "{_LEAVING}"',
            )


_FAILURES = ("arc_failed", "arc_failed_for_good")
_LEAVING = "disconnect"


def _connected_by_known_arcs(table: PlainTable) -> bool:
    """Return whether it is known which states the arcs connect."""
    if not table.knows("states", table.data.get("initial")):
        return False
    arcs = table.data.get("arcs")
    pairs = [pair for _, row in table.rows("arcs") if (pair := pair_of(row))]
    if not isinstance(arcs, list) or len(set(pairs)) != len(arcs):
        return False
    if set(table.names["events"]) != set(get_args(EventName)):
        return False
    ends = [to for _, row in table.rows("events") if (to := row.get("to")) is not None]
    known = set(table.names["states"])
    return (
        bool(pairs)
        and all(pair[0] != pair[1] and known.issuperset(pair) for pair in pairs)
        and all(to in known for to in ends if isinstance(to, str))
        and all(isinstance(to, str) for to in ends)
    )


def _reachability(table: PlainTable) -> None:
    """Report states no request can reach, and states no request can leave for the initial one.

    A state that a device only fails into is exempt: it is entered and left by events.
    """
    by_failure = {
        text_of(row, "to") for _, row in table.rows("events") if row.get("name") in _FAILURES
    }
    pairs = [pair for _, row in table.rows("arcs") if (pair := pair_of(row))]
    initial = table.data.get("initial")
    reachable = _closure(initial, pairs)
    returning = _closure(initial, [(to, from_) for from_, to in pairs])
    for index, row in table.rows("states"):
        name = name_of(row)
        if name is None or name in by_failure:
            continue
        if name not in reachable:
            table.report(
                f"states[{index}]", name, f"cannot be reached from {initial}", "add an arc to it"
            )
        if name not in returning:
            table.report(
                f"states[{index}]", name, f"has no way back to {initial}", "add an arc from it"
            )


def _closure(start: object, pairs: list[tuple[str, str]]) -> set[object]:
    reached = {start}
    while grown := {to for from_, to in pairs if from_ in reached} - reached:
        reached |= grown
    return reached
