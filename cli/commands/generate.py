"""`vfio-migration generate`: models and code for other tools, from the same tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files

if TYPE_CHECKING:
    from vfio_migration.generators import Compiled

_HELP = """\
Generate what other tools and programs take in: the engine as source, a model for spin.
"""

_C = """\
Write the engine in C11, freestanding: one header and one source without any other symbol.

examples:
  vfio-migration generate c -o engine
  vfio-migration generate c -o engine --check
  vfio-migration generate c -o engine --prefix my_device --capabilities STOP_COPY,PRE_COPY
  vfio-migration generate c -o engine --plans --evidence engine/evidence
  vfio-migration generate c -o tables --like libvfio-user
"""

_RUST = """\
Write the engine as one Rust module: no_std, without unsafe, without a path to a panic.

examples:
  vfio-migration generate rust -o engine
  vfio-migration generate rust -o engine --module machine --evidence engine
"""

_PYTHON = """\
Write the engine as one Python module that imports nothing but the standard library.

examples:
  vfio-migration generate python -o engine
  vfio-migration generate python -o engine --module machine --evidence engine
"""

_PROMELA = """\
Write a group of devices that follows a plan as a model for the model checker spin.

Without --flags the group may be any mixture of capability sets that the plan is for.

examples:
  vfio-migration generate promela --devices 4 -o save.pml
  vfio-migration generate promela --plan one-by-one --devices 2 --flags 7
  vfio-migration generate promela --plan recover --failing
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "generate", help="the engine in C, Rust or Python; a model for spin", description=_HELP
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_c(kinds)
    _add_module(kinds, "rust", "the engine as one Rust module", _RUST)
    _add_module(kinds, "python", "the engine as one Python module", _PYTHON)
    promela = kinds.add_parser(
        "promela", help="a group under a plan, for spin", description=_PROMELA
    )
    promela.add_argument(
        "--plan", metavar="NAME", help="the plan; by default the first that is marked sound"
    )
    promela.add_argument(
        "--devices", metavar="N", type=int, default=3, help="how many devices (default: 3)"
    )
    promela.add_argument(
        "--failing", action="store_true", help="let any arc that is taken fail for good"
    )
    options.plans_option(promela)
    options.flags_option(promela)
    options.spec_option(promela)
    promela.add_argument("-o", "--output", metavar="FILE", help="where to write it")
    promela.set_defaults(run=run_promela)


def _add_c(kinds: Any) -> None:
    parser = kinds.add_parser("c", help="the engine in C", description=_C)
    parser.add_argument(
        "--prefix",
        metavar="NAME",
        help="what names begin with; by default the name of the table",
    )
    parser.add_argument(
        "--like",
        choices=("linux", "libvfio-user"),
        help="not the engine, but what replaces theirs: the function of Linux, or the two "
        "tables of libvfio-user",
    )
    parser.add_argument(
        "--plans",
        metavar="FILE",
        nargs="?",
        const="",
        help="write down the plans for groups too: those of the package, or of a file",
    )
    _add_shared(parser)
    parser.set_defaults(run=run_c)


def _add_module(kinds: Any, kind: str, help_: str, description: str) -> None:
    parser = kinds.add_parser(kind, help=help_, description=description)
    parser.add_argument(
        "--module", metavar="NAME", help="its name; by default what the table is called"
    )
    _add_shared(parser)
    parser.set_defaults(run=run_module)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--capabilities",
        metavar="NAMES",
        help="what the device may ever offer, as STOP_COPY,P2P or as a number; by default all that "
        "the table has",
    )
    parser.add_argument(
        "--evidence",
        metavar="FOLDER",
        help="write there a program that asks the engine everything, and what it is to answer",
    )
    options.spec_option(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="where to write it")
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; 1 if what is there is not what the table specifies",
    )


def run_c(arguments: argparse.Namespace) -> int:
    """Write the engine in C; 0 if it was written, or is there as it should be."""
    from vfio_migration import __version__
    from vfio_migration.generators import c_evidence, c_files, like_file
    from vfio_migration.generators.names import prefix_of
    from vfio_migration.model.plan import load_plans

    spec = options.read_spec(arguments.spec)
    capabilities = options.read_flags(arguments.capabilities)
    command = _command("c", arguments, ("prefix", "like", "capabilities", "plans"))
    if arguments.like is not None:
        for option in ("prefix", "plans", "evidence"):
            if getattr(arguments, option) is not None:
                files.refuse(
                    "--like", arguments.like, f"goes without --{option}", f"leave --{option} out"
                )
        made = like_file(spec, arguments.like, capabilities, command)
        return _finish(arguments, made, {})
    compiled = _compiled(arguments)
    prefix = prefix_of(arguments.prefix, spec.name)
    plans = None
    if arguments.plans is not None:
        plans = load_plans(spec, arguments.plans or None)
    made = c_files(compiled, prefix, command, __version__, plans)
    evidence = {}
    if arguments.evidence is not None:
        evidence = c_evidence(compiled, prefix, command)
    return _finish(arguments, made, _with_answers(compiled, evidence))


