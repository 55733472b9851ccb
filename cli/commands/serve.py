"""`vfio-migration serve`: a device behind a vfio-user socket."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import devices

if TYPE_CHECKING:
    from vfio_migration.runtime.server.log_writer import LogWriter
    from vfio_migration.runtime.server.server import Server

_HELP = """\
Serve a device to vfio-user clients, one at a time, until SIGTERM or SIGINT. The device keeps its
state when a client goes away. What happens is logged on standard error; SIGUSR1 logs the counters,
SIGUSR2 disconnects the present client (`vfio-migration status` states who that is).

The socket is made with mode 0600 and removed at the end. One at which nobody listens any more is
replaced. Beside it there is SOCKET.status, which `vfio-migration status` reads. Without SOCKET and
--fd the socket is the one that systemd gives (LISTEN_FDS).

examples:
  vfio-migration serve /run/edu.sock
  vfio-migration serve /run/edu.sock --flags STOP_COPY,P2P --log-format json
  vfio-migration serve /run/mem.sock --device memory,size=1G,rate=100M
  vfio-migration serve /run/nic.sock --device mypackage.nic:Nic,queues=4
  vfio-migration serve --fd=3              # a socket that the starting process has opened as 3
  systemd-socket-activate -l /run/edu.sock vfio-migration serve

exit status: 0 stopped by a signal, or the client of --fd disconnected; 2 wrong input; 3 stopped
by a signal, but a callback of the device did not return within 4 seconds; 143 (SIGTERM) or 130
(SIGINT) ended at once by a second signal
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "serve", help="serve a device to vfio-user clients", description=_HELP
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("socket", metavar="SOCKET", nargs="?", help="where to listen: a path")
    where.add_argument("--socket-path", metavar="PATH", help="the same as SOCKET")
    where.add_argument(
        "--fd",
        metavar="FDNUM",
        type=_descriptor,
        help="a socket that this process was started with: listening, or a client's already",
    )
    parser.add_argument(
        "--device",
        metavar="NAME|MODULE:CLASS[,KEY=VALUE...]",
        default="edu",
        help="which device: edu (the default; dma_mask=MASK), memory (size=, rate= in bytes a "
        "second, seed=), or a class of your own, whose keyword arguments are its keys",
    )
    options.flags_option(parser)
    options.spec_option(parser)
    options.wire_option(parser)
    parser.add_argument(
        "--idle-timeout",
        metavar="SECONDS",
        type=options.seconds,
        help="disconnect a client that sends nothing and takes nothing for so long while nothing "
        "of it is under way (by default never: the client of a device that rests is idle too)",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="lines for people (the default), or one JSON object a line",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="debug adds the traceback of what a device raises",
    )
    parser.add_argument(
        "--allow-device-memory",
        action="store_true",
        help="map the memory of real devices (VFIO, dma-buf) that a client gives as guest memory; "
        "such a device can take it away, and the next access then kills the server (SIGBUS)",
    )
    where.add_argument(
        "--describe",
        action="store_true",
        help="print the JSON file by which management software finds the program that serves "
        "this device, and serve nothing",
    )
    parser.add_argument(
        "--binary", metavar="PATH", help="which program --describe names, if none is installed"
    )
    parser.set_defaults(run=run)


def _descriptor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text} is not a descriptor")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve; 0 when stopped by a signal."""
    if arguments.wire is not None:
        from vfio_migration.model import wire_load

        wire_load.use(arguments.wire)
    if arguments.describe:
        return _describe(arguments)
    log = _log(arguments.log_format, arguments.log_level)
    try:
        status, complaint = _run(arguments, log)
    finally:
        log.end()
    if complaint is not None:
        from vfio_migration.cli import event_printer
        from vfio_migration.cli.output import with_advice

        event_printer.print_last(sys.stderr, [f"vfio-migration: error: {with_advice(complaint)}"])
    return status


