"""`vfio-migration check-trace`: hold a recorded run against the specification."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from vfio_migration.cli import options
from vfio_migration.cli.files import LARGEST
from vfio_migration.model.errors import why

if TYPE_CHECKING:
    from vfio_migration.model import CapabilitySet, Spec, SpecError
    from vfio_migration.model.followed import Violation

_HELP = """\
Hold a recorded run against the specification, and name the first step that it does not allow.
Three kinds of file are told apart by what is in them: a recording (--record), the log of a server
(serve --log-format json), and a trace (replay, verify --traces). docs/recording.md says what can be
seen in each of them.

examples:
  vfio-migration check-trace run.jsonl
  vfio-migration check-trace server.log --flags STOP_COPY,P2P
  vfio-migration check-trace - --json          # from standard input

exit status: 0 every step is allowed, 1 one is not, 2 wrong input: no such file, or a damaged line
"""

_LONGEST = 1 << 20
"""How many bytes a line may have. `/dev/zero` is one line without an end."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check-trace", help="hold a recorded run against the specification", description=_HELP
    )
    parser.add_argument(
        "file", metavar="FILE", help="a recording, a server's log or a trace; - reads it in"
    )
    options.spec_option(parser)
    parser.add_argument(
        "--flags",
        metavar="NAMES",
        help="the capabilities of the devices, as STOP_COPY,P2P,PRE_COPY or as a number (7); "
        "by default what the run says, or any that fits",
    )
    options.json_option(parser)
    parser.set_defaults(run=run)


@dataclass(slots=True)
class Result:
    """What came of it.

    Attributes:
        kind: What kind of file it is.
        devices: The devices it tells of.
        lines: How many lines, or steps, were read.
        held: How many of which kind were held against the tables.
        unrestricted: How many of which kind no table restricts.
        cut: The last line is not whole, and was left out.
        place: Of the violation, its line or step.
        violation: The first step that is not allowed, or None.
    """

    kind: str
    devices: tuple[str, ...] = ()
    lines: int = 0
    held: Counter[str] = field(default_factory=Counter)
    unrestricted: Counter[str] = field(default_factory=Counter)
    cut: bool = False
    place: int = 0
    violation: Violation | None = None


def run(arguments: argparse.Namespace) -> int:
    """Check; 0 if every step is allowed, 1 if one is not."""
    from vfio_migration.cli.main import NO, YES, emit, encodable, one_line

    spec = options.read_spec(arguments.spec)
    flags = options.read_flags(arguments.flags)
    capabilities = None if flags is None else spec.capability_set(flags)
    with _open(arguments.file) as file:
        result = check(file, spec, capabilities)
    if arguments.json:
        emit(_data(result, spec))
    else:
        for line in _told(arguments.file, result, spec):
            print(encodable(one_line(line)))
    return YES if result.violation is None else NO


def _open(path: str) -> AbstractContextManager[BinaryIO]:
    from pathlib import Path

    if path == "-":
        if sys.stdin is None:  # whoever started us closed it
            raise _wrong("FILE", path, "cannot be read: standard input is closed")
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        # A ValueError is what a path with a NUL in it gives.
        problem = f"cannot be read: {why(error)}"
        raise _wrong("FILE", path, problem) from None


# --- which kind of file it is ---


def check(file: BinaryIO, spec: Spec, capabilities: CapabilitySet | None) -> Result:
    """Tell what kind of file it is, and hold it against the specification.

    Raises:
        SpecError: It is none of the three, or a line is damaged.
    """
    try:
        first = _line(file, 1)
        head = _object(first)
        if head is not None and head.get("kind") == "recording":
            return _recording(head, file, spec, capabilities)
        if head is not None and "event" in head and "level" in head:
            return _log(first, file, spec, capabilities)
        text = first + _rest(first, head, file)
    except OSError as error:
        raise _wrong("FILE", None, f"cannot be read: {error.strerror or error}") from None
    if not text.strip():
        raise _wrong("FILE", None, "is empty")
    whole = _object(text)
    if whole is None or "steps" not in whole:
        raise _no_run()
    return _trace(text, spec, capabilities)


def _rest(first: bytes, head: dict[str, Any] | None, file: BinaryIO) -> bytes:
    """Return what follows the first line of what may be a trace; whatever else may have no end."""
    # A trace is one object: it begins with a brace, and what it begins in the first line goes on.
    begins = first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if begins not in (b"", b"{") or (head is not None and "steps" not in head):
        raise _no_run()
    rest = file.read(LARGEST + 1 - len(first))
    if len(first) + len(rest) > LARGEST:
        raise _wrong("FILE", None, f"is longer than {LARGEST} bytes, the most a trace may have")
    return rest


def _no_run() -> SpecError:
    hint = "give a recording (migrate --record), a log (serve --log-format json) or a trace"
    return _wrong("line 1", None, "is not how a run begins", hint)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


# --- each kind ---


