"""Makes docs/proposals.md: what comes of each table in `model/tables`, decided anew.

    python tools/proposals_page.py            writes it
    python tools/proposals_page.py --check    compares, and fails if it differs
    python tools/proposals_page.py NAME       prints the section of one proposal; `others` the rest

It takes some minutes: a table is verified for each proposal, in processes of their own, so that
which counterexample a solver finds does not depend on what it was asked before.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from made_page import write_or_compare

from vfio_migration.diagrams.mail import mail_picture
from vfio_migration.model import Spec, load
from vfio_migration.model.edited import Edit, apply, proposals
from vfio_migration.model.history import named
from vfio_migration.model.plan import plans_from
from vfio_migration.verifier import Encoding, Report, Verdict, decide, select, verify
from vfio_migration.verifier.comparison import report as comparisons
from vfio_migration.verifier.obligations.log_ranges import PROPOSED
from vfio_migration.verifier.report import letter as letters

PAGE = Path("docs/proposals.md")
PLANS = Path("docs/examples/proposed-plans")
GROUP_PLAN = Path("model/group_plan.toml")
JOBS = 2

HEAD = """\
<!-- Made by `python tools/proposals_page.py` from model/tables and the verdicts; do not edit. -->

# Proposals, and what comes of them

Changes that were proposed on the lists, and a few that nobody proposed, each as a table that comes
with the package (`model/tables`): wherever a command takes a table it takes these names, as in
`vfio-migration diff builtin stop-p2p`. What is violated is what is *newly* violated, against the
table that the proposal changes. The six definitions of compatibility are in
[compatibility.md](compatibility.md).

One more changes no state but the connection, is proposed by this project, and is served already:
[PRECOPY_INFO and a temporary end of the stream for vfio-user](precopy-info.md)."""

TAIL = """\
## What no table of states expresses

Plans, and the log of DMA, are tables and systems of their own: what follows is decided, too, and
its sources are in `docs/examples/proposed-plans` and `verifier/obligations/log_ranges.py`."""

REASONING = """\
### What is reasoning, and was not decided

- *pds's asynchronous reset*, which lands in ERROR at the next request: to a client that request is
  an arc that fails for good without having been tried. That may happen at every arc in all that is
  proved (D6, D7, G4), so nothing about states is left to decide. That the driver's state is stale
  until then, and what a read of the data session answers meanwhile, no row states.
- *Ranges that may change*: decided is when a page is lost. That a driver can add a range in time,
  while the device writes, and that the address space has been mapped by then, is the driver's.
- *Version 1 of the protocol* is a table, [`linux-v1`](compatibility.md), as far as its text goes:
  there a destination judged its stream by starting, so of two devices one runs before the other is
  whole (G6). That RESUMING leads to STOP is what version 2 added, and what a group needs. Its
  sentence that a user may attempt to reach "any valid state" is no arc and was left out."""

RANGES_ANSWER = """\
**What we would answer.** They may change, and no new message is needed for it: a START while
logging is on gives the new ranges. But it must not begin anew. What is marked stays marked until it
is reported, also of a range that is left out, and a client that leaves a range out asks for its
report afterwards, or before. Today a second START is refused, which is safe."""


def plan_section(path: Path) -> Iterator[str]:
    """Yield the lines about a change of the plans for groups."""
    edit, spec = tomllib.loads(path.read_text("utf-8")), load()
    group = tomllib.loads(GROUP_PLAN.read_text("utf-8"))
    plans = plans_from(spec, apply(edit, group), path.name)
    report = verify(spec, plans=plans, only=edit["only"], jobs=JOBS)
    yield f"### {path.stem}: {edit['title']}"
    yield ""
    yield f"*From:* {edit['source']}."
    yield ""
    yield from outcomes(report.verdicts)
    yield ""
    yield f"**What we would answer.** {' '.join(edit['answer'].split())}"


def ranges_section() -> Iterator[str]:
    """Yield the lines about ranges of DMA logging that change."""
    encoding = Encoding(load())
    yield "### log-ranges: Logging ranges that may change while logging is on"
    yield ""
    yield "*From:* the vIOMMU series of June 2023, which logs the whole space, for no range can be"
    yield "added; S6 is about one START."
    yield ""
    yield from outcomes([decide(obligation, encoding) for obligation in PROPOSED])
    yield ""
    yield RANGES_ANSWER


def outcomes(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """Yield a table of verdicts, and the counterexamples."""
    yield "| | outcome | obligation |"
    yield "|---|---|---|"
    found = list(verdicts)
    for verdict in found:
        yield f"| {verdict.id} | **{verdict.outcome}** | {verdict.statement} |"
    for verdict in found:
        if verdict.outcome == "violated" and verdict.example is not None:
            yield ""
            yield f"The counterexample, to {verdict.id}:"
            yield ""
            yield "```text"
            yield verdict.example.text
            yield "```"


def others() -> str:
    """Return the part about what no table of states expresses."""
    parts = ["\n".join(plan_section(path)) for path in sorted(PLANS.glob("*.toml"))]
    return "\n\n".join([TAIL, *parts, "\n".join(ranges_section()), REASONING])


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
        against=(edit.base, bases[edit.base][1]),
        picture=mail_picture(spec, base, letters.WIDTH),
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
    return "\n\n".join([HEAD, *parts, others()]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or compare it; 1 if it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("names", metavar="NAME", nargs="*", help="print these sections instead")
    chosen: Any = parser.parse_args(arguments)
    if chosen.names:
        if "others" in chosen.names:
            print(others())
        else:
            print(page([edit for edit in proposals() if edit.name in chosen.names]), end="")
        return 0
    return write_or_compare(page(), PAGE, check=chosen.check)


if __name__ == "__main__":
    raise SystemExit(main())
