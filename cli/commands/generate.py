"""`vfio-migration generate`: models and code for other tools, from the same tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files

_HELP = """\
Generate what other tools read from the tables. The result goes to standard output, or to FILE.
"""

_PROMELA = """\
Write a group of devices that follows a plan as a model for the model checker spin.

Without --flags the group may be any mixture of capability sets that the plan is for.

examples:
  vfio-migration generate promela --devices 4 -o save.pml
  vfio-migration generate promela --plan one-by-one --devices 2 --flags 7
  vfio-migration generate promela --plan recover --failing
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "generate", help="a Promela model of a group, for spin", description=_HELP
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    promela = kinds.add_parser(
        "promela", help="a group under a plan, for spin", description=_PROMELA
    )
    promela.add_argument(
        "--plan", metavar="NAME", help="the plan; by default the first that is marked sound"
    )
    promela.add_argument(
        "--devices", metavar="N", type=int, default=3, help="how many devices (default: 3)"
    )
    promela.add_argument(
        "--failing", action="store_true", help="let any arc that is taken fail for good"
    )
    options.plans_option(promela)
    options.flags_option(promela)
    options.spec_option(promela)
    promela.add_argument("-o", "--output", metavar="FILE", help="where to write it")
    promela.set_defaults(run=run_promela)


def run_promela(arguments: argparse.Namespace) -> int:
    """Write the model; 0 if it was written."""
    from vfio_migration.cli.output import YES
    from vfio_migration.model.plan import load_plans
    from vfio_migration.verifier import Encoding
    from vfio_migration.verifier.report.promela import promela
    from vfio_migration.verifier.systems.plan import Discipline

    files.keep_apart(
        {"--output": arguments.output}, {"--spec": arguments.spec, "--plans": arguments.plans}
    )
    spec = options.read_spec(arguments.spec)
    plans = load_plans(spec, arguments.plans)
    encoding = Encoding(spec, plans=plans).widest()
    named = arguments.plan or next((row.name for row in plans.plans if row.sound), None)
    plan = plans.plan(named) if named is not None else plans.plans[0]
    words = None
    command_line = ["vfio-migration generate promela", f"--plan {plan.name}"]
    command_line.append(f"--devices {arguments.devices}")
    if arguments.flags is not None:
        word = int(spec.capability_set(options.read_flags(arguments.flags)).value)
        words = [word]
        command_line.append(f"--flags {encoding.set_name(word)}")
    if arguments.failing:
        command_line.append("--failing")
    discipline = Discipline(encoding, plan, failing=arguments.failing, words=words)
    _write(promela(discipline, arguments.devices, " ".join(command_line)), arguments.output)
    return YES


def _write(text: str, output: str | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        files.write_whole("--output", Path(output), text.encode())
