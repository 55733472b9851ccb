"""Makes docs/proposals.md: what comes of each table in `model/tables`, decided anew.

    python tools/proposals_page.py            writes it
    python tools/proposals_page.py --check    compares, and fails if it differs
    python tools/proposals_page.py NAME       prints the section of one proposal

It takes some minutes: a table is verified for each proposal, in processes of their own, so that
which counterexample a solver finds does not depend on what it was asked before.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from made_page import write_or_compare

from vfio_migration.model import Spec
from vfio_migration.model.edited import Edit, proposals
from vfio_migration.model.history import named
from vfio_migration.verifier import Report, select, verify
from vfio_migration.verifier.comparison import report as comparisons
from vfio_migration.verifier.report import letter as letters

PAGE = Path("docs/proposals.md")
JOBS = 2

HEAD = """\
<!-- Made by `python tools/proposals_page.py` from model/tables and the verdicts; do not edit. -->

# Proposals, and what comes of them

Changes that were proposed on the lists, and a few that nobody proposed, each as a table that comes
with the package (`model/tables`): wherever a command takes a table it takes these names, as in
`vfio-migration diff builtin stop-p2p`. What is violated is what is *newly* violated, against the
table that the proposal changes. The six definitions of compatibility are in
[compatibility.md](compatibility.md)."""

TAIL = """\
## What no table of states expresses

- *Asynchronous resets that are deferred to the next request* (pds: the next request lands in ERROR;
  mlx5: as though the two had happened one after the other). The table has no event that waits. To a
  client mlx5's answer is a reset, then its request, which is proved; pds's is a request that fails
  for good without having been tried, which D7 allows.
- *The recovery rule of a VMM* (the named state first, reset last). That it ends follows from D9:
  from everywhere there is a way to RUNNING with at most one reset. Where it ends is RUNNING after
  a reset, whatever the guest is to do. It was not decided as a plan.
- *Logging ranges that may change while logging is on*: S6 is about one START. Not decided.
- *Version 1 of the protocol* is a table, [`linux-v1`](compatibility.md), as far as its text goes:
  there a destination judged its stream by starting, so of two devices one runs before the other is
  whole (G6). That RESUMING leads to STOP is what version 2 added, and what a group needs."""


def section(edit: Edit, bases: dict[str, tuple[Spec, Report]]) -> Iterator[str]:
    """Yield the lines about one proposal."""
    spec, base = named(edit.name), named(edit.base)
    assert spec is not None
    assert base is not None
    if edit.base not in bases:
        bases[edit.base] = base, verify(base, jobs=JOBS)
    letter = letters.Letter(
        name=edit.name,
        report=verify(spec, jobs=JOBS),
        obligations=select(None),
        base=base,
        against=(edit.base, bases[edit.base][1]),
    )
    comparison = comparisons.compare(base, spec, (edit.base, edit.name))
    yield f"## {edit.name}: {edit.title}"
    yield ""
    yield f"*From:* {edit.source}."
    yield ""
    yield f"![What {edit.name} adds and removes](diagrams/proposal-{edit.name}.svg)"
    yield ""
    yield from letters.markdown(letter)
    yield ""
    yield f"**{comparisons.summary(comparison)}**"
    against = [one for one in comparison.judgements if one.verdict == "fails"]
    first = next((one for one in against if one.decides), next(iter(against), None))
    if first is not None:
        yield ""
        yield f"({first.definition.id}) {first.definition.statement}"
        yield ""
        yield "```text"
        assert first.shortest is not None
        yield from comparisons.shown(first, first.shortest)
        yield "```"
    yield ""
    yield f"**What we would answer.** {' '.join(edit.answer.split())}"


def page(chosen: Sequence[Edit] | None = None) -> str:
    """Return the page, or the sections of some proposals."""
    bases: dict[str, tuple[Spec, Report]] = {}
    parts = [
        "\n".join(section(edit, bases)) for edit in (proposals() if chosen is None else chosen)
    ]
    return "\n\n".join([HEAD, *parts, TAIL]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or compare it; 1 if it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("names", metavar="NAME", nargs="*", help="print these sections instead")
    chosen: Any = parser.parse_args(arguments)
    if chosen.names:
        print(page([edit for edit in proposals() if edit.name in chosen.names]), end="")
        return 0
    return write_or_compare(page(), PAGE, check=chosen.check)


if __name__ == "__main__":
    raise SystemExit(main())
