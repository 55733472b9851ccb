"""What the proofs found in the specifications, and the list of what is proved: two pages of docs.

`python tools/findings_page.py` writes docs/findings.md and docs/obligations.md; with
`--check` it compares what is there, byte for byte. Neither page holds a time or a date.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from made_page import write_or_compare

from vfio_migration.model import Mistake, Spec, SpecError, load
from vfio_migration.model.wire_load import load_wire
from vfio_migration.verifier.obligations.catalogue import FAMILIES, OBLIGATIONS
from vfio_migration.verifier.prove import Report, verify
from vfio_migration.verifier.report.text import variant_lines
from vfio_migration.verifier.solver.obligation import Verdict

_MADE = "<!-- Made by `python tools/findings_page.py` from {}; do not edit. -->"


@dataclass(frozen=True, slots=True)
class Finding:
    """A place where text and model differ or the text is silent, and what decides it."""

    id: str
    title: str
    where: str
    question: str
    answer: str
    decided_by: tuple[str, ...]
    proposal: str | None


def findings() -> tuple[Finding, ...]:
    """Return every finding, in the order of the page."""
    text = Path(__file__).with_name("findings.toml").read_text("utf-8")
    return tuple(
        Finding(
            id=row["id"],
            title=row["title"],
            where=row["where"],
            question=row["question"],
            answer=row["answer"],
            decided_by=tuple(row["decided_by"]),
            proposal=row.get("proposal"),
        )
        for row in tomllib.loads(text)["findings"]
    )


def findings_page(report: Report) -> str:
    """Render the page.

    Raises:
        SpecError: If a finding rests on an obligation that is not proved or on no row there is.
    """
    return "\n".join(_findings(report)) + "\n"


def _findings(report: Report) -> Iterator[str]:
    verdicts = {verdict.id: verdict for verdict in report.verdicts}
    yield _MADE.format("tools/findings.toml and the verdicts")
    yield ""
    yield "# Findings"
    yield ""
    yield (
        "Where the text of a specification and the model had to differ, or the text left a "
        "question open. Each finding names what decides it: obligations, which are proved "
        "([the list](obligations.md)), and rows of the tables ([the tables](tables.md))."
    )
    yield ""
    for finding in findings():
        yield f"- [{finding.title}](#{anchor(finding.title)})"
    for finding in findings():
        yield ""
        yield f"## {finding.title}"
        yield ""
        yield f"*Where:* {finding.where}."
        yield ""
        yield finding.question
        yield ""
        yield f"**Answer.** {finding.answer}"
        if finding.proposal is not None:
            yield ""
            yield "**The sentence we propose:**"
            yield ""
            yield f"> {finding.proposal}"
        yield ""
        yield "**Decided by:**"
        yield ""
        for name in finding.decided_by:
            yield f"- {_decides(finding, name, verdicts, report.spec)}"
        if "T4" in finding.decided_by:
            yield ""
            yield "```text"
            for variant in report.variants:
                yield from variant_lines(report.spec, variant)
            yield "```"


def anchor(title: str) -> str:
    """The name under which a heading is linked to."""
    kept = "".join(char for char in title.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _decides(finding: Finding, name: str, verdicts: dict[str, Verdict], spec: Spec) -> str:
    """Return the words of a deciding obligation or row; refuse to publish what does not hold."""
    place = f"findings: {finding.id}"
    if ": " not in name:
        verdict = verdicts.get(name)
        if verdict is None or verdict.outcome != "proved":
            problem = "is not proved, so the finding cannot rest on it"
            raise SpecError([Mistake(place, name, problem, None)])
        return f"{name}, {verdict.outcome}: {verdict.statement}"
    section, _, key = name.partition(": ")
    for row in (*getattr(spec, section, ()), *getattr(load_wire(), section, ())):
        if key in [getattr(row, field, None) for field in ("name", "when", "kind")]:
            text = getattr(row, "summary", None) or getattr(row, "reason", None) or ""
            return f"the row {key} of `[[{section}]]`: {text}"
    raise SpecError([Mistake(place, name, "is not a row of the table", None)])


def obligations_page() -> str:
    """Render the list of everything that is proved."""
    return "\n".join(_obligations()) + "\n"


def _obligations() -> Iterator[str]:
    yield _MADE.format("the obligations")
    yield ""
    yield "# What is proved"
    yield ""
    yield (
        "`vfio-migration verify` decides these about a table, each with a witness that its "
        "premise happens; a violation comes with a shortest run. *Symbolic*: one query covers "
        "every capability set. *Induction*: for runs of any length. *Quantified*: for groups of "
        "any size. *Bounded*: runs of a stated length."
    )
    for letter, title in FAMILIES.items():
        yield ""
        yield f"## {letter}, {title}"
        for row in OBLIGATIONS:
            if row.id.rstrip("0123456789") != letter:
                continue
            yield ""
            yield f"### {row.id}: {row.title}"
            yield ""
            yield row.statement
            yield ""
            yield f"Over {row.ranges_over}; {row.method}. {row.why}"
            yield ""
            yield f"*Not shown:* {row.not_shown}"


def pages(spec: Spec) -> dict[str, str]:
    """Return every generated page by its name in docs/."""
    return {
        "findings.md": findings_page(verify(spec)),
        "obligations.md": obligations_page(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them; 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="the folder")
    chosen: Any = parser.parse_args(arguments)
    return max(
        write_or_compare(text, chosen.output / name, check=chosen.check)
        for name, text in pages(load()).items()
    )


if __name__ == "__main__":
    raise SystemExit(main())
