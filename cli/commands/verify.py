"""`vfio-migration verify`: prove a table, or show what breaks."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files
from vfio_migration.cli.output import NO, UNKNOWN, YES

if TYPE_CHECKING:
    from vfio_migration.model import CapabilitySet, Spec
    from vfio_migration.model.sources.read import Reading
    from vfio_migration.verifier import Obligation, Report, Verdict
    from vfio_migration.verifier.report.junit_sarif import Context
    from vfio_migration.verifier.report.letter import Letter
    from vfio_migration.verifier.solver.smtlib import Origin

_HELP = """\
Prove every obligation about a table for all its capability sets, each with a witness that its
premise happens; or show a shortest run that breaks it.

examples:
  vfio-migration verify
  vfio-migration verify my_table.toml
  vfio-migration verify drivers/vfio/vfio_main.c      # a source, as `import` reads it; or git:REV
  vfio-migration verify my_table.toml --against builtin --format mail    # only what changed
  vfio-migration verify --only T4 T5               # or a whole family: --only T
  vfio-migration verify --profile vfio-user
  vfio-migration verify --json | jq .outcome
  vfio-migration verify my_table.toml --junit verify.xml --sarif verify.sarif
  vfio-migration verify my_table.toml --traces traces     # one file for each violation
  vfio-migration verify --smtlib queries           # every query, for any solver to decide
  vfio-migration verify --only T1 --solver both    # z3 and cvc5, which must agree
"""

_FORMATS = ("text", "mail", "md", "json", "sarif")
_SOLVERS = ("z3", "cvc5", "both")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "verify", help="prove a table, or show what breaks", description=_HELP
    )
    options.spec_argument(parser)
    parser.add_argument(
        "--against",
        metavar="OLD",
        help="show only what is otherwise than for this table: a file, a source, or a name",
    )
    options.format_option(parser, _FORMATS)
    options.names_option(parser, "--only", "ID", "obligations (T4) or families (T)")
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="the profile whose capability sets are covered; by default those of all",
    )
    options.plans_option(parser)
    options.wire_option(parser)
    parser.add_argument(
        "--listings",
        metavar="FILE",
        help="what specifications list, for T8 and D3 to D5, in place of what comes with this "
        "package",
    )
    parser.add_argument(
        "--no-listings",
        action="store_true",
        help="leave out T8, which compares with listings and proves nothing of what is safe",
    )
    parser.add_argument(
        "--claims",
        metavar="FILE",
        help="obligations of your own besides, in a Python file; its code is run",
    )
    options.solving_options(parser)
    parser.add_argument(
        "--total-timeout",
        metavar="SECONDS",
        type=options.seconds,
        help="give up on all that is not decided after this long: it is unknown",
    )
    parser.add_argument(
        "--solver",
        metavar="NAME",
        choices=_SOLVERS,
        default="z3",
        help="z3 (the default), cvc5, or both: they must agree on every query",
    )
    parser.add_argument("--list", action="store_true", help="list the obligations and stop")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print only what is not proved, and the outcome"
    )
    parser.add_argument(
        "--brief", action="store_true", help="print each verdict without its witness"
    )
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--sarif", metavar="FILE", help="write SARIF 2.1.0")
    parser.add_argument(
        "--traces", metavar="DIR", help="write the trace of each violation to DIR/ID.json"
    )
    parser.add_argument(
        "--smtlib", metavar="DIR", help="write every query to DIR as SMT-LIB 2.6, with an index"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verify; 0 if all is proved, 1 if anything is violated, 3 if anything is unknown."""
    from vfio_migration.cli.output import print_json, printable
    from vfio_migration.cli.progress import Progress
    from vfio_migration.model.wire_load import load_wire

    options.choose_format(arguments)
    files.keep_apart(
        {"--junit": arguments.junit, "--sarif": arguments.sarif},
        {
            "SPEC": arguments.spec,
            "--against": arguments.against,
            "--plans": arguments.plans,
            "--wire": arguments.wire,
            "--listings": arguments.listings,
            "--claims": arguments.claims,
        },
    )
    spec, reading = options.read_table(arguments.spec)
    spec.profile(arguments.profile)
    old = None if arguments.against is None else options.read_spec(arguments.against)
    plans = options.read_plans(spec, arguments.plans)
    wire = load_wire(arguments.wire)
    from vfio_migration.cli.verdicts import letter_of, sarif_of
    from vfio_migration.verifier import select, verify
    from vfio_migration.verifier.obligations.listings import LISTED, use
    from vfio_migration.verifier.report import letter as letters
    from vfio_migration.verifier.report.text import to_data
    from vfio_migration.verifier.solver.workers import processors

    claims = _claims(arguments.claims)
    use(arguments.listings)
    chosen = select(arguments.only, claims)
    if arguments.no_listings:
        chosen = tuple(obligation for obligation in chosen if obligation.id != LISTED)
        arguments.only = [obligation.id for obligation in chosen]
    if arguments.list:
        _list(chosen, arguments.json)
        return YES
    _check_outputs(arguments)
    in_full = not arguments.json and arguments.format == "text" and old is None
    talks = in_full and not arguments.quiet
    if talks:
        _head(arguments, spec, reading)
    export = _origin(arguments, spec)

    def verified(of: Spec, found: Callable[[Verdict], None]) -> Report:
        return verify(
            of,
            plans=plans,
            wire=wire,
            profile=arguments.profile,
            only=arguments.only,
            claims=claims,
            timeout=arguments.timeout,
            total_timeout=arguments.total_timeout,
            solver=arguments.solver,
            jobs=arguments.jobs or processors(),
            export=export if arguments.smtlib is not None and of is spec else None,
            progress=found,
        )

    with Progress([obligation.id for obligation in chosen], talks) as progress:

        def found(verdict: Verdict) -> None:
            progress.clear()
            if talks:
                _show(verdict, brief=arguments.brief)
            progress.advance()

        before = None if old is None else verified(old, lambda _verdict: None)
        report = verified(spec, found)
    report, context = _write(arguments, report, chosen, export, reading)
    against = None if before is None else (arguments.against, before)
    name = arguments.spec or "vfio_v2.toml"
    letter = letter_of(
        name, report, chosen, against=against, reading=reading, command=export.command
    )
    if arguments.json:
        print_json(to_data(report) | _against_data(letter))
    elif arguments.format == "sarif":
        print(sarif_of(letter, arguments.spec, reading), end="")
    elif in_full:
        _summary(report, context, arguments.quiet)
    else:
        lines = {"md": letters.markdown, "mail": letters.text}.get(arguments.format)
        made = letters.text(letter, 100) if lines is None else lines(letter)
        print(printable("\n".join(made)))
    return {"proved": YES, "violated": NO, "unknown": UNKNOWN}[letter.outcome]


