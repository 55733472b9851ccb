"""`vfio-migration mutate`: show that the obligations catch every single edit of a table."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli.files import refuse

if TYPE_CHECKING:
    from vfio_migration.model.wire import Wire
    from vfio_migration.verifier.mutation.subjects import Subject

_HELP = """\
Make every single edit of a table (an arc removed, added or redirected, a refusal dropped, a state
moved on the grid, ...) and show for each that an obligation is violated, or that nothing changed.
An edit that no obligation speaks of is a survivor, and a failure. With --table wire the edits are
those of the table of the connection: each row dropped, each number, choice, flag and name in it
another; what is our own decision, and may be another one, is counted as argued, with the reason.

examples:
  vfio-migration mutate
  vfio-migration mutate my_table.toml
  vfio-migration mutate --only arc-removed routing      # kinds of edit; --list names them
  vfio-migration mutate --against T1 T2 T3              # what would survive with these alone?
  vfio-migration mutate --table wire                    # the table of the connection
  vfio-migration mutate --wire my_wire.toml --only features answers
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
    parser.add_argument(
        "--table",
        choices=("states", "wire"),
        help="which table is edited: that of states and arcs (the default), or of the connection",
    )
    options.wire_option(parser)
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
    wire = _read_wire(arguments)
    from vfio_migration.verifier.mutation.mutate import TIMEOUT, mutate
    from vfio_migration.verifier.mutation.subjects import states_subject, wire_subject
    from vfio_migration.verifier.mutation.text import survey_lines, to_data

    _check_against(arguments.against)
    if arguments.list:
        _list(states_subject(spec) if wire is None else wire_subject(spec, wire), arguments)
        return YES
    survey = mutate(
        spec,
        wire=wire,
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
        shown = arguments.spec or "vfio_v2.toml"
        print(f"{shown if wire is None else arguments.wire or 'wire.toml'}: {survey.title}\n")
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


def _read_wire(arguments: argparse.Namespace) -> Wire | None:
    """Return the table of the connection if it is the one to be edited, or None."""
    from vfio_migration.model.wire_load import load_wire

    if arguments.table == "states" and arguments.wire is not None:
        hint = "leave --table out, or --wire"
        refuse("--table", "states", "contradicts --wire, which names another table", hint)
    if arguments.table == "wire" or arguments.wire is not None:
        return load_wire(arguments.wire)
    return None


def _list(subject: Subject[Any], arguments: argparse.Namespace) -> None:
    from vfio_migration.cli.output import print_json

    made = subject.mutants_of(arguments.only)
    if arguments.json:
        print_json(
            {
                "kinds": {
                    kind: subject.kinds[kind] for kind in dict.fromkeys(m.kind for m in made)
                },
                "mutants": [{"id": m.id, "kind": m.kind, "sentence": m.sentence} for m in made],
            }
        )
        return
    for kind, title in subject.kinds.items():
        of_kind = [mutant for mutant in made if mutant.kind == kind]
        if of_kind:
            print(f"{kind}: {title} ({len(of_kind)})")
            print("\n".join(f"  {mutant.sentence}" for mutant in of_kind))


def _progress(done: int, count: int) -> None:
    end = "\r\x1b[K" if done == count else ""
    sys.stderr.write(f"\r{done} of {count} mutants{end}")
    sys.stderr.flush()
