"""Commands that a message advises: safe to copy into a shell, whatever a file is called.

A name with a blank or a `;` is quoted for the shell. That does not keep a command from taking a
name that begins with `-` for an option, so such a name is given as `./-name`, which is the same
file.
"""

from __future__ import annotations

import os
import shlex


def operand(path: str | os.PathLike[str]) -> str:
    """Return a path as a word that no command takes for an option."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") else text


def command(*words: str) -> str:
    """Return a command line of ours; paths among its words are to be given as `operand` has it."""
    return shlex.join(["vfio-migration", *words])