def _against_data(letter: Letter) -> dict[str, Any]:
    """Return what is otherwise than for another table, and what a source changes, as data."""
    data: dict[str, Any] = {}
    if letter.against is not None:
        changes = [
            {"id": one.verdict.id, "change": one.kind, "old": one.old} for one in letter.changes
        ]
        data["against"] = {"name": letter.against[0], "changes": changes}
    if letter.changed or letter.findings:
        data["source"] = {"changed": list(letter.changed), "findings": list(letter.findings)}
    return data


def _head(arguments: argparse.Namespace, spec: Spec, reading: Reading | None) -> None:
    """Return what is verified, and what its source changes."""
    sets = _sets(spec, arguments.profile)
    print(
        f"{arguments.spec or 'vfio_v2.toml'}: {spec.title}, {len(spec.states)} states, "
        f"{len(spec.arcs)} arcs, {len(sets)} capability sets"
    )
    for one in reading.changed if reading is not None else ():
        print(f"changed: {one.place}: {one.value} {one.problem}")
    for finding in reading.findings if reading is not None else ():
        print(f"finding: {finding}")
    print(flush=True)


def _claims(path: str | None) -> tuple[Obligation, ...]:
    if path is None:
        return ()
    from vfio_migration.verifier.obligations.own_claims import load_claims

    return tuple(load_claims(path))


def _list(chosen: Sequence[Obligation], json: bool) -> None:
    from vfio_migration.cli.output import print_json
    from vfio_migration.verifier.report.text import obligation_lines

    if not json:
        print("\n".join(line for one in chosen for line in obligation_lines(one)))
        return
    names = ("id", "title", "statement", "ranges_over", "method", "why", "not_shown")
    print_json({"obligations": [{name: getattr(o, name) for name in names} for o in chosen]})


