"""`vfio-migration report`: one HTML file with the machine, the verdicts and what changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files

if TYPE_CHECKING:
    from vfio_migration.diagrams.page.view import Against, Counterexample, Finding, ReportView
    from vfio_migration.model import Spec
    from vfio_migration.model.sources.read import Reading
    from vfio_migration.verifier import Obligation, Verdict
    from vfio_migration.verifier.report.letter import Letter

_HELP = """\
Write one HTML file about a table: the machine as a picture to click (a state: its row, what it may
do, what can be asked for from it; two states: the path, or why it is refused), the verdicts, each
counterexample step by step over the same picture, and what changed since another table. The file
loads nothing from anywhere and has at most 1 MB, so it can be attached to a mail.

Without the extra "verify" it has no verdicts, and states how to get them.

examples:
  vfio-migration report -o report.html
  vfio-migration report my_table.toml --against builtin -o report.html
  vfio-migration report . --against git:HEAD -o patch.html    # sources, as `import` reads them
  vfio-migration report my_table.toml --only T D -o report.html
  vfio-migration report my_table.toml --no-obligations -o report.html    # at once
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report", help="one HTML file: machine, verdicts, changes", description=_HELP
    )
    options.spec_argument(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="where to write; .html"
    )
    parser.add_argument(
        "--against",
        metavar="OLD",
        help="show also what changed since this table: a file, a source, or a name",
    )
    options.flags_option(parser)
    options.names_option(parser, "--only", "ID", "obligations (T4) or families (T)")
    parser.add_argument(
        "--no-obligations", action="store_true", help="decide no obligation: no verdicts"
    )
    options.plans_option(parser)
    options.wire_option(parser)
    options.solving_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report; 0 if it is written, whatever the verdicts are."""
    from vfio_migration.cli.output import YES, printable
    from vfio_migration.model.wire_load import load_wire

    files.keep_apart(
        {"--output": arguments.output},
        {
            "SPEC": arguments.spec,
            "--against": arguments.against,
            "--plans": arguments.plans,
            "--wire": arguments.wire,
        },
    )
    files.writable("--output", arguments.output)
    spec, reading = options.read_table(arguments.spec)
    old = None if arguments.against is None else options.read_spec(arguments.against)
    if arguments.flags is not None:
        spec.capability_set(options.read_flags(arguments.flags))
    options.read_plans(spec, arguments.plans)
    load_wire(arguments.wire)
    view = _view(arguments, spec, old, reading)
    from vfio_migration.diagrams.page.write import write_page

    files.write_whole("--output", Path(arguments.output), write_page(view))
    print(printable(f"{arguments.output}: {view.summary}"))
    return YES


def _view(
    arguments: argparse.Namespace, spec: Spec, old: Spec | None, reading: Reading | None
) -> ReportView:
    """Return what the report states: with verdicts, or why there are none."""
    from vfio_migration.diagrams.page.view import Against, ReportView
    from vfio_migration.model.extras import MissingExtraError

    name = arguments.spec or "vfio_v2.toml"
    changed = reading.changed if reading is not None else ()
    notes = [f"Changed by the source: {one.place}: {one.value} {one.problem}" for one in changed]
    notes += [f"Finding: {one}" for one in (reading.findings if reading is not None else ())]
    summary = f"{name}: without verdicts"
    findings: tuple[Finding, ...] = ()
    against = None if old is None else Against(name=arguments.against, spec=old)
    absent: str | None = "There are no verdicts: --no-obligations left them out."
    try:
        if old is not None:
            against = _against(arguments.against, old, spec, name)
        if not arguments.no_obligations:
            summary, findings, absent = *_verdicts(arguments, spec, old, reading), None
    except MissingExtraError as error:
        also = "" if old is None else ", and no list of what changed"
        absent = f"There are no verdicts{also}: {error}"
    return ReportView(
        name=name,
        spec=spec,
        summary=summary,
        findings=findings,
        absent=absent,
        notes=tuple(notes),
        against=against,
        flags=options.read_flags(arguments.flags),
    )


# --- what the prover states ---


def _verdicts(
    arguments: argparse.Namespace, spec: Spec, old: Spec | None, reading: Reading | None
) -> tuple[str, tuple[Finding, ...]]:
    """Return the outcome in one line, and every verdict."""
    from vfio_migration.cli.progress import Progress
    from vfio_migration.cli.verdicts import letter_of
    from vfio_migration.model.wire_load import load_wire
    from vfio_migration.verifier import select, verify
    from vfio_migration.verifier.report import letter as letters
    from vfio_migration.verifier.solver.workers import processors

    plans = options.read_plans(spec, arguments.plans)
    wire = load_wire(arguments.wire)
    chosen = select(arguments.only)
    tables = [spec] if old is None else [old, spec]
    reports = []
    with Progress([one.id for _ in tables for one in chosen], shown=True) as progress:
        for table in tables:
            report = verify(
                table,
                plans=plans,
                wire=wire,
                only=arguments.only,
                timeout=arguments.timeout,
                jobs=arguments.jobs or processors(),
                progress=lambda _verdict: progress.advance(),
            )
            reports.append(report)
    letter = letter_of(
        arguments.spec or "vfio_v2.toml",
        reports[-1],
        chosen,
        against=None if old is None else (arguments.against, reports[0]),
        reading=reading,
    )
    obligations = {one.id: one for one in chosen}
    found = tuple(
        _finding(verdict, obligations[verdict.id], letter, arguments.spec)
        for verdict in reports[-1].verdicts
    )
    return letters.summary(letter), found


def _finding(
    verdict: Verdict, obligation: Obligation, letter: Letter, origin: str | None
) -> Finding:
    from vfio_migration.diagrams.page.view import Finding

    change = next((one.kind for one in letter.changes if one.verdict.id == verdict.id), None)
    return Finding(
        id=verdict.id,
        title=verdict.title,
        statement=verdict.statement,
        outcome=verdict.outcome,
        method=verdict.method,
        why=obligation.why,
        witness=verdict.witness.text if verdict.witness else None,
        reason=verdict.reason,
        counterexample=_counterexample(verdict, letter, origin),
        change=change,
        not_shown=obligation.not_shown,
    )


def _counterexample(verdict: Verdict, letter: Letter, origin: str | None) -> Counterexample | None:
    from vfio_migration.diagrams.page.view import Counterexample
    from vfio_migration.verifier.report import blamed_rows
    from vfio_migration.verifier.report.replay import second_opinion
    from vfio_migration.verifier.report.text import see_again

    example, spec = verdict.example, letter.report.spec
    if example is None:
        return None
    text = blamed_rows.with_sources(spec, example.text) if letter.of_source else example.text
    blamed = blamed_rows.blamed(spec, example)
    row: str | None = None
    if blamed is not None:
        described = blamed_rows.described(spec, blamed[1], of_source=letter.of_source)
        row = f"{blamed[0]}: {described}"
    return Counterexample(
        text="" if blamed_rows.repeats(example) else text,
        trace=example.trace,
        row=row,
        rerun=second_opinion(example, spec) or None,
        command=see_again(verdict, origin),
    )


def _against(name: str, old: Spec, new: Spec, called: str) -> Against:
    """Return what differs, and whether old clients and drivers work on."""
    from vfio_migration.diagrams.page.view import Against, ChangedFact
    from vfio_migration.model.extras import from_extra

    with from_extra():
        from vfio_migration.verifier.comparison.report import compare, shown
        from vfio_migration.verifier.comparison.report import summary as outcome
    comparison = compare(old, new, (name, called))
    return Against(
        name=name,
        spec=old,
        compatible=outcome(comparison),
        facts=tuple(
            ChangedFact(
                what=one.what,
                kind=one.kind,
                name=one.name,
                old=one.old,
                new=one.new,
                flags=tuple(", ".join(names) for names in one.flags),
            )
            for one in comparison.changes
        ),
        sequences=tuple(
            (
                f"({one.definition.id}) {one.definition.title} fails: {one.definition.statement}",
                tuple(line.strip() for line in shown(one, one.shortest)),
            )
            for one in comparison.judgements
            if one.shortest is not None
        ),
    )
