"""Options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from vfio_migration.cli.files import refuse

if TYPE_CHECKING:
    from vfio_migration.diagrams import Format
    from vfio_migration.model import Machine, Spec
    from vfio_migration.model.plan import Plans
    from vfio_migration.model.sources.read import Reading
    from vfio_migration.model.wire import Wire

_PICTURE_ENDINGS: Final[dict[Format, str]] = {
    "svg": "svg",
    "png": "png",
    "pdf": "pdf",
    "dot": "dot",
    "mmd": "mmd",
    "json": "json",
    "text": "txt",
    "ascii": "txt",
}
PICTURE_FORMATS: Final[tuple[Format, ...]] = tuple(_PICTURE_ENDINGS)
Name = TypeVar("Name", bound=str)
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_RATE = re.compile(r"(\d+(?:\.\d+)?)([kKMG]?)(?:i?B)?(?:/s)?", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKMGT]?)(?:i?B)?", re.ASCII)
_WIDTH = re.compile(r"(\d+(?:\.\d+)?)(pt|px|mm|cm|in)", re.ASCII)
_POINTS = {"pt": 1.0, "px": 0.75, "mm": 72 / 25.4, "cm": 720 / 25.4, "in": 72.0}
_UNITS = {"": 1, "k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Output(str):
    """A path that a command writes to: what is given to an option of this type.

    `publish` knows by it what to write elsewhere.
    """

    __slots__ = ()


def _own_file(parser: argparse.ArgumentParser, name: str, what: str, instead: str) -> None:
    parser.add_argument(name, metavar="FILE", help=f"{what} of your own instead of {instead}")


def spec_option(parser: argparse.ArgumentParser) -> None:
    """Add `--spec FILE`."""
    _own_file(parser, "--spec", "a table", "the VFIO v2 table that comes with the package")


def plans_option(parser: argparse.ArgumentParser) -> None:
    """Add `--plans FILE`."""
    _own_file(parser, "--plans", "plans", "those that come with the package")


def wire_option(parser: argparse.ArgumentParser) -> None:
    """Add `--wire FILE`."""
    _own_file(parser, "--wire", "a table of the connection", "the one that comes with the package")


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


def names_option(parser: argparse.ArgumentParser, name: str, metavar: str, what: str) -> None:
    """Add an option that takes several names, and may be given several times."""
    parser.add_argument(name, metavar=metavar, nargs="+", action="extend", help=what)


def solving_options(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Add `--jobs N` and `--timeout SECONDS`, the time for one query."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=processes,
        help="how many processes work at once; by default one for each processor",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        help=f"give up on a single query after this long{default}",
    )


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def format_option(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add `--format`, of which the first is the default, and `--json`."""
    parser.add_argument(
        "--format",
        choices=formats,
        help="text (the default), mail (72 columns, the summary first), md, json, or sarif",
    )
    json_option(parser)


def choose_format(arguments: argparse.Namespace) -> None:
    """Make one of `--format` and `--json`: an answer in JSON is one object, and so is a complaint.

    Raises:
        SpecError: They contradict each other.
    """
    if arguments.json and arguments.format not in (None, "json"):
        hint = "leave out one of them"
        refuse("--format", arguments.format, "is another format than --json", hint)
    arguments.json = arguments.json or arguments.format == "json"
    arguments.format = "json" if arguments.json else arguments.format or "text"


def read_spec(path: str | None) -> Spec:
    """Load the table a command is about: a file, a form of `history.toml`, or a source."""
    return read_table(path)[0]


def read_table(path: str | None) -> tuple[Spec, Reading | None]:
    """Load a table, and what else its source reports if it is one that `import` reads."""
    from vfio_migration.model import SpecError, load
    from vfio_migration.model.history import named
    from vfio_migration.model.sources.files import is_source

    if path is None:
        return load(), None
    form = None if os.sep in path else named(path)
    if form is not None:
        return form, None
    if is_source(path):
        from vfio_migration.model.sources.read import read

        reading = read([path], load())
        return reading.spec, reading
    try:
        return load(path), None
    except SpecError:
        _refuse_another_kind(path)
        raise


def read_wire(name: str) -> Wire | None:
    """Load a table of the connection: `wire`, `wire-without-OPTION` or a file; None for others.

    Raises:
        SpecError: It is one, and wrong; or the built-in one has no such option.
    """
    from vfio_migration.model.wire_load import load_wire

    whole, _, option = name.partition("-without-")
    if whole == "wire" and os.sep not in name:
        wire = load_wire()
        return wire.without(wire.option(option).name) if option else wire
    # What is no file but a pipe can be read once, and is left to who takes tables of states.
    is_wire = Path(name).is_file() and _another_kind(name) == ("the connection", "--wire")
    return load_wire(name) if is_wire else None


def _refuse_another_kind(path: str) -> None:
    """Refuse a table of the connection or of plans, and a file that is only an edit of a table."""
    from vfio_migration.model.edited import edits

    if "base" in (keys := _keys(path)) and keys & {"remove", "add", "set"}:
        name = Path(path).name.removesuffix(".toml")
        known = name in {edit.name for edit in edits()}
        hint = f"it comes with the package: give its name, {name}, and not its file"
        if not known:
            hint = "write the table with `vfio-migration table`, and change that"
        refuse("SPEC", path, "states how a table differs from another, and is none itself", hint)
    kind = _another_kind(path)
    if kind is not None:
        problem = f"is a table of {kind[0]}, and not one of states and arcs"
        refuse("SPEC", path, problem, f"give it to a command that takes {kind[1]} FILE")


