"""`vfio-migration status`: the status of servers, of which nothing is changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vfio_migration.cli import arguments as options

_HELP = """\
Show the status of servers: state, capabilities, who is connected and for how long. Nothing is
changed, and nobody is kept waiting: a server of this package reports it at a socket of its own,
    SOCKET.status,
also while another client is connected.

Other servers have no such socket, and are not connected to unless --connect is given: a server
serves one client at a time, and some reset their device or end when a client leaves. With --connect
it is asked as a client would ask; who else is connected is not known.

examples:
  vfio-migration status /run/edu.sock
  vfio-migration status /run/*.sock --json
  vfio-migration status /run/other.sock --connect --timeout 5

exit status: 0 each server returned its status; 1 nobody serves at one of them; 2 wrong input;
3 one does not answer, or has no status socket
"""

TIMEOUT_S = 2.0

_NO_CHANNEL = (
    "no server of this package, or one without a status socket; --connect asks it as a client, "
    "upon whose leaving some servers reset their device or end"
)
_DENIED = (
    "this user may not connect to its status socket: Permission denied; ask as the user who "
    "serves, or as root"
)


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("status", help="show the status of servers", description=_HELP)
    parser.add_argument("sockets", metavar="SOCKET", nargs="+", help="where a server listens")
    parser.add_argument(
        "--connect",
        action="store_true",
        help="connect to a server without a status socket, and ask it as a client",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=options.seconds,
        default=TIMEOUT_S,
        help=f"how long a server may take to answer (default {TIMEOUT_S:g})",
    )
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask each server; return the exit status."""
    from vfio_migration.cli.output import NO, UNKNOWN, WRONG_INPUT, YES, print_json, printable

    servers = [
        _ask(path, arguments.timeout, connect=arguments.connect) for path in arguments.sockets
    ]
    if arguments.json:
        print_json({"servers": servers})
    else:
        for server in servers:
            print(printable("\n".join(_lines(server))))
    outcomes = {server["outcome"] for server in servers}
    for outcome, status in (("wrong", WRONG_INPUT), ("unknown", UNKNOWN), ("absent", NO)):
        if outcome in outcomes:
            return status
    return YES


def _ask(path: str, timeout: float, *, connect: bool) -> dict[str, Any]:
    """Return what is known of one server; `outcome` is serving, absent, unknown or wrong."""
    from vfio_migration.model.errors import why
    from vfio_migration.runtime.server import status

    try:
        if not status.is_socket(path):
            return _none(path, "wrong", "is not a socket")
        found = status.read(path, timeout)
    except FileNotFoundError:
        return _none(path, "absent", "nobody serves there: there is no such socket")
    except TimeoutError as error:
        return _none(path, "unknown", str(error))
    except status.NoStatusError as error:
        if isinstance(error.__cause__, PermissionError):
            return _none(path, "unknown", _DENIED)
        if connect:
            return _as_client(path, timeout)
        if status.listens(path) is not True and error.ended:
            return _none(path, "absent", "nobody serves there any more: its server has ended")
        return _none(path, "unknown", _NO_CHANNEL)
    except (OSError, ValueError) as error:
        return _none(path, "wrong", why(error))
    client = found["client"]
    if client is not None:
        client["program"] = _program(client["pid"])
    return {**_none(path, "serving", None), **found, "socket": path}


def _as_client(path: str, timeout: float) -> dict[str, Any]:
    from vfio_migration.model import load
    from vfio_migration.runtime.client import (
        Client,
        ClientError,
        PeerDisconnectedError,
        RefusedError,
        TimedOutError,
    )

    try:
        with Client(path, timeout_s=timeout) as client:
            try:
                names = load().machine(client.capabilities()).names
                state = client.state()
            except RefusedError as error:
                return _none(path, "unknown", f"answers, but not about migration: {error}")
    except TimedOutError:
        why = f"does not answer a client within {timeout:g} s; it may be serving another one"
        return _none(path, "unknown", why)
    except PeerDisconnectedError as error:
        return _none(path, "absent", str(error))
    except (ClientError, OSError, ValueError) as error:
        return _none(path, "unknown", str(error))
    return {**_none(path, "serving", None), "capabilities": list(names), "state": state}


def _none(path: str, outcome: str, why: str | None) -> dict[str, Any]:
    return {
        "socket": path,
        "outcome": outcome,
        "why": why,
        "state": None,
        "capabilities": None,
        "client": None,
    }


def _program(pid: int) -> str | None:
    """Return what a process is called; it may be gone, or not to be seen from here."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "backslashreplace").strip()
    except OSError:
        return None


def _lines(server: dict[str, Any]) -> list[str]:
    from vfio_migration.cli.event_printer import seconds

    path = server["socket"]
    if server["outcome"] != "serving":
        return [f"{path}: {server['why'].removeprefix(f'{path}: ')}"]
    lines = [f"{path}: {server['state']}"]
    lines.append(f"  {'capabilities':<12} {','.join(server['capabilities'])}")
    if "serving_seconds" not in server:
        return [*lines, f"  {'client':<12} is not known"]
    client = server["client"]
    if client is None:
        who = f"none now; connections so far: {server['connections']}"
    else:
        program = client["program"]
        process = f"pid {client['pid']}" + (f" ({program})" if program else "")
        who = f"{process}, connected for {seconds(client['connected_seconds'])}"
    lines.append(f"  {'client':<12} {who}")
    lines.append(f"  {'device':<12} {server['device']}")
    ran = seconds(server["serving_seconds"])
    return [*lines, f"  {'server':<12} pid {server['pid']}, serving for {ran}"]
