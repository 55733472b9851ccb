"""`vfio-migration completion`: a script that teaches a shell to complete the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

_HELP = """\
Print the completion script of a shell: commands, options, states, capability sets, obligations,
kinds of edits, tables that come with the package, and files. The names are those of this version;
make the script anew after an upgrade. Obligations are completed if the extra "verify" is installed.

examples:
  vfio-migration completion bash > ~/.local/share/bash-completion/completions/vfio-migration
  vfio-migration completion zsh > ~/.zfunc/_vfio-migration
  vfio-migration completion fish > ~/.config/fish/completions/vfio-migration.fish
"""

_SHELLS = ("bash", "zsh", "fish", "tcsh")
_NAME: Final = "_vfio_migration"
"""What the functions of a script are called first."""


def add(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command to the parser.

    Args:
        commands: The subparsers of the whole.
        whole: Makes the parser of the whole command line, which is completed.
    """
    parser = commands.add_parser(
        "completion", help="print a shell completion script", description=_HELP
    )
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help="bash, zsh, fish or tcsh")
    parser.set_defaults(run=run, whole=whole)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from vfio_migration.cli.output import YES

    whole = arguments.whole()
    words = {kind: " ".join(names()) for kind, names in _WORDS.items()}
    for action in _actions(whole):
        # Of several placeholders, as of a route, all are of one kind.
        metavar = action.metavar[0] if isinstance(action.metavar, tuple) else action.metavar or ""
        kind = _KINDS.get(metavar)
        if kind is not None:
            action.complete = _complete(kind, words[kind])  # type: ignore[attr-defined]
        elif metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
    preamble = {"bash": _bash, "zsh": _zsh}.get(arguments.shell, lambda _words: "")(words)
    print(shtab.complete(whole, shell=arguments.shell, preamble=preamble))
    return YES


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield every argument of a parser and of its commands, which are no arguments themselves."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


# --- words ---


def _states() -> Iterator[str]:
    from vfio_migration.model import load

    return (row.name for row in load().states)


def _capability_sets() -> Iterator[str]:
    from vfio_migration.model import load

    spec = load()
    return (",".join(spec.names(flags)) for flags in spec.capability_sets())


def _tables() -> Iterator[str]:
    from vfio_migration.model.edited import edits
    from vfio_migration.model.history import forms

    yield from (form.name for form in forms())
    yield from (edit.name for edit in edits())


def _obligations() -> Iterable[str]:
    try:
        from vfio_migration.verifier.obligations.catalogue import OBLIGATIONS
    except ImportError:  # without the extra nothing takes them
        return ()
    names = [obligation.id for obligation in OBLIGATIONS]
    return dict.fromkeys([*(name.rstrip("0123456789") for name in names), *names])


def _definitions() -> Iterable[str]:
    try:
        from vfio_migration.verifier.comparison.definitions import DEFINITIONS
    except ImportError:
        return ()
    return [definition.id for definition in DEFINITIONS]


def _edits() -> Iterable[str]:
    try:
        from vfio_migration.verifier.mutation.edits import KINDS
        from vfio_migration.verifier.mutation.wire_edits import WIRE_KINDS
    except ImportError:
        return ()
    return [*(kind.name for kind in KINDS), *WIRE_KINDS]


_WORDS: Final[Mapping[str, Callable[[], Iterable[str]]]] = {
    "states": _states,
    "capability_sets": _capability_sets,
    "tables": _tables,
    "obligations": _obligations,
    "definitions": _definitions,
    "edits": _edits,
}
_KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("FROM", "TO"), "states"),
    "NAMES": "capability_sets",
    **dict.fromkeys(("SPEC", "OLD", "NEW"), "tables"),
    "ID": "obligations",
    "DEFINITION": "definitions",
    "KIND": "edits",
}
"""Of what each placeholder of the help is one."""
_FILES: Final = frozenset(
    (
        *("FILE", "SOURCE", "DIR", "FOLDER", "TRACE", "PATH", "MANIFEST"),
        *("SOCKET", "DST", "SRC DST", "SRC FILE"),
    )
)
_OR_FILES: Final = frozenset({"tables"})
"""Of which kinds a file can be in place of a name."""


# --- shells ---


def _complete(kind: str, words: str) -> dict[str, str]:
    """Return how each shell completes a kind of word, as shtab takes it."""
    files = kind in _OR_FILES
    return {
        "bash": f"{_NAME}_{kind}",
        "zsh": f"{_NAME}_{kind}" if files else f"({words})",
        "fish": f"{words} (__fish_complete_path (commandline -ct))" if files else words,
        "tcsh": "f" if files else f"({words})",
    }


def _bash(words: Mapping[str, str]) -> str:
    files = dict.fromkeys(_OR_FILES, ' compgen -f -- "$1";')
    return "\n".join(
        f"{_NAME}_{kind}() {{ compgen -W '{listed}' -- \"$1\";{files.get(kind, '')} }}"
        for kind, listed in words.items()
    )


def _zsh(words: Mapping[str, str]) -> str:
    return "\n".join(
        f"{_NAME}_{kind}() {{ compadd -- {words[kind]}; _files }}" for kind in sorted(_OR_FILES)
    )
