"""What of docs/recording.md is written by a program: the checks and the example's answer.

    python tools/checks_page.py

A test holds both to what they are made of.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vfio_migration.cli.main import main
from vfio_migration.model import load
from vfio_migration.model.conformance.grades import load_grades
from vfio_migration.model.wire_load import load_wire

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/recording.md"
_ANSWERS = {"logging_on": "logging_twice", "logging_off": "report_without_logging"}
_TITLES = {
    "violation": "A breach is a violation:",
    "suspicious": "A breach is suspicious:",
    "house rule": "A breach is one of a house rule:",
    "row": "A breach is what the row that is broken makes of it:",
}


def grade_of(name: str) -> str:
    """Return the grade of a check, or "row" if that of the row decides."""
    grades = load_grades()
    return "row" if grades.check(name).source is None else grades.grade(name)


def checks() -> Iterator[str]:
    """Yield the lines of the tables, one table for each grade."""
    rows = load_grades().checks
    for grade, title in _TITLES.items():
        yield ""
        yield title
        yield ""
        last = "Sign of" if grade == "suspicious" else "Section"
        yield f"| Check | What has to hold | What the specification states | {last} |"
        yield "|-------|------------------|-----------------------------|---------|"
        for row in rows:
            if grade_of(row.name) != grade:
                continue
            place = row.sign_of if grade == "suspicious" else row.source or "as below"
            yield f"| `{row.name}` | {row.summary} | {row.text or '-'} | {place} |"
    yield ""
    yield "A malformed reply is a violation of the section about its command. The other rows:"
    yield ""
    yield "| Check | Row | A breach is | Section |"
    yield "|-------|-----|-------------|---------|"
    for name, row_name, source in rows_that_decide():
        what = load_grades().grade(name, source)
        yield f"| `{name}` | `{row_name}` | {what} | {source} |"
    yield ""


def rows_that_decide() -> Iterator[tuple[str, str, str]]:
    """Yield each check that a row decides, with the row and its source."""
    spec, wire = load(), load_wire()
    for pair in spec.refusals:
        name = f"[[refusals]] {pair.from_} -> {pair.to}"
        yield "refusal_succeeds", name, pair.source
    for row in spec.requests:
        if row.outcome == "refused" and row.errno is not None:
            yield "refusal_succeeds", f"[[requests]] {row.when}", row.source
        elif row.outcome == "nothing":
            yield "present_state_fails", f"[[requests]] {row.when}", row.source
    for command in wire.commands:
        if command.transfer != "none":
            yield "data_outside_session", f"[[commands]] {command.name}", command.source
        if command.transfer == "read":
            yield "more_than_asked", f"[[commands]] {command.name}", command.source
    for feature in wire.features:
        if feature.get:
            yield "feature_short", f"[[features]] {feature.name}", feature.source
    for answer_ in wire.answers:
        if answer_.when in _ANSWERS:
            yield _ANSWERS[answer_.when], f"[[answers]] {answer_.when}", answer_.source


def answer(lines: str) -> str:
    """Return what check-trace answers to a recording."""
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("run.jsonl").write_text(lines, "utf-8")
        with contextlib.redirect_stdout(out):
            main(["check-trace", "run.jsonl"])
    return out.getvalue()


def written(page: str) -> str:
    """Return the page with these parts put in."""
    made = "\n".join(checks())
    page = re.sub(
        r"(<!-- begin checks -->\n).*(<!-- end checks -->)",
        lambda found: f"{found[1]}{made}\n{found[2]}",
        page,
        flags=re.DOTALL,
    )
    found = re.search(r"^```jsonl\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    text = answer(found[1])
    return re.sub(
        r"^```text\n.*?^```$",
        lambda _: f"```text\n{text}```",
        page,
        count=1,
        flags=re.DOTALL | re.MULTILINE,
    )


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