def run_module(arguments: argparse.Namespace) -> int:
    """Write the engine in Rust or Python; 0 if it was written, or is there as it should be."""
    from vfio_migration import __version__
    from vfio_migration import generators as made_by
    from vfio_migration.generators.names import module_of

    compiled = _compiled(arguments)
    module = module_of(arguments.module, compiled.spec.name)
    command = _command(arguments.kind, arguments, ("module", "capabilities"))
    evidence = {}
    if arguments.kind == "rust":
        made = {f"{module}.rs": made_by.rust_file(compiled, module, command, __version__)}
        if arguments.evidence is not None:
            evidence = made_by.rust_evidence(compiled, module, command)
    else:
        made = {f"{module}.py": made_by.python_file(compiled, command, __version__)}
        if arguments.evidence is not None:
            evidence = made_by.python_evidence(compiled, module, command)
    return _finish(arguments, made, _with_answers(compiled, evidence))


def _compiled(arguments: argparse.Namespace) -> Compiled:
    from vfio_migration.generators import compile_table

    spec = options.read_spec(arguments.spec)
    return compile_table(spec, options.read_flags(arguments.capabilities))


def _with_answers(compiled: Compiled, evidence: dict[str, str]) -> dict[str, str]:
    from vfio_migration.generators import answers
    from vfio_migration.generators.answers import ANSWERS_FILE

    return evidence | {ANSWERS_FILE: answers(compiled)} if evidence else {}


def _command(kind: str, arguments: argparse.Namespace, given: tuple[str, ...]) -> str:
    """Return the command line, as far as what is generated depends on it and not on a place."""
    words = [f"vfio-migration generate {kind}"]
    for option in given:
        value = getattr(arguments, option)
        if value is not None:
            words.append(f"--{option}" if option == "plans" else f"--{option} {value}")
    return " ".join(words)


def _finish(
    arguments: argparse.Namespace, made: Mapping[str, str], evidence: Mapping[str, str]
) -> int:
    """Write the files, or compare them with those that are there."""
    from vfio_migration.cli.output import NO, YES, one_line

    places = [("--output", arguments.output, made), ("--evidence", arguments.evidence, evidence)]
    wanted = {
        (option, Path(folder) / name): text.encode()
        for option, folder, texts in places
        for name, text in texts.items()
    }
    if arguments.check:
        stale = [path for (_, path), data in wanted.items() if not _holds(path, data)]
        for path in stale:
            print(f"{one_line(str(path))}: is not what the table specifies; generate it anew")
        return NO if stale else YES
    for option, folder, texts in places:
        if texts:
            _make_folder(option, folder)
    for (option, path), data in wanted.items():
        files.write_whole(option, path, data)
    return YES


def _holds(path: Path, data: bytes) -> bool:
    """Return whether a file has just this in it."""
    try:
        with path.open("rb") as file:
            return file.read(len(data) + 1) == data
    except (OSError, ValueError):
        return False


def _make_folder(option: str, folder: str) -> None:
    from vfio_migration.model.errors import why

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        files.refuse(option, folder, f"cannot be made: {why(error)}")


def run_promela(arguments: argparse.Namespace) -> int:
    """Write the model; 0 if it was written."""
    from vfio_migration.cli.output import YES
    from vfio_migration.model.plan import load_plans
    from vfio_migration.verifier import Encoding
    from vfio_migration.verifier.report.promela import promela
    from vfio_migration.verifier.systems.plan import Discipline

    files.keep_apart(
        {"--output": arguments.output}, {"--spec": arguments.spec, "--plans": arguments.plans}
    )
    spec = options.read_spec(arguments.spec)
    plans = load_plans(spec, arguments.plans)
    encoding = Encoding(spec, plans=plans).widest()
    named = arguments.plan or next((row.name for row in plans.plans if row.sound), None)
    plan = plans.plan(named) if named is not None else plans.plans[0]
    words = None
    command_line = ["vfio-migration generate promela", f"--plan {plan.name}"]
    command_line.append(f"--devices {arguments.devices}")
    if arguments.flags is not None:
        word = int(spec.capability_set(options.read_flags(arguments.flags)).value)
        words = [word]
        command_line.append(f"--flags {encoding.set_name(word)}")
    if arguments.failing:
        command_line.append("--failing")
    discipline = Discipline(encoding, plan, failing=arguments.failing, words=words)
    _write(promela(discipline, arguments.devices, " ".join(command_line)), arguments.output)
    return YES


def _write(text: str, output: str | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        files.write_whole("--output", Path(output), text.encode())
