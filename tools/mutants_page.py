"""Writes the page on the mutants of the table.

`python tools/mutants_page.py` writes docs/mutants.md; with `--check` it compares
what is there, byte for byte. The page holds no time and no date.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from made_page import write_or_compare

from vfio_migration.model import load
from vfio_migration.verifier.mutation.edits import KINDS
from vfio_migration.verifier.mutation.mutate import LOAD, OUTCOMES, Fate, Survey, mutate
from vfio_migration.verifier.mutation.text import FAILURES
from vfio_migration.verifier.obligations.catalogue import OBLIGATIONS

PAGE = "mutants.md"


def page(survey: Survey) -> str:
    """Render the page of docs."""
    return "\n".join(_page(survey)) + "\n"


def _page(survey: Survey) -> Iterator[str]:
    yield "<!-- Made by `python tools/mutants_page.py`; do not edit. -->"
    yield "# Mutants"
    yield ""
    yield (
        "Would the obligations notice a mistake in the table? `vfio-migration mutate` makes every "
        "single edit of it and shows that each violates an obligation, is not a table that loads, "
        "or changes nothing that anybody can observe. An edit that does none of these is a "
        "survivor: a line of the table that no obligation speaks of. There must be none."
    )
    yield ""
    counted = [(outcome, len(survey.of(outcome))) for outcome in OUTCOMES]
    listed = ", ".join(f"**{count}** {o}" for o, count in counted if count or o == "survived")
    yield f"**{len(survey.fates)}** mutants of {survey.spec.title}: {listed}."
    yield ""
    yield "## By kind of edit"
    yield ""
    kinds = survey.by_kind()
    titles = {kind.name: kind.title for kind in KINDS}
    shown = [o for o in OUTCOMES if o in ("killed", "equivalent", "survived") or survey.of(o)]
    yield f"| kind | edit | mutants | {' | '.join(shown)} |"
    yield f"|---|---|--:|{'--:|' * len(shown)}"
    for kind, counts in kinds.items():
        cells = " | ".join(str(counts[outcome]) for outcome in shown)
        yield f"| {kind} | {titles[kind]} | {sum(counts.values())} | {cells} |"
    yield ""
    yield "## By obligation"
    yield ""
    yield (
        "The obligations are tried in the order of the catalogue (T9, which asks a question for "
        "every row, after the rest of its family), and the first that is violated has the kill: a "
        "later one may be violated as well. `vfio-migration mutate --full` counts all."
    )
    yield ""
    yield "| obligation | kills first | statement |"
    yield "|---|--:|---|"
    statements = {obligation.id: obligation.statement for obligation in OBLIGATIONS}
    statements[LOAD] = (
        "(No obligation: the edit makes a table that cannot be encoded, or that means nothing, and "
        "no file with it is loaded.)"
    )
    for name, count in survey.kills.items():
        yield f"| {name} | {count} | {statements[name]} |"
    yield from _listed(
        "Equivalent",
        "These change no state, arc, next step, answer, permitted activity, stream or event under "
        "any capability set, which is shown by comparing all of them.",
        survey.of("equivalent"),
    )
    by_load = [fate for fate in survey.of("killed") if fate.by == (LOAD,)]
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
    """Write the page, or compare it; 1 if it differs."""
    parser = argparse.ArgumentParser(
        prog="python tools/mutants_page.py",
        description="Write docs/mutants.md, or check it.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument(
        "--output", type=Path, default=Path("docs"), metavar="DIR", help="where (default: docs)"
    )
    chosen = parser.parse_args(arguments)
    path: Path = chosen.output / PAGE
    text = page(mutate(load()))
    return write_or_compare(text, path, check=chosen.check)


if __name__ == "__main__":
    raise SystemExit(main())
