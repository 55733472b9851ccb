"""`vfio-migration serve`: a device behind a vfio-user socket."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import options

if TYPE_CHECKING:
    from vfio_migration.runtime.served import ServedDevice
    from vfio_migration.runtime.server import Server

_HELP = """\
Serve a device to vfio-user clients, one at a time, until SIGTERM or SIGINT. The device keeps its
state when a client goes away. What happens is logged on standard error; SIGUSR1 logs the counters.

The socket is made with mode 0600 and removed at the end. One at which nobody listens any more is
replaced. Without SOCKET and --fd the socket is the one that systemd gives (LISTEN_FDS).

examples:
  vfio-migration serve /run/edu.sock
  vfio-migration serve /run/edu.sock --flags STOP_COPY,P2P --log-format json
  vfio-migration serve /run/mem.sock --device memory,size=1G,rate=100M
  vfio-migration serve --fd 3              # a socket that the starting process has opened as 3
  systemd-socket-activate -l /run/edu.sock vfio-migration serve

exit status: 0 stopped by a signal, or the client of --fd is gone; 2 wrong input
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "serve", help="serve a device to vfio-user clients", description=_HELP
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("socket", metavar="SOCKET", nargs="?", help="where to listen: a path")
    where.add_argument(
        "--fd",
        metavar="N",
        type=_descriptor,
        help="a socket that this process was started with: listening, or a client's already",
    )
    parser.add_argument(
        "--device",
        metavar="NAME[,KEY=VALUE...]",
        default="edu",
        help="which device: edu (the default; dma_mask=MASK) or memory (size=, rate= in bytes a "
        "second, seed=)",
    )
    options.flags_option(parser)
    options.spec_option(parser)
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="lines for people (the default), or one JSON object a line",
    )
    parser.set_defaults(run=run)


def _descriptor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text} is no descriptor")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve; 0 when told to stop."""
    from vfio_migration.cli.main import WRONG_INPUT, YES, complain
    from vfio_migration.runtime import listening

    _log(arguments.log_format)
    device = _device(arguments)
    try:
        from vfio_migration.runtime.server import Server

        with Server(device) as server:
            _obey(server)
            with _socket(arguments) as sock:
                _serve(server, sock, arguments)
    except listening.CannotListen as error:
        complain(str(error))
        return WRONG_INPUT
    finally:
        device.close()
    return YES


def _socket(arguments: argparse.Namespace) -> AbstractContextManager[socket.socket]:
    """Return the socket to serve on, closed, and removed if it is ours, at the end."""
    from vfio_migration.runtime import listening

    if arguments.socket is not None:
        return listening.listening(arguments.socket)
    fd = listening.activated(os.environ) if arguments.fd is None else arguments.fd
    if fd is None:
        raise listening.CannotListen("say where: SOCKET, --fd N, or a socket by LISTEN_FDS")
    return listening.given(fd)


def _serve(server: Server, sock: socket.socket, arguments: argparse.Namespace) -> None:
    from vfio_migration.runtime import listening
    from vfio_migration.runtime.journal import say

    say(
        "serving",
        device=arguments.device,
        socket=sock.getsockname() or f"descriptor {sock.fileno()}",
        flags=server.device.capabilities,
        spec=server.engine.machine.spec.name,
        state=server.engine.state,
    )
    try:
        if listening.is_listening(sock):
            server.serve(sock)
        else:
            server.serve_client(sock.dup())
    finally:
        say("counters", **server.counters.snapshot())
        say("stopped", state=server.engine.state)


def _device(arguments: argparse.Namespace) -> ServedDevice:
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake, closest
    from vfio_migration.runtime.devices import DEVICES

    name, *words = arguments.device.split(",")
    kind = DEVICES.get(name)
    if kind is None:
        near = closest(name, DEVICES)
        known = ", ".join(DEVICES)
        hint = f"did you mean {near}?" if near else f"there are {known}"
        raise SpecError([Mistake("--device", name, "is no device", hint)])
    spec = options.read_spec(arguments.spec)
    chosen: dict[str, int] = {}
    for key, value in (_option(name, word) for word in words):
        if key in chosen:
            raise SpecError([Mistake("--device", key, "is said twice", "say it once")])
        chosen[key] = value
    try:
        device: ServedDevice = kind(
            spec=spec, capabilities=options.read_flags(arguments.flags), **chosen
        )
    except SpecError:
        raise  # the table or the flags, and no option of the device
    except ValueError as error:
        raise SpecError([Mistake("--device", arguments.device, str(error), None)]) from None
    except OSError as error:  # of the memory that it asks for
        problem = f"cannot be made: {error.strerror}"
        raise SpecError([Mistake("--device", arguments.device, problem, None)]) from None
    return device


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_OPTIONS = {"edu": ("dma_mask",), "memory": ("size", "rate", "seed")}


def _option(device: str, word: str) -> tuple[str, int]:
    """Read what was said of a device: a key and a number."""
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake, closest

    key, given, text = word.partition("=")
    known = _OPTIONS[device]
    if key not in known:
        near = closest(key, known)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
        raise SpecError([Mistake("--device", key, f"is nothing that {device} takes", hint)])
    unit = _UNITS.get(text[-1:], 1)
    try:
        value = int(text[:-1] if unit > 1 else text, 0) * unit
    except ValueError:
        value = -1
    if not given or not 0 <= value < 1 << 64:
        hint = "64M and 0x1000 are"
        raise SpecError([Mistake(f"--device {key}", text, "is no number", hint)])
    return key, value


def _obey(server: Server) -> None:
    """End well on SIGTERM and SIGINT, log the counters on SIGUSR1."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: server.stop())
    signal.signal(signal.SIGUSR1, lambda _number, _frame: server.tell())


def _log(form: str) -> None:
    import logging

    from vfio_migration.runtime.journal import JsonLines, Text

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
