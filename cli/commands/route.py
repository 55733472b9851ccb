"""`vfio-migration route`: what a request does, and what can be asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options

if TYPE_CHECKING:
    from vfio_migration.model import Machine, Route

_HELP = """\
Show the path a device takes from one state to another, arc by arc, or why the request is refused.
Without TO: everything that can be asked for in FROM, and why the rest cannot.

examples:
  vfio-migration route PRE_COPY STOP_COPY
  vfio-migration route RUNNING RESUMING --flags STOP_COPY,P2P
  vfio-migration route STOP_COPY PRE_COPY          # refused: exit status 1
  vfio-migration route STOP_COPY                   # what can I do from here?
  vfio-migration route RUNNING 3 --json            # a state by its value on the wire
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "route", help="the path of a request, or why it is refused", description=_HELP
    )
    parser.add_argument("from_", metavar="FROM", help="the present state, by name or value")
    parser.add_argument("to", metavar="TO", nargs="?", help="the state asked for, by name or value")
    options.flags_option(parser)
    options.spec_option(parser)
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answer on standard output; 0 if the request is accepted, 1 if it is refused."""
    from vfio_migration.cli.output import NO, YES, print_json, printable

    spec = options.read_spec(arguments.spec)
    machine = spec.machine(options.read_flags(arguments.flags))
    from_ = options.present_state(machine, options.read_state(arguments.from_))
    if arguments.to is None:
        routes = machine.options(from_)
        if arguments.json:
            print_json(
                {
                    "from": from_,
                    "flags": list(machine.names),
                    "options": [_data(machine, r) for r in routes],
                }
            )
        else:
            print(printable("\n".join(_overview(machine, from_, routes))))
        return YES
    route = machine.route(from_, options.read_state(arguments.to))
    if arguments.json:
        print_json(_data(machine, route))
    else:
        print(printable("\n".join(_lines(machine, route))))
    return YES if route.refused is None else NO


def _data(machine: Machine, route: Route) -> dict[str, Any]:
    refused = route.refused
    return {
        "from": route.from_,
        "to": route.to,
        "flags": list(machine.names),
        "path": None if refused else list(route.path),
        "refused": {
            "errno": refused.errno,
            "reason": refused.reason,
            "when": refused.when,
            "source": refused.source,
        }
        if refused
        else None,
    }


def _lines(machine: Machine, route: Route) -> Iterator[str]:
    yield f"{route}   (capabilities {','.join(machine.names)})"
    if route.refused is not None:
        yield f"  why: {route.refused.reason}"
        yield f"  source: {route.refused.source}"
        return
    width = max((len(str(arc)) for arc in route.arcs), default=0)
    for number, arc in enumerate(route.arcs, 1):
        effect = _effect(machine, arc.from_, arc.to)
        yield f"  {number}. {arc!s:<{width}}  {effect:<19}  {arc.summary}"


def _effect(machine: Machine, from_: str, to: str) -> str:
    effect = machine.spec.effect(from_, to)
    return "no data session" if effect == "none" else f"{effect} the session"


def _overview(machine: Machine, from_: str, routes: tuple[Route, ...]) -> Iterator[str]:
    yield f"from {from_}   (capabilities {','.join(machine.names)})"
    width = max(len(str(route.to)) for route in routes)
    for route in routes:
        if route.refused is not None:
            what = f"refused ({route.refused.errno}): {route.refused.reason}"
        elif not route.arcs:
            what = "nothing to do"
        else:
            what = " -> ".join((from_, *route.path))
        yield f"  {route.to!s:<{width}}  {what}"
