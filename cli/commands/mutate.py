"""`vfio-migration mutate`: show that the obligations catch every single edit of a table."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options

if TYPE_CHECKING:
    from vfio_migration.model import Spec

_HELP = """\
Make every single edit of a table (an arc removed, added or redirected, a refusal dropped, a state
moved on the grid, ...) and show for each that an obligation is violated, or that nothing changed.
An edit that no obligation speaks of is a survivor, and a failure.

examples:
  vfio-migration mutate
  vfio-migration mutate my_table.toml
  vfio-migration mutate --only arc-removed routing      # kinds of edit; --list names them
  vfio-migration mutate --against T1 T2 T3              # what would survive with these alone?
  vfio-migration mutate --full --json | jq .violations  # every obligation against every mutant
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "mutate",
        help="show that every single edit of a table is caught",
        description=_HELP,
    )
    options.spec_argument(parser)
    options.names_option(parser, "--only", "KIND", "kinds of edit; all by default")
    tried = "the obligations (T4) or families (T) to try; all by default"
    options.names_option(parser, "--against", "ID", tried)
    parser.add_argument(
        "--full",
        action="store_true",
        help="try every obligation on every mutant, also after the first that is violated",
    )
    options.solving_options(parser, " (default: 10)")
    parser.add_argument("--list", action="store_true", help="list the mutants and stop")
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Mutate; 0 if nothing survives, 1 if anything does, 3 if a solver gave up on the rest."""
    from vfio_migration.cli.output import NO, UNKNOWN, YES, print_json

    spec = options.read_spec(arguments.spec)
    from vfio_migration.verifier.mutation.mutate import TIMEOUT, check_kinds, mutate
    from vfio_migration.verifier.mutation.text import survey_lines, to_data

    check_kinds(arguments.only)
    _check_against(arguments.against)
    if arguments.list:
        _list(spec, arguments)
        return YES
    survey = mutate(
        spec,
        kinds=arguments.only,
        against=arguments.against,
        full=arguments.full,
        jobs=arguments.jobs,
        timeout=TIMEOUT if arguments.timeout is None else arguments.timeout,
        progress=_progress if sys.stderr.isatty() else lambda _done, _all: None,
    )
    if arguments.json:
        print_json(to_data(survey))
    else:
        print(f"{arguments.spec or 'vfio_v2.toml'}: {spec.title}\n")
        print("\n".join(survey_lines(survey)))
    return {True: YES, False: NO, None: UNKNOWN}[survey.caught]


def _check_against(names: list[str] | None) -> None:
    """Report what is wrong with --against; the reader of such names calls them --only."""
    from dataclasses import replace

    from vfio_migration.model import SpecError
    from vfio_migration.verifier import select

    try:
        select(names)
    except SpecError as error:
        mistakes = [replace(mistake, place="--against") for mistake in error.mistakes]
        raise SpecError(mistakes) from None


def _list(spec: Spec, arguments: argparse.Namespace) -> None:
    from vfio_migration.cli.output import print_json
    from vfio_migration.verifier.mutation.edits import KINDS, mutants

    made = mutants(spec, arguments.only)
    if arguments.json:
        titles = {kind.name: kind.title for kind in KINDS}
        print_json(
            {
                "kinds": {kind: titles[kind] for kind in dict.fromkeys(m.kind for m in made)},
                "mutants": [{"id": m.id, "kind": m.kind, "sentence": m.sentence} for m in made],
            }
        )
        return
    for kind in KINDS:
        of_kind = [mutant for mutant in made if mutant.kind == kind.name]
        if of_kind:
            print(f"{kind.name}: {kind.title} ({len(of_kind)})")
            print("\n".join(f"  {mutant.sentence}" for mutant in of_kind))


def _progress(done: int, count: int) -> None:
    end = "\r\x1b[K" if done == count else ""
    sys.stderr.write(f"\r{done} of {count} mutants{end}")
    sys.stderr.flush()
