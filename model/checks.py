"""What must hold between the rows of a table, beyond each row having the right shape.

The checks read the plain data of the file, not the typed rows, so that a table with a misspelt key in
one place still gets its dangling arcs in another reported in the same run. What has the wrong type is
passed over here: `vfio_migration.model.load` reports it.
"""

from __future__ import annotations

import errno as errno_module
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

from vfio_migration.model.errors import Mistake, closest, did_you_mean
from vfio_migration.model.spec import Condition, EventName

Data = Mapping[str, object]


def check(data: Data) -> list[Mistake]:
    """Return every mistake that rows make against each other."""
    table = _Table(data)
    for look in (
        _names,
        _capabilities,
        _axes,
        _states,
        _arcs,
        _refusals,
        _requests,
        _routing,
        _events,
    ):
        look(table)
    if not table.mistakes:
        # Only on an otherwise sound table: one misspelt arc would make half the states unreachable.
        _reachability(table)
    return table.mistakes


class _Table:
    """The data of a file with the few questions the checks ask of it."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.mistakes: list[Mistake] = []
        self.names = {
            section: [text for _, row in self.rows(section) if (text := _text(row, "name"))]
            for section in data
        }

    def rows(self, section: str) -> Iterator[tuple[int, Data]]:
        """Yield the rows of a section that are tables at all, with their index."""
        rows = self.data.get(section, ())
        if isinstance(rows, list):
            for index, row in enumerate(rows):
                if isinstance(row, Mapping):
                    yield index, row

    def report(self, place: str, value: object, problem: str, hint: str | None = None) -> None:
        self.mistakes.append(Mistake(place, value, problem, hint))

    def refer(self, place: str, value: object, section: str, kind: str) -> bool:
        """Report `value` unless it names a row of `section`; say whether it does."""
        if not isinstance(value, str):
            return False
        known = self.names.get(section, [])
        if value in known:
            return True
        self.report(
            place, value, f"is no {kind} of this table", did_you_mean(closest(value, known))
        )
        return False

    def refer_all(self, section: str, key: str, target: str, kind: str) -> None:
        """Check a key of every row that names rows of another section, alone or in a list."""
        for index, row in self.rows(section):
            value = row.get(key)
            if isinstance(value, list):
                for position, item in enumerate(value):
                    self.refer(f"{section}[{index}].{key}[{position}]", item, target, kind)
            elif value is not None:
                self.refer(f"{section}[{index}].{key}", value, target, kind)

    def unique(self, section: str, what: str, key: Callable[[Data], object | None]) -> None:
        """Report rows of a section for which `key` gives what an earlier row gave."""
        seen: dict[object, int] = {}
        for index, row in self.rows(section):
            value = key(row)
            if value is None:
                continue
            if value in seen:
                shown = " -> ".join(value) if isinstance(value, tuple) else value
                self.report(
                    f"{section}[{index}]{what}",
                    shown,
                    f"stands already in {section}[{seen[value]}]",
                )
            else:
                seen[value] = index


def _text(row: Data, key: str) -> str | None:
    value = row.get(key)
    return value if isinstance(value, str) else None


def _number(row: Data, key: str) -> int | None:
    value = row.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _pair(row: Data) -> tuple[str, str] | None:
    from_, to = _text(row, "from"), _text(row, "to")
    return (from_, to) if from_ is not None and to is not None else None


def _names(table: _Table) -> None:
    for section in table.data:
        table.unique(section, ".name", lambda row: _text(row, "name"))
        for index, row in table.rows(section):
            for key in ("name", "source", "summary"):
                text = _text(row, key)
                if text is not None and not text.strip():
                    table.report(f"{section}[{index}].{key}", text, "is empty")
    for section in ("capabilities", "profiles", "operations", "sessions", "states", "arcs"):
        if table.data.get(section) == []:
            table.report(section, None, "has no rows", f"add [[{section}]]")
    if "initial" in table.data:
        table.refer("initial", table.data["initial"], "states", "state")


def _capabilities(table: _Table) -> None:
    table.unique("capabilities", ".value", lambda row: _number(row, "value"))
    for index, row in table.rows("capabilities"):
        value = _number(row, "value")
        if value is not None and (value <= 0 or value & (value - 1)):
            table.report(
                f"capabilities[{index}].value", value, "is not one bit", "take 1, 2, 4, 8, ..."
            )
        elif value is not None and value >= 1 << 64:
            table.report(
                f"capabilities[{index}].value", value, "does not fit the 64-bit flags word"
            )
    table.refer_all("profiles", "universe", "capabilities", "capability")
    mandatory = [row for _, row in table.rows("capabilities") if row.get("mandatory") is True]
    for index, row in table.rows("profiles"):
        universe = row.get("universe")
        if isinstance(universe, list):
            for lacking in [_text(must, "name") for must in mandatory]:
                if lacking not in universe:
                    table.report(
                        f"profiles[{index}].universe",
                        universe,
                        f"lacks {lacking}, which is mandatory",
                        f'add "{lacking}"',
                    )


def _axes(table: _Table) -> None:
    table.refer_all("operations", "may", "activities", "activity")
    table.refer_all("sessions", "grows_while", "activities", "activity")
    table.refer_all("session_effects", "from", "sessions", "session")
    table.refer_all("session_effects", "to", "sessions", "session")
    table.unique("session_effects", "", _pair)
    table.unique("stream_ends", ".kind", lambda row: _text(row, "kind"))
    kinds = [_text(row, "kind") for _, row in table.rows("stream_ends")]
    for kind in ("temporary", "final"):
        if kind not in kinds and "stream_ends" in table.data:
            table.report("stream_ends", None, f'has no row with kind = "{kind}"')


def _states(table: _Table) -> None:
    table.refer_all("states", "requires", "capabilities", "capability")
    table.refer_all("states", "operation", "operations", "operation")
    table.refer_all("states", "session", "sessions", "session")
    table.unique("states", ".value", lambda row: _number(row, "value"))
    off_grid = [_text(row, "name") for _, row in table.rows("operations") if row.get("off_grid")]
    places: dict[tuple[str, str], int] = {}
    for index, row in table.rows("states"):
        value = _number(row, "value")
        if value is not None and not 0 <= value < 1 << 32:
            table.report(
                f"states[{index}].value", value, "does not fit the 32 bits of device_state"
            )
        operation, session = _text(row, "operation"), _text(row, "session")
        if operation is None or session is None or operation in off_grid:
            continue
        first = places.setdefault((operation, session), index)
        if first != index:
            table.report(
                f"states[{index}]",
                f"{operation}, {session}",
                f"is the place on the grid that states[{first}] has already",
                "give it an operation or a session of its own",
            )
    for index, row in table.rows("states"):
        if row.get("name") == table.data.get("initial"):
            _initial(table, index, row)


def _initial(table: _Table, index: int, row: Data) -> None:
    mandatory = [
        _text(cap, "name") for _, cap in table.rows("capabilities") if cap.get("mandatory") is True
    ]
    requires = row.get("requires")
    for position, name in enumerate(requires if isinstance(requires, list) else ()):
        if isinstance(name, str) and name in table.names["capabilities"] and name not in mandatory:
            table.report(
                f"states[{index}].requires[{position}]",
                name,
                "is optional, but every device must have the initial state",
            )


def _arcs(table: _Table) -> None:
    table.unique("arcs", "", _pair)
    sessions = {_text(row, "name"): _text(row, "session") for _, row in table.rows("states")}
    effects = {_pair(row) for _, row in table.rows("session_effects")}
    for index, row in table.rows("arcs"):
        known = [
            table.refer(f"arcs[{index}].{end}", row.get(end), "states", "state")
            for end in ("from", "to")
        ]
        pair = _pair(row)
        if pair is None:
            continue
        if pair[0] == pair[1]:
            table.report(
                f"arcs[{index}]",
                " -> ".join(pair),
                "leads back to where it begins",
                "a request for the present state needs no arc; remove this row",
            )
        if row.get("via"):
            table.report(f"arcs[{index}].via", row["via"], "is computed, not written", "remove it")
        between = (sessions.get(pair[0]), sessions.get(pair[1]))
        if all(known) and None not in between and between not in effects:
            table.report(
                f"arcs[{index}]",
                " -> ".join(pair),
                f"moves from session {between[0]} to {between[1]}, which no row of session_effects "
                "speaks of",
            )


def _refusals(table: _Table) -> None:
    table.unique("refusals", "", _pair)
    arcs = {_pair(row): index for index, row in table.rows("arcs")}
    for index, row in table.rows("refusals"):
        for end in ("from", "to"):
            table.refer(f"refusals[{index}].{end}", row.get(end), "states", "state")
        pair = _pair(row)
        if pair is None:
            continue
        if pair in arcs:
            table.report(
                f"refusals[{index}]",
                " -> ".join(pair),
                f"contradicts arcs[{arcs[pair]}], which allows it",
                "remove one of the two",
            )
        elif pair[0] == pair[1]:
            table.report(
                f"refusals[{index}]",
                " -> ".join(pair),
                "refuses a request that changes nothing",
                "remove this row",
            )
    for section in ("refusals", "requests", "events"):
        _errnos(table, section)


def _errnos(table: _Table, section: str) -> None:
    known = errno_module.errorcode.values()
    for index, row in table.rows(section):
        name = _text(row, "errno")
        if name is not None and name not in known:
            table.report(
                f"{section}[{index}].errno",
                name,
                "is no errno of this system",
                did_you_mean(closest(name, known)),
            )


def _requests(table: _Table) -> None:
    table.unique("requests", ".when", lambda row: _text(row, "when"))
    present = [_text(row, "when") for _, row in table.rows("requests")]
    for condition in get_args(Condition):
        if condition not in present and "requests" in table.data:
            table.report("requests", None, f'has no row with when = "{condition}"')
    for index, row in table.rows("requests"):
        refused = row.get("outcome") == "refused" and row.get("when") != "pair_refused"
        for key in ("errno", "reason"):
            if refused and key not in row:
                table.report(f"requests[{index}].{key}", None, "is missing from a row that refuses")


def _routing(table: _Table) -> None:
    table.refer_all("routing", "guarded", "sessions", "session")
    rules = list(table.rows("routing"))
    in_force = [index for index, row in rules if row.get("in_force") is True]
    if "routing" in table.data and not in_force:
        table.report("routing", None, "has no rule in force", "set in_force = true on one of them")
    for index in in_force[1:]:
        table.report(
            f"routing[{index}].in_force",
            True,
            f"makes a second rule in force, beside routing[{in_force[0]}]",
            "only one can be",
        )


def _events(table: _Table) -> None:
    table.refer_all("events", "to", "states", "state")
    present = table.names.get("events", [])
    for name in get_args(EventName):
        if name not in present and "events" in table.data:
            table.report("events", None, f'has no row with name = "{name}"')


def _reachability(table: _Table) -> None:
    """Report states no request can reach, and states no request can leave for the initial one.

    A state that a device only fails into is exempt: it is entered and left by events.
    """
    by_failure = {_text(row, "to") for _, row in table.rows("events") if row.get("errno")}
    pairs = [pair for _, row in table.rows("arcs") if (pair := _pair(row))]
    initial = table.data.get("initial")
    reachable = _closure(initial, pairs)
    returning = _closure(initial, [(to, from_) for from_, to in pairs])
    for index, row in table.rows("states"):
        name = _text(row, "name")
        if name is None or name in by_failure:
            continue
        if name not in reachable:
            table.report(
                f"states[{index}]", name, f"cannot be reached from {initial}", "add an arc to it"
            )
        elif name not in returning:
            table.report(
                f"states[{index}]", name, f"has no way back to {initial}", "add an arc from it"
            )


def _closure(start: object, pairs: list[tuple[str, str]]) -> set[object]:
    reached = {start}
    while grown := {to for from_, to in pairs if from_ in reached} - reached:
        reached |= grown
    return reached
