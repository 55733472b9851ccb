"""Options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfio_migration.model import Spec


def spec_option(parser: argparse.ArgumentParser) -> None:
    """Add `--spec FILE`."""
    parser.add_argument(
        "--spec",
        metavar="FILE",
        help="a table of your own instead of the VFIO v2 table that comes with the package",
    )


def spec_argument(parser: argparse.ArgumentParser) -> None:
    """Add the positional `SPEC`."""
    parser.add_argument(
        "spec",
        metavar="SPEC",
        nargs="?",
        help="a table of your own; by default the VFIO v2 table that comes with the package",
    )


def flags_option(parser: argparse.ArgumentParser) -> None:
    """Add `--flags NAMES`."""
    parser.add_argument(
        "--flags",
        metavar="NAMES",
        help="the capabilities of the device, as STOP_COPY,P2P,PRE_COPY or as a number (7); "
        "by default all that the first profile of the table knows",
    )


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def read_spec(path: str | None) -> Spec:
    """Load the table a command is about."""
    from vfio_migration.model import load

    return load(path)


def read_flags(flags: str | None) -> str | int | None:
    """Return `--flags` as `Spec.capability_set` takes it: names, a number, or None."""
    if flags is None:
        return None
    try:
        return int(flags, 0)
    except ValueError:
        return flags


def read_state(text: str) -> str | int:
    """Return a state as it was given: a name, or a value on the wire."""
    try:
        return int(text, 0)
    except ValueError:
        return text


def seconds(text: str) -> float:
    """Read a number of seconds; argparse reports what is none."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value


def processes(text: str) -> int:
    """Read a number of processes; argparse reports what is none."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"{text} is no number of processes")
    return int(text)


def ignores(number: int) -> bool:
    """Say whether a signal was ignored when this process was started, as `nohup` and `&` have it.

    It then stays ignored: whoever started the process has asked for it.
    """
    return signal.getsignal(number) is signal.SIG_IGN
