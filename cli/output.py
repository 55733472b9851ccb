"""What commands print, and the exit status that goes with it."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Final

YES: Final = 0
NO: Final = 1
WRONG_INPUT: Final = 2
UNKNOWN: Final = 3
INTERRUPTED: Final = 130
"""The exit status: as the epilog of `vfio-migration --help` explains it."""
FULL: Final = (errno.EMFILE, errno.ENFILE)
"""No more files can be opened, by this process or by anybody."""


def with_advice(message: str) -> str:
    """Add the way out to a complaint that no more files can be opened."""
    import resource

    if os.strerror(errno.EMFILE) not in message or os.strerror(errno.ENFILE) in message:
        return message
    if "ulimit -n" in message:
        return message
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"{message}; raise the limit (ulimit -n), which is {limit}"


def print_error(message: str, who: str = "vfio-migration") -> None:
    """Print an error, if standard error can be written."""
    try:
        print(printable(f"{who}: error: {with_advice(message)}"), file=sys.stderr)
    except OSError:
        # The exit status still reports it. The flush of the interpreter at exit is to succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def print_json(data: object) -> None:
    """Print one JSON object, in ASCII if it has what the standard output cannot encode."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    print(text if encodable(text) == text else json.dumps(data, indent=2))


def printable(text: str) -> str:
    """Escape what is not text, for a name may come from anywhere; lines stay lines."""
    return encodable("\n".join(map(one_line, text.split("\n"))))


def one_line(text: str) -> str:
    """Escape what is not text, or would end the line."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def encodable(text: str) -> str:
    """Escape what the standard output cannot encode: a lone surrogate, at least."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