def _run(arguments: argparse.Namespace, log: LogWriter) -> tuple[int, str | None]:
    """Serve; return the exit status, and what is wrong with the input."""
    from vfio_migration.cli.output import WRONG_INPUT, YES
    from vfio_migration.cli.stopping import Stopper
    from vfio_migration.runtime.server.server import Server
    from vfio_migration.runtime.transport import listening, service_notify

    device = devices.make(arguments)
    device.memory.device_memory = arguments.allow_device_memory
    stopper = None
    try:
        watchdog = service_notify.watchdog()
        idle = arguments.idle_timeout
        with Server(device, idle_timeout=idle, watchdog=watchdog) as server:
            stopper = Stopper(server.stop, device, log)
            signal.signal(signal.SIGUSR1, lambda _number, _frame: server.log_counters())
            signal.signal(signal.SIGUSR2, lambda _number, _frame: server.end_client())
            with _socket(arguments) as sock:
                _serve(server, sock, arguments)
    except listening.CannotListenError as error:
        return WRONG_INPUT, str(error)
    finally:
        device.close()
        if stopper is not None:
            stopper.dismiss()
    return YES, None


def _socket(arguments: argparse.Namespace) -> AbstractContextManager[socket.socket]:
    """Return the socket to serve on, closed, and removed if it is ours, at the end."""
    from vfio_migration.runtime.transport import listening

    path = arguments.socket if arguments.socket is not None else arguments.socket_path
    if path is not None:
        return listening.listening(path)
    fd = listening.activated(os.environ) if arguments.fd is None else arguments.fd
    if fd is None:
        raise listening.CannotListenError(
            "give a socket: SOCKET, --fd FDNUM, or a socket by LISTEN_FDS"
        )
    return listening.given(fd)


def _serve(server: Server, sock: socket.socket, arguments: argparse.Namespace) -> None:
    from vfio_migration.runtime.server.log import log_event
    from vfio_migration.runtime.transport import listening, service_notify

    log_event(
        "serving",
        device=arguments.device,
        socket=sock.getsockname() or f"descriptor {sock.fileno()}",
        flags=server.device.capabilities,
        spec=server.engine.machine.spec.name,
        state=server.engine.state,
    )
    service_notify.notify(service_notify.READY, f"STATUS=serving {arguments.device}")
    try:
        if listening.is_listening(sock):
            with _status(server, sock, arguments):
                server.serve(sock)
        else:
            server.serve_client(sock.dup())
    finally:
        log_event("counters", **server.counters.snapshot())
        log_event("stopped", state=server.engine.state)


def _status(
    server: Server, sock: socket.socket, arguments: argparse.Namespace
) -> AbstractContextManager[object]:
    """Answer beside the socket what the server does, if the socket has a place."""
    from vfio_migration.runtime.server.status import StatusSocket

    name = sock.getsockname()
    if not name or not isinstance(name, str) or name.startswith("\0"):
        return nullcontext()
    return StatusSocket(server, name, arguments.device)


def _describe(arguments: argparse.Namespace) -> int:
    from vfio_migration.cli.output import WRONG_INPUT, YES, print_error, print_json

    name, summary = devices.summary(arguments)
    program = arguments.binary or _installed(name)
    if program is None:
        print_error(
            f"--describe: no program is installed that serves {name} and nothing else; "
            "name it by --binary, or write one that calls vfio_migration.cli.backend.run"
        )
        return WRONG_INPUT
    print_json(_description(name, summary, program))
    return YES


def _installed(device: str) -> Path | None:
    """Return the program for a device that was installed with this package, if there is one."""
    program = Path(sysconfig.get_path("scripts"), f"vfio-user-{device}")
    return program if program.exists() else None


def _description(device: str, summary: str, program: str | Path) -> dict[str, object]:
    """Return the JSON file that describes a backend.

    The specification has no schema of its own yet and points at the one of vhost-user, whose keys
    these are. It lists no types of devices: the type is the name of the device.
    """
    return {
        "description": summary,
        "type": device,
        "binary": str(program),
        "tags": ["vfio-migration"],
    }


def _log(form: str, level: str) -> LogWriter:
    import logging

    from vfio_migration.runtime.server.log import JsonLines, Text
    from vfio_migration.runtime.server.log_writer import LogWriter

    log = LogWriter(sys.stderr.fileno(), JsonLines() if form == "json" else Text())
    root = logging.getLogger()
    root.handlers[:] = [log]
    root.setLevel(level.upper())
    return log