def _recording(
    head: dict[str, Any], file: BinaryIO, spec: Spec, capabilities: CapabilitySet | None
) -> Result:
    from vfio_migration.model.conformance import Conformance
    from vfio_migration.model.observation import FORMAT, Observation

    version = head.get("format")
    if type(version) is not int or version != FORMAT:
        hint = f"this version reads {FORMAT}"
        raise _wrong("line 1: format", version, "is no format of recordings that is known", hint)
    if head.get("spec") != spec.name:
        hint = f"the table read is {spec.name}; name the right one with --spec"
        raise _wrong("line 1: spec", head.get("spec"), "is the name of another table", hint)
    conformance = Conformance(spec, capabilities=capabilities)
    result = Result("recording", lines=1)
    _each(file, result, lambda data: conformance.observe(Observation.of(data, spec)))
    result.held, result.unrestricted = conformance.held, conformance.unrestricted
    if conformance.notes:
        result.unrestricted["notes"] = conformance.notes
    result.devices = conformance.devices
    return result


def _log(first: bytes, file: BinaryIO, spec: Spec, capabilities: CapabilitySet | None) -> Result:
    from vfio_migration.model.conformance_log import LogConformance

    conformance = LogConformance(spec, capabilities=capabilities)
    result = Result("log")
    _each(file, result, conformance.observe, first)
    result.held, result.unrestricted = conformance.held, conformance.unrestricted
    result.devices = (conformance.device,)
    return result


def _trace(text: bytes, spec: Spec, capabilities: CapabilitySet | None) -> Result:
    from dataclasses import replace

    from vfio_migration.model import Trace
    from vfio_migration.model.conformance_trace import check_trace

    trace = Trace.from_json(text)
    if capabilities is not None:
        trace = replace(trace, capabilities=(spec.names(capabilities),) * len(trace.start))
    devices = tuple(f"device {number}" for number in range(len(trace.start)))
    found = check_trace(trace, spec)
    steps = trace.steps if found is None else trace.steps[: found[0]]
    result = Result("trace", devices, len(steps))
    for step in steps:
        result.held[step.kind] += 1
    if found is not None:
        result.place, result.violation = found
    return result


def _each(
    file: BinaryIO,
    result: Result,
    observe: Callable[[dict[str, Any]], Violation | None],
    first: bytes | None = None,
) -> None:
    """Hold line after line, up to the first that is not allowed."""
    from vfio_migration.model import SpecError

    for line in _lines(file, first):
        result.lines += 1
        data = _object(line)
        if data is None:
            if not line.endswith(b"\n"):
                # Whoever wrote it was killed, or had no room for it.
                result.lines -= 1
                result.cut = True
                return
            raise _wrong(f"line {result.lines}", None, "is damaged: it is no JSON object")
        try:
            result.violation = observe(data)
        except SpecError as error:
            raise _at(result.lines, error) from None
        if result.violation is not None:
            result.place = result.lines
            return


def _lines(file: BinaryIO, first: bytes | None) -> Iterator[bytes]:
    number = 1
    if first is not None:
        yield first
    while line := _line(file, number := number + 1):
        yield line


def _line(file: BinaryIO, number: int) -> bytes:
    line = file.readline(_LONGEST + 1)
    if len(line) > _LONGEST:
        raise _wrong(f"line {number}", None, f"is longer than {_LONGEST} bytes")
    return line


def _at(line: int, error: SpecError) -> SpecError:
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake

    return SpecError(
        [
            Mistake(f"line {line}: {one.place}", one.value, one.problem, one.hint)
            for one in error.mistakes
        ]
    )


def _wrong(place: str, value: object, problem: str, hint: str | None = None) -> SpecError:
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake

    return SpecError([Mistake(place, value, problem, hint)])


# --- what is said ---

_KINDS = {"recording": "a recording", "log": "a server's log", "trace": "a trace"}


def _data(result: Result, spec: Spec) -> dict[str, Any]:
    violation = result.violation
    return {
        "holds": violation is None,
        "kind": result.kind,
        "spec": spec.name,
        "devices": list(result.devices),
        "lines": result.lines,
        "cut": result.cut,
        "held": dict(result.held),
        "unrestricted": dict(result.unrestricted),
        "violation": None
        if violation is None
        else {"step" if result.kind == "trace" else "line": result.place} | asdict(violation),
    }


def _told(file: str, result: Result, spec: Spec) -> Iterator[str]:
    name = "standard input" if file == "-" else file
    unit = "step" if result.kind == "trace" else "line"
    lines = f"{result.lines} {unit}{'' if result.lines == 1 else 's'}"
    devices = ", ".join(result.devices) or "no device"
    yield f"{name}: {_KINDS[result.kind]} of {devices}, {lines}"
    if result.cut:
        yield "  the last line is cut off, and left out"
    yield f"  held against {spec.name}: {_counted(result.held)}"
    if result.unrestricted:
        yield f"  not restricted by it: {_counted(result.unrestricted)}"
    violation = result.violation
    if violation is None:
        yield "every step is allowed"
        return
    yield f"{unit} {result.place} is not allowed"
    yield f"  {violation.device}: {violation.step}"
    yield f"  why: {violation.reason}"
    if violation.situations:
        yield f"  before: {' or '.join(violation.situations)}"
    if violation.allowed:
        yield f"  allowed instead: {' or '.join(violation.allowed)}"
    if violation.row:
        yield f"  row: {violation.row}"
    if violation.source:
        yield f"  source: {violation.source}"


def _counted(counts: Counter[str]) -> str:
    return "; ".join(f"{what} {count}" for what, count in counts.items()) or "nothing"
