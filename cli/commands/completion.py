"""`vfio-migration completion`: a script that teaches a shell to complete the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_HELP = """\
Print the completion script of a shell.

examples:
  vfio-migration completion bash > ~/.local/share/bash-completion/completions/vfio-migration
  vfio-migration completion zsh > ~/.zfunc/_vfio-migration
"""

_SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command to the parser.

    Args:
        commands: The subparsers of the whole.
        whole: Makes the parser of the whole command line, which is completed.
    """
    parser = commands.add_parser(
        "completion", help="print a shell completion script", description=_HELP
    )
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help="bash, zsh or tcsh")
    parser.set_defaults(run=run, whole=whole)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from vfio_migration.cli.output import YES
    from vfio_migration.model import load

    whole = arguments.whole()
    states = " ".join(row.name for row in load().states)
    for command in _subparsers(whole):
        for action in command._actions:
            if action.metavar in ("FROM", "TO"):
                action.complete = {  # type: ignore[attr-defined]  # read by shtab
                    "bash": "_vfio_migration_states",
                    "zsh": f"({states})",
                    "tcsh": f"({states})",
                }
            elif action.metavar in ("FILE", "SPEC"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    words = f"_vfio_migration_states() {{ compgen -W '{states}' -- \"$1\"; }}"
    preamble = words if arguments.shell == "bash" else ""
    print(shtab.complete(whole, shell=arguments.shell, preamble=preamble))
    return YES


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        sub
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for sub in action.choices.values()
    ]