# --- files ---


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse before the work what could not be written after it."""
    for option in ("junit", "sarif"):
        files.writable(f"--{option}", getattr(arguments, option))
    for option in ("traces", "smtlib"):
        files.writable(f"--{option}", getattr(arguments, option), folder=True)
    from vfio_migration.verifier.solver.smtlib import check_folder

    if arguments.smtlib is not None:
        check_folder(Path(arguments.smtlib))


def _sets(spec: Spec, profile: str | None) -> list[CapabilitySet]:
    """Every capability set that is covered, smallest flags word first."""
    names = [row.name for row in spec.profiles] if profile is None else [profile]
    found = {flags for name in names for flags in spec.capability_sets(name)}
    return sorted(found, key=lambda flags: int(flags.value))


def _origin(arguments: argparse.Namespace, spec: Spec) -> Origin:
    from vfio_migration.model.advice import command, operand
    from vfio_migration.verifier.solver.smtlib import Origin

    profile = arguments.profile or ",".join(row.name for row in spec.profiles)
    words = ["verify", *([operand(arguments.spec)] if arguments.spec else [])]
    words += ["--against", operand(arguments.against)] if arguments.against else []
    words += ["--profile", profile] if arguments.profile else []
    for option in ("plans", "wire", "listings", "claims"):
        given = getattr(arguments, option)
        words += [f"--{option}", operand(given)] if given else []
    words += ["--no-listings"] if arguments.no_listings else []
    sets = (",".join(spec.names(flags)) for flags in _sets(spec, arguments.profile))
    return Origin(spec.name, profile, "; ".join(sets), command(*words))


def _write(
    arguments: argparse.Namespace,
    report: Report,
    chosen: Sequence[Obligation],
    export: Origin,
    reading: Reading | None,
) -> tuple[Report, Context]:
    """Write what was asked for; return the report with the names of what was written."""
    from vfio_migration.cli.verdicts import context_of
    from vfio_migration.verifier.report import junit_sarif as formats
    from vfio_migration.verifier.solver import smtlib

    if arguments.smtlib is not None:
        smtlib.write(Path(arguments.smtlib), report.documents, export)
    verdicts = [_with_files(verdict, arguments.smtlib) for verdict in report.verdicts]
    report = dataclasses.replace(report, verdicts=tuple(verdicts))
    saved: dict[str, str] = {}
    if arguments.traces is not None:
        folder = Path(arguments.traces)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            files.refuse("--traces", str(folder), f"cannot be made: {error.strerror}")
        for verdict in report.verdicts:
            run = verdict.run
            if run is not None:
                path = folder / f"{verdict.id}.json"
                files.write_whole("--traces", path, run.to_json().encode())
                saved[verdict.id] = str(path)
    context = dataclasses.replace(context_of(chosen, arguments.spec, reading), saved=saved)
    if arguments.junit is not None:
        files.write_whole("--junit", arguments.junit, formats.junit(report, context).encode())
    if arguments.sarif is not None:
        files.write_whole("--sarif", arguments.sarif, formats.sarif(report, context).encode())
    return report, context


def _with_files(verdict: Verdict, folder: str | None) -> Verdict:
    """Name the file of each query two solvers disagree about; write it if nothing else did."""
    if not verdict.disagreements:
        return verdict
    from vfio_migration.verifier.solver.smtlib import file_of

    found = []
    for one in verdict.disagreements:
        if folder is not None:
            path = Path(folder) / file_of(verdict.id, one.query)
        else:
            below = Path(tempfile.mkdtemp(prefix="vfio-migration-"))
            path = below / Path(file_of(verdict.id, one.query)).name
            path.write_text(one.text, "utf-8")
        found.append(dataclasses.replace(one, file=str(path)))
    return dataclasses.replace(verdict, disagreements=tuple(found))


# --- what is printed ---


def _show(verdict: Verdict, *, brief: bool = False) -> None:
    from vfio_migration.verifier.report.text import verdict_line

    print(_coloured(_wrapped(verdict_line(verdict)), verdict.outcome))
    if verdict.witness is not None and not brief:
        print(_wrapped(f"{_HANGING}witness: {verdict.witness.text}"))
    if verdict.reason is not None:
        print(_wrapped(f"{_HANGING}unknown: {verdict.reason}"))
    sys.stdout.flush()


_HANGING = " " * 24
"""Statements begin in this column, and so does whatever belongs to one."""


def _wrapped(text: str) -> str:
    """Break a line for the terminal, or for a page of 100 columns."""
    import shutil
    import textwrap

    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(text, width, subsequent_indent=_HANGING, break_on_hyphens=False)


def _summary(report: Report, context: Context, quiet: bool) -> None:
    from vfio_migration.verifier.obligations.listings import LISTED, unlisted
    from vfio_migration.verifier.report.text import disagreement_lines, variant_lines

    for verdict in report.verdicts:
        if quiet and verdict.outcome == "unknown":
            _show(verdict)
        if verdict.outcome == "violated":
            print("\n" + context.described(report, verdict))
        if verdict.disagreements:
            print("\n" + "\n".join(disagreement_lines(verdict)))
    for variant in () if quiet else report.variants:
        lines = list(variant_lines(report.spec, variant))
        print("\nfinding: " + "\n".join(lines))
    if not quiet and any(one.id == LISTED for one in report.verdicts):
        for name in unlisted(report.spec):
            print(f"\nno listing knows the {name}: {LISTED} is silent about it")
    counts = dict.fromkeys(("proved", "violated", "unknown"), 0)
    for verdict in report.verdicts:
        counts[verdict.outcome] += 1
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    by = {
        "z3": "",
        "cvc5": ", decided by cvc5; the examples are z3's",
        "both": ", decided by z3 and cvc5",
    }[report.solver]
    line = f"{report.outcome}: {counted} in {report.seconds:.2f} s{by}"
    if [one.id for one in report.verdicts if one.outcome == "violated"] == [LISTED]:
        line += f"; {LISTED} compares with what is listed (--no-listings), and no other is violated"
    print(("" if quiet else "\n") + _coloured(line, report.outcome))


def _coloured(text: str, outcome: str) -> str:
    """Colour the outcome's word, on a terminal that has not asked for none."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    code = {"proved": "32", "violated": "31", "unknown": "33"}[outcome]
    return text.replace(outcome, f"\x1b[{code}m{outcome}\x1b[0m", 1)