def _another_kind(path: str) -> tuple[str, str] | None:
    """Return what a file is a table of if not of states, and which option takes it."""
    from vfio_migration.model.plan import Plans
    from vfio_migration.model.raw_rows import sections_of
    from vfio_migration.model.spec import Spec
    from vfio_migration.model.wire import Wire

    keys, own = _keys(path), set(sections_of(Spec))
    for kind, called, option in ((Wire, "the connection", "--wire"), (Plans, "plans", "--plans")):
        theirs = set(sections_of(kind)) - own
        if len(keys & theirs) > len(keys & own):
            return called, option
    return None


def _keys(path: str) -> set[str]:
    """Return the keys at the top of a file; none of one that is not read."""
    from vfio_migration.model import SpecError
    from vfio_migration.model.load import parse, read_bytes

    try:
        return set(parse(read_bytes(path)))
    except SpecError:
        return set()  # what it is, or is not, is stated where it is read


def read_plans(spec: Spec, path: str | None) -> Plans | None:
    """Load the plans for a table; None stands for those that come with the package."""
    from vfio_migration.model.plan import load_plans

    return None if path is None else load_plans(spec, path)


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


def present_state(machine: Machine, given: str | int) -> str:
    """Return the state a device is in; raise `SpecError` if such a device is never there."""
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake

    spec = machine.spec
    if isinstance(given, int):
        names = [row.name for row in spec.states if row.value == given]
        if not names:
            known = ", ".join(f"{row.value} {row.name}" for row in spec.states)
            raise SpecError(
                [Mistake("FROM", given, "is the value of no state", f"there are {known}")]
            )
        given = names[0]
    state = spec.state(given)
    if not machine.supports(state.name):
        requires = ",".join(state.requires)
        problem = f"is not a state of a device with only {','.join(machine.names)}"
        raise SpecError([Mistake("FROM", state.name, problem, f"it requires {requires}")])
    return state.name


def picture_format(output: str | None, given: Format | None) -> Format:
    """Return the format that was asked for, or that the ending of a file says."""
    return file_format(output, given, _PICTURE_ENDINGS, "dot")


def file_format(
    output: str | None, given: Name | None, endings: Mapping[Name, str], default: Name
) -> Name:
    """Return the format that was asked for, or that the ending of a file says.

    Args:
        output: The file; None for the standard output.
        given: What `--format` asks for, or None.
        endings: The formats, each with the ending of its files.
        default: The format where there is neither.

    Raises:
        SpecError: The two contradict each other, or the ending is that of no format.
    """
    if output is None:
        return given or default
    suffix = Path(output).suffix.lstrip(".").lower()
    found = [name for name, ending in endings.items() if ending == suffix]
    if given is not None:
        # A PNG that is called x.svg opens nowhere; an ending that states nothing is another matter.
        if suffix in endings and given not in found:
            hint = f"leave it out, or end the name in .{endings[given]}"
            refuse("--format", given, f"contradicts the name of the file, {output}", hint)
        return given
    if not found:
        known = " ".join(f".{ending}" for ending in dict.fromkeys(endings.values()))
        refuse(
            "--output",
            output,
            "has an ending that no format has",
            f"end it in one of {known}, or give --format",
        )
    return found[0]


def seconds(text: str) -> float:
    """Read a number of seconds; argparse reports what is none."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def duration(text: str) -> float:
    """Read a time, as 300ms or 1.5s; return it in seconds."""
    found = _TIME.fullmatch(text)
    value = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a time; 300ms and 1.5s are")
    return value


def page_width(text: str) -> float:
    """Read the width of a page, as 455pt, 736px or 160mm; return it in whole points."""
    from vfio_migration.diagrams.drawing.page import WIDEST

    found = _WIDTH.fullmatch(text)
    if found is None:
        units = ", ".join(_POINTS)
        raise argparse.ArgumentTypeError(
            f"{text} is not a width, which is a number and a unit, as 455pt; the units are {units}"
        )
    # Graphviz draws on whole points, and a picture may not be wider than was asked for.
    points = math.floor(float(found[1]) * _POINTS[found[2]] + 1e-6)
    if not 1 <= points <= WIDEST:
        raise argparse.ArgumentTypeError(
            f"{text} is not the width of a page, which has between 1pt and {WIDEST:g}pt"
        )
    return points


def byte_rate(text: str) -> int:
    """Read a number of bytes per second, as 500M or 1.5G/s."""
    found = _RATE.fullmatch(text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= value < 1 << 60:
        raise argparse.ArgumentTypeError(f"{text} is not a rate; 500M and 200000 are")
    return int(value)


def byte_size(text: str) -> int:
    """Read a number of bytes, as 64G or 200000."""
    found = _SIZE.fullmatch(text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= value < 1 << 60:
        raise argparse.ArgumentTypeError(f"{text} is not a size; 64G and 200000 are")
    return int(value)


def processes(text: str) -> int:
    """Read a number of processes; argparse reports what is none."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes")
    return int(text)


def ignores(number: int) -> bool:
    """Return whether a signal was ignored when this process began, as `nohup` and `&` have it.

    It then stays ignored, as the parent process has asked for.
    """
    return signal.getsignal(number) is signal.SIG_IGN
