"""`vfio-migration verify`: prove a table, or show what breaks."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import options

if TYPE_CHECKING:
    from vfio_migration.verifier import Report, Verdict

_HELP = """\
Prove every obligation about a table for all its capability sets, each with a witness that its
premise happens; or show a shortest run that breaks it.

examples:
  vfio-migration verify
  vfio-migration verify my_table.toml
  vfio-migration verify --only T4 T5               # or a whole family: --only T
  vfio-migration verify --profile vfio-user
  vfio-migration verify --json | jq .outcome
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "verify", help="prove a table, or show what breaks", description=_HELP
    )
    options.spec_argument(parser)
    parser.add_argument(
        "--only",
        metavar="ID",
        nargs="+",
        action="extend",
        help="obligations (T4) or families (T)",
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="the profile whose capability sets are covered"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_positive,
        help="give up on a single query after this long",
    )
    parser.add_argument("--list", action="store_true", help="list the obligations and stop")
    options.json_option(parser)
    parser.set_defaults(run=run)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Verify; 0 if all is proved, 1 if anything is violated, 3 if anything is unknown."""
    from vfio_migration.cli.main import NO, UNKNOWN, YES, emit

    spec = options.read_spec(arguments.spec)
    spec.profile(arguments.profile)
    from vfio_migration.verifier import select, verify
    from vfio_migration.verifier.report import to_data

    chosen = select(arguments.only)
    if arguments.list:
        if arguments.json:
            emit(
                {
                    "obligations": [
                        {
                            "id": o.id,
                            "statement": o.statement,
                            "ranges_over": o.ranges_over,
                            "method": o.method,
                            "why": o.why,
                        }
                        for o in chosen
                    ]
                }
            )
        else:
            print("\n".join(f"{o.id:<4} {o.statement}\n     over {o.ranges_over}" for o in chosen))
        return YES
    if not arguments.json:
        sets = spec.capability_sets(arguments.profile)
        print(
            f"{arguments.spec or 'vfio_v2.toml'}: {spec.title}, {len(spec.states)} states, "
            f"{len(spec.arcs)} arcs, {len(sets)} capability sets\n",
            flush=True,
        )
    report = verify(
        spec,
        profile=arguments.profile,
        only=arguments.only,
        timeout=arguments.timeout,
        progress=(lambda _: None) if arguments.json else _show,
    )
    if arguments.json:
        emit(to_data(report))
    else:
        _summary(report, arguments.spec)
    return {"proved": YES, "violated": NO, "unknown": UNKNOWN}[report.outcome]


def _show(verdict: Verdict) -> None:
    from vfio_migration.verifier.report import verdict_line

    print(_coloured(verdict_line(verdict), verdict.outcome))
    if verdict.witness is not None:
        print(f"{'':15}witness: {verdict.witness.text}")
    if verdict.reason is not None:
        print(f"{'':15}unknown: {verdict.reason}")
    sys.stdout.flush()


def _summary(report: Report, origin: str | None) -> None:
    from vfio_migration.verifier import select
    from vfio_migration.verifier.report import variant_lines, violation

    obligations = {obligation.id: obligation for obligation in select(None)}
    for verdict in report.verdicts:
        if verdict.outcome == "violated":
            print()
            print("\n".join(violation(verdict, obligations[verdict.id], report.spec, origin)))
    for variant in report.variants:
        lines = list(variant_lines(report.spec, variant))
        print("\nfinding: " + "\n".join(lines))
    counts = dict.fromkeys(("proved", "violated", "unknown"), 0)
    for verdict in report.verdicts:
        counts[verdict.outcome] += 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    print(f"\n{_coloured(report.outcome, report.outcome)}: {told} in {report.seconds:.2f} s")


def _coloured(text: str, outcome: str) -> str:
    """Colour the outcome's word, on a terminal that has not asked for none."""
    import os

    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    code = {"proved": "32", "violated": "31", "unknown": "33"}[outcome]
    return text.replace(outcome, f"\x1b[{code}m{outcome}\x1b[0m", 1)
