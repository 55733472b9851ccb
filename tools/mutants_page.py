"""Writes the pages on the mutants of the tables.

`python tools/mutants_page.py` writes docs/mutants.md and docs/wire_mutants.md; with `--check` it
compares what is there, byte for byte. The pages hold no time and no date.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from made_page import write_or_compare

from vfio_migration.model import load
from vfio_migration.model.wire_load import load_wire
from vfio_migration.verifier.mutation.mutate import LOAD, OUTCOMES, Fate, Survey, mutate
from vfio_migration.verifier.mutation.text import FAILURES
from vfio_migration.verifier.obligations.catalogue import OBLIGATIONS

PAGE = "mutants.md"
WIRE_PAGE = "wire_mutants.md"

_STATES = (
    "# Mutants",
    "Would the obligations notice a mistake in the table? `vfio-migration mutate` makes every "
    "single edit of it and shows that each violates an obligation, is not a table that loads, "
    "or changes nothing that anybody can observe. An edit that does none of these is a "
    "survivor: a line of the table that no obligation speaks of. There must be none.",
)
_WIRE = (
    "# Mutants of the connection",
    "What [mutants](mutants.md) are to the table of states and arcs these are to the table of the "
    "connection (`vfio-migration mutate --table wire`): each row dropped, each number one more, "
    "each choice and flag another, each name the next that another row has there, each list with a "
    "member more or less, two neighbours among the answers swapped. Only the obligations that read "
    "this table are tried. Part of it no specification states: what this server keeps, pads and "
    "answers is our decision, and of another one an obligation has nothing to say. Such edits are "
    "listed as argued, by reason, if nothing else kills them.",
)
_ORDER = (
    "The obligations are tried in the order of the catalogue (T9, which asks a question for "
    "every row, after the rest of its family), and the first that is violated has the kill: a "
    "later one may be violated as well. `vfio-migration mutate --full` counts all."
)
_WIRE_ORDER = (
    "W11, which compares rows, is tried first and the others in the order of the catalogue; the "
    "first that is violated has the kill."
)
_ALIKE = (
    "These change no state, arc, next step, answer, permitted activity, stream or event under "
    "any capability set, which is shown by comparing all of them."
)
_WIRE_ALIKE = (
    "Of these a solver finds no message, in no situation, that is answered differently; all else "
    "is as it was."
)
_REFUSED = (
    "(No obligation: the edit makes a table that cannot be encoded, or that means nothing, and "
    "no file with it is loaded.)"
)
MAX_LISTED = 40
"""How many edits that no file can hold are listed by name; more are only counted."""


def page(survey: Survey, *, of_wire: bool = False) -> str:
    """Render a page of docs, on the mutants of states and arcs or on those of the connection."""
    return "\n".join(_page(survey, of_wire=of_wire)) + "\n"


def _page(survey: Survey, *, of_wire: bool) -> Iterator[str]:
    title, words = _WIRE if of_wire else _STATES
    yield "<!-- Made by `python tools/mutants_page.py`; do not edit. -->"
    yield title
    yield ""
    yield words
    yield ""
    counted = [(outcome, len(survey.of(outcome))) for outcome in OUTCOMES]
    listed = ", ".join(f"**{count}** {o}" for o, count in counted if count or o == "survived")
    yield f"**{len(survey.fates)}** mutants of {survey.title}: {listed}."
    yield ""
    yield "## By kind of edit"
    yield ""
    kinds = survey.by_kind()
    shown = [o for o in OUTCOMES if o in ("killed", "equivalent", "survived") or survey.of(o)]
    yield f"| kind | edit | mutants | {' | '.join(shown)} |"
    yield f"|---|---|--:|{'--:|' * len(shown)}"
    for kind, counts in kinds.items():
        cells = " | ".join(str(counts[outcome]) for outcome in shown)
        yield f"| {kind} | {survey.kinds[kind]} | {sum(counts.values())} | {cells} |"
    yield ""
    yield "## By obligation"
    yield ""
    yield _WIRE_ORDER if of_wire else _ORDER
    yield ""
    yield "| obligation | kills first | statement |"
    yield "|---|--:|---|"
    statements = {obligation.id: obligation.statement for obligation in OBLIGATIONS}
    statements[LOAD] = _REFUSED
    for name, count in survey.kills.items():
        yield f"| {name} | {count} | {statements[name]} |"
    alike = survey.of("equivalent")
    yield from _listed("Equivalent", _WIRE_ALIKE if of_wire else _ALIKE, alike)
    by_reason = sorted(survey.of("argued"), key=lambda fate: fate.reason or "")
    for number, (reason, fates) in enumerate(
        itertools.groupby(by_reason, key=lambda fate: fate.reason or "")
    ):
        if not number:
            yield from ("", "## Argued")
        yield from ("", f"{reason[0].upper()}{reason[1:]}:", "")
        yield from (f"- {fate.sentence}" for fate in fates)
    by_load = [fate for fate in survey.of("killed") if fate.by == (LOAD,)]
    if len(by_load) <= MAX_LISTED:
        yield from _listed(
            "Refused when loaded",
            "These violate no obligation or cannot be put to one, and no file can hold them.",
            by_load,
        )
    for outcome in OUTCOMES:
        if outcome in FAILURES:
            title = FAILURES[outcome]
            yield from _listed(title[0].upper() + title[1:], "", survey.of(outcome))


def _listed(title: str, words: str, fates: Sequence[Fate]) -> Iterator[str]:
    if fates:
        yield from ("", f"## {title}", "")
        if words:
            yield from (words, "")
        yield from (f"- {fate.sentence}" for fate in fates)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them; 1 if one differs."""
    parser = argparse.ArgumentParser(
        prog="python tools/mutants_page.py",
        description="Write docs/mutants.md and docs/wire_mutants.md, or check them.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument(
        "--output", type=Path, default=Path("docs"), metavar="DIR", help="where (default: docs)"
    )
    parser.add_argument("--only", choices=("states", "wire"), help="one of the two pages")
    chosen = parser.parse_args(arguments)
    spec = load()
    status = 0
    if chosen.only != "wire":
        text = page(mutate(spec))
        status = write_or_compare(text, chosen.output / PAGE, check=chosen.check)
    if chosen.only != "states":
        text = page(mutate(spec, wire=load_wire()), of_wire=True)
        status |= write_or_compare(text, chosen.output / WIRE_PAGE, check=chosen.check)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
