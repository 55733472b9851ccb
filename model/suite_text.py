"""The finite suite written down: as text for people, as JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from vfio_migration.model.machine import Machine
from vfio_migration.model.suite import Input, Output, behaviour, expected, in_words, whole_run


def suite_text(machine: Machine, hidden_states: int, *, failing: bool = False) -> str:
    """Return a suite as lines: a sequence each, every input with what is expected of it.

    Raises:
        SpecError: `hidden_states` is out of range.
    """
    tested = behaviour(machine, failing=failing)
    runs = list(whole_run(tested, hidden_states))
    inputs = sum(map(len, runs))
    lines = [
        f"# {machine.spec.title}: {', '.join(machine.names)}; {hidden_states} hidden states",
        f"# {len(runs)} sequences, {inputs} inputs; a reset before each but the first.",
        f"# Each begins in {tested.initial}. After each input: the state that is read back, what",
        "# became of the data session, the errno if it was refused, how a stream ends.",
    ]
    for run in runs:
        answers = zip(run, expected(tested, run), strict=True)
        steps = (f"{in_words(machine.spec, one)}: {seen}" for one, seen in answers)
        lines.append("; ".join(steps))
    return "\n".join(lines) + "\n"


def suite_json(machine: Machine, hidden_states: int, *, failing: bool = False) -> str:
    """Return a suite as one JSON object.

    Keys: `table`, `capabilities`, `hidden_states`, `initial`, `inputs` (what is tried in each
    state), `answers` (for each state, what each input does there) and `sequences` (each a list of
    indices of `inputs`). What is expected of a sequence follows from `answers`.

    Raises:
        SpecError: `hidden_states` is out of range.
    """
    tested = behaviour(machine, failing=failing)
    numbers = {one: index for index, one in enumerate(tested.inputs)}
    data: dict[str, Any] = {
        "table": machine.spec.name,
        "capabilities": list(machine.names),
        "hidden_states": hidden_states,
        "initial": tested.initial,
        "inputs": [_input(one) for one in tested.inputs],
        "answers": {
            state: [_output(tested.moves[state, one]) for one in tested.inputs]
            for state in tested.states
        },
        "sequences": [[numbers[one] for one in run] for run in whole_run(tested, hidden_states)],
    }
    return json.dumps(data, separators=(",", ":")) + "\n"


def _input(one: Input) -> dict[str, Any]:
    return {"kind": one.kind, "value": one.value} if one.kind == "set" else {"kind": one.kind}


def _output(seen: Output) -> dict[str, Any]:
    return {
        "state": seen.state,
        "errno": seen.errno,
        "session": list(seen.session),
        "end": seen.end or None,
    }
