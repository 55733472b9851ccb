"""`vfio-migration replay`: run a trace again on the live engine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files

if TYPE_CHECKING:
    from vfio_migration.verifier.report.replay import Replay

_HELP = """\
Run a trace (a counterexample, a recorded run) again on the live engine, and print step by step
whether the engine does the same. The device of the engine fails where the trace has it.

examples:
  vfio-migration replay run.json
  vfio-migration replay run.json --spec my_table.toml
  vfio-migration verify my_table.toml -q --traces traces     # one file for each violation

exit status: 0 the engine does the same, 1 it differs, 2 wrong input
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "replay", help="run a trace again on the live engine", description=_HELP
    )
    parser.add_argument(
        "trace", metavar="TRACE", help="the trace, a JSON file; - for standard input"
    )
    options.spec_option(parser)
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay; 0 if the engine does what the trace states, 1 if it differs."""
    from vfio_migration.cli.output import NO, YES, encodable, one_line, print_json
    from vfio_migration.verifier.report.replay import replay

    spec = options.read_spec(arguments.spec)
    result = replay(files.read_trace("TRACE", arguments.trace), spec)
    if arguments.json:
        print_json(_data(result))
    else:
        print("\n".join(encodable(one_line(line)) for line in _lines(result)))
    return YES if result.agrees else NO


def _data(result: Replay) -> dict[str, Any]:
    difference = result.difference
    return {
        "agrees": result.agrees,
        "spec": result.trace.spec,
        "compared": result.compared,
        "skipped": result.skipped,
        "devices": [result.trace.name(device) for device in range(len(result.trace.start))],
        "steps": [
            {
                "number": number,
                "device": step.device,
                "step": str(step),
                "comparison": comparison,
            }
            for number, (step, comparison) in enumerate(
                zip(result.trace.steps, result.steps, strict=True), 1
            )
        ],
        "difference": {
            "step": difference.step,
            "trace": difference.trace,
            "engine": difference.engine,
        }
        if difference
        else None,
    }


_WORDS = {"same": "ok", "differs": "differs", "skipped": "-", "not compared": ""}


def _lines(result: Replay) -> Iterator[str]:
    trace, difference = result.trace, result.difference
    several = len(trace.start) > 1
    if trace.title:
        yield trace.title
    for device, (start, names) in enumerate(zip(trace.start, trace.capabilities, strict=True)):
        who = f"{trace.name(device)}: " if several else ""
        word = "differs" if difference is not None and difference.step == 0 else "ok"
        yield f"{0:>3}. {word:<8} {who}{start} ({','.join(names)})"
    for number, (step, comparison) in enumerate(zip(trace.steps, result.steps, strict=True), 1):
        session = "" if step.session is None else f" session {step.session}"
        where = f"[{step.state}{session}]"
        yield f"{number:>3}. {_WORDS[comparison]:<8} {trace.describe(step)}   {where}"
        if difference is not None and number == difference.step:
            yield f"{'':14}the engine: {difference.engine}"
    yield ""
    if difference is None:
        yield str(result)
    else:
        yield f"the live engine differs at step {difference.step}: {difference.engine}"
