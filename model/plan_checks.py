"""What must hold between the rows of a file of plans, and between them and the table they are for.

Like the checks of a table, these read the plain data and keep silent about what has the wrong type:
`vfio_migration.model.load` reports that, and the rest of the file is judged in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vfio_migration.model.errors import Mistake, closest, did_you_mean, it_has
from vfio_migration.model.raw_rows import NAME, Data, name_of, number_of, text_of
from vfio_migration.model.spec import Spec

_MOVE = {"needs", "lacks", "may", "failed", "to", "event"}
_STEP = {"side", "plan", "phases", "transfer", "holder"}
_PLACING = ("needs", "lacks", "to")
"""What a row of `before` may state: where devices are follows from their capabilities alone."""


def check_plans(data: Data, spec: Spec) -> list[Mistake]:
    """Return every mistake of the plans for the groups of a table."""
    plans = _rows(data.get("plans"), "plans")
    if data.get("plans") == []:
        return [Mistake("plans", None, "has no rows", "add [[plans]]")]
    names = [name for _, row in plans if (name := name_of(row)) is not None]
    assertions = _rows(data.get("assertions"), "assertions")
    asserted = [name for _, row in assertions if (name := name_of(row)) is not None]
    mistakes = list(_unique(plans)) + list(_unique(assertions))
    for at, plan in plans:
        mistakes += _begins(at, plan, plans, names, spec)
        for place, limit in _rows(plan.get("limits"), f"{at}.limits"):
            mistakes += _known(f"{place}.lacks", "capability", limit.get("lacks"), spec)
            mistakes += _asserted(f"{place}.unless", text_of(limit, "unless"), asserted)
            count = number_of(limit, "count")
            if count is not None and count < 0:
                problem = "is less than no device"
                mistakes.append(Mistake(f"{place}.count", count, problem, "0 allows none"))
        mistakes += _phases(at, plan, spec)
    migrations = _rows(data.get("migrations"), "migrations")
    mistakes += _unique(migrations)
    mistakes += _fallbacks(migrations)
    handovers = _rows(data.get("handovers"), "handovers")
    loss = _rows([data.get("loss")], "")
    for at, row in migrations + handovers + [("loss", row) for _, row in loss]:
        if row.get("steps") == []:
            mistakes.append(Mistake(f"{at}.steps", None, "has no rows", "add a step"))
        if row.get("holders") == []:
            hint = "name one of source, delivered, destination"
            mistakes.append(Mistake(f"{at}.holders", None, "names nobody", hint))
        for place, step in _rows(row.get("steps"), f"{at}.steps"):
            mistakes += _step(place, step, plans, names)
    return mistakes


def _fallbacks(migrations: list[tuple[str, Data]]) -> Iterator[Mistake]:
    """A fallback is another migration of the file, and has none itself."""
    last = {name_of(row): "fallback" not in row for _, row in migrations}
    for at, row in migrations:
        name = text_of(row, "fallback")
        if name is not None and not last.get(name, False):
            names = [one for one, is_last in last.items() if is_last and one is not None]
            hint = did_you_mean(closest(name, names)) or it_has(names)
            problem = "is not a migration of this file that has no fallback itself"
            yield Mistake(f"{at}.fallback", name, problem, hint)


def _asserted(at: str, name: str | None, names: list[str]) -> Iterator[Mistake]:
    """What is wrong with the assertion that a limit names."""
    if name is not None and name not in names:
        hint = did_you_mean(closest(name, names)) or it_has(names)
        yield Mistake(at, name, "there is no such assertion in this file", hint)


def _step(
    at: str, step: Data, plans: list[tuple[str, Data]], names: list[str]
) -> Iterator[Mistake]:
    """What is wrong with a step of a migration or of a handover."""
    if step.keys() <= _STEP:
        if ("plan" in step) == ("transfer" in step):
            yield Mistake(at, None, "must do one thing", "give either plan or transfer")
        elif "transfer" in step:
            for key in ("side", "phases"):
                if key in step:
                    yield Mistake(f"{at}.{key}", None, "has no meaning for a transfer", "drop it")
        elif "side" not in step:
            yield Mistake(at, None, "must name the side whose devices move", "give side")
    name = text_of(step, "plan")
    if name is None:
        return
    if name not in names:
        hint = did_you_mean(closest(name, names)) or it_has(names)
        yield Mistake(f"{at}.plan", name, "there is no such plan in this file", hint)
        return
    plan = next(row for _, row in plans if row.get("name") == name)
    if plan.get("sound") is False:
        hint = "mark it sound, and run the verifier"
        yield Mistake(f"{at}.plan", name, "is a plan marked unsound", hint)
    yield from _phases_named(at, step, plan)


def _phases_named(at: str, step: Data, plan: Data) -> Iterator[Mistake]:
    """The phases a step names are those of its plan, in the order they have there."""
    phases = step.get("phases")
    if not isinstance(phases, list):
        return
    known = [name_of(row) or "" for _, row in _rows(plan.get("phases"), "")]
    last = -1
    for index, phase in enumerate(phases):
        place = f"{at}.phases[{index}]"
        if not isinstance(phase, str):
            continue
        if phase not in known:
            hint = did_you_mean(closest(phase, known)) or it_has(known)
            yield Mistake(place, phase, f"is not a phase of plan {plan['name']}", hint)
        elif known.index(phase) <= last:
            problem = "does not come after the one before it"
            yield Mistake(place, phase, problem, f"the plan goes {', '.join(known)}")
        else:
            last = known.index(phase)


def _phases(at: str, plan: Data, spec: Spec) -> Iterator[Mistake]:
    phases = _rows(plan.get("phases"), f"{at}.phases")
    yield from _unique(phases)
    if plan.get("phases") == []:
        yield Mistake(f"{at}.phases", None, "has no rows", "add [[plans.phases]]")
    for place, phase in phases:
        if phase.get("moves") == []:
            yield Mistake(f"{place}.moves", None, "has no rows", "add a move, or drop the phase")
        for move_place, move in _rows(phase.get("moves"), f"{place}.moves"):
            yield from _move(move_place, move, spec)
    moves = [move for _, phase in phases[-1:] for _, move in _rows(phase.get("moves"), "")]
    if plan.get("sound") is True and moves and not any("to" in move for move in moves):
        problem = "has no state it leads to, so it is open where a sound plan ends"
        yield Mistake(phases[-1][0], None, problem, 'give a move with "to"')


def _begins(
    at: str, plan: Data, plans: list[tuple[str, Data]], names: list[str], spec: Spec
) -> Iterator[Mistake]:
    before, after = plan.get("before", []), plan.get("after", [])
    if bool(before) == bool(after):
        problem = "must have either before or after"
        yield Mistake(at, text_of(plan, "name"), problem, "give one of the two")
    open_ended = [row.get("name") for _, row in plans if row.get("after")]
    for index, name in enumerate(after if isinstance(after, list) else []):
        place = f"{at}.after[{index}]"
        if isinstance(name, str) and name not in names:
            hint = did_you_mean(closest(name, names)) or it_has(names)
            yield Mistake(place, name, "there is no such plan in this file", hint)
        elif name in open_ended:
            # Where such a plan may be left depends on where others may be: the chain must end.
            hint = "name the plans with before that lead there"
            yield Mistake(place, name, "is a plan that itself comes after others", hint)
    rows = _rows(before, f"{at}.before")
    for place, row in rows:
        for key in row:
            if key in ("may", "failed", "event"):
                hint = f"take {', '.join(_PLACING)}"
                yield Mistake(f"{place}.{key}", None, "has no meaning before a plan", hint)
        if "to" not in row:
            yield Mistake(place, None, "must name a state", "give to")
        yield from _references(place, row, spec)


def check_places(data: Data, spec: Spec) -> list[Mistake]:
    """Return what is wrong with where plans begin: every device of the table must have its place.

    Whom a plan forgets a proof about it would silently leave out.
    """
    return [
        mistake
        for at, plan in _rows(data.get("plans"), "plans")
        if plan.get("before")
        for mistake in _placed(f"{at}.before", _rows(plan["before"], f"{at}.before"), spec)
    ]


def _placed(at: str, rows: list[tuple[str, Data]], spec: Spec) -> Iterator[Mistake]:
    states = {row.name for row in spec.states}
    words = {int(word.value) for row in spec.profiles for word in spec.capability_sets(row.name)}
    for word in sorted(words):
        machine = spec.machine(word)
        listed = ",".join(machine.names)
        meant = [(place, row) for place, row in rows if _meets(row, frozenset(machine.names))]
        if not meant:
            hint = "add a last row without needs and lacks"
            yield Mistake(at, None, f"has no row for a device with {listed}", hint)
        elif (to := text_of(meant[0][1], "to")) in states and not machine.supports(str(to)):
            requires = ", ".join(f'"{name}"' for name in spec.state(str(to)).requires)
            problem = f"is not a state of a device with {listed}"
            yield Mistake(f"{meant[0][0]}.to", to, problem, f"needs = [{requires}] leaves it out")


def _meets(row: Data, capabilities: frozenset[str]) -> bool:
    needs, lacks = row.get("needs", []), row.get("lacks", [])
    return (
        isinstance(needs, list)
        and isinstance(lacks, list)
        and all(name in capabilities for name in needs)
        and not any(name in capabilities for name in lacks)
    )


def _move(place: str, move: Data, spec: Spec) -> Iterator[Mistake]:
    yield from _references(place, move, spec)
    if ("to" in move) == ("event" in move) and move.keys() <= _MOVE:
        yield Mistake(place, None, "must lead somewhere", "give either to or event")
    event = text_of(move, "event")
    if event is not None and event != "reset":
        yield Mistake(
            f"{place}.event", event, "is not an event that a manager brings about", "reset is one"
        )


def _references(place: str, row: Data, spec: Spec) -> Iterator[Mistake]:
    for key in ("needs", "lacks"):
        names = row.get(key, [])
        for index, name in enumerate(names if isinstance(names, list) else []):
            yield from _known(f"{place}.{key}[{index}]", "capability", name, spec)
    yield from _known(f"{place}.to", "state", row.get("to"), spec)
    yield from _known(f"{place}.may", "activity", row.get("may"), spec)


def _known(place: str, kind: str, name: object, spec: Spec) -> Iterator[Mistake]:
    known = {
        "state": [row.name for row in spec.states],
        "capability": [row.name for row in spec.capabilities],
        "activity": [row.name for row in spec.activities],
    }[kind]
    if isinstance(name, str) and name not in known:
        hint = did_you_mean(closest(name, known)) or it_has(known)
        yield Mistake(place, name, f"there is no such {kind} in this table", hint)


def _unique(rows: list[tuple[str, Data]]) -> Iterator[Mistake]:
    """Names are names, and each is once: plans are asked for by them, queries named by them."""
    seen: dict[str, str] = {}
    for place, row in rows:
        name = name_of(row)
        if name is None:
            continue
        if not NAME.fullmatch(name):
            hint = "a name is a letter, then letters, digits, _ and -"
            yield Mistake(f"{place}.name", name, "is not a name", hint)
        elif seen.setdefault(name, place) != place:
            problem = f"is already in {seen[name]}"
            yield Mistake(f"{place}.name", name, problem, "give it another")


def _rows(value: object, place: str) -> list[tuple[str, Data]]:
    """Return what in a list is a table, with its place."""
    rows = value if isinstance(value, list) else []
    return [(f"{place}[{at}]", row) for at, row in enumerate(rows) if isinstance(row, Mapping)]
