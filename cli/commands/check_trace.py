"""`vfio-migration check-trace`: hold a recorded run against the specification."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from vfio_migration.cli import arguments as options
from vfio_migration.cli.files import MAX_TRACE_BYTES
from vfio_migration.model.errors import why

if TYPE_CHECKING:
    from vfio_migration.model import CapabilitySet, Spec, SpecError
    from vfio_migration.model.conformance.findings import Examination, Finding
    from vfio_migration.model.conformance.followed import Violation
    from vfio_migration.model.field_logs.table import Format

_HELP = """\
Hold a recorded run against the specification, and name every step that it does not allow. What
kind of file it is follows from what is in it: a recording (--record), a capture of the wire, the
log of a server (serve --log-format json), a trace (replay, verify --traces), or the log of another
program: QEMU's trace events or monitor, libvfio-user, SPDK, Linux's ftrace, strace. --format names
whose log it is where that does not follow.

What is found in a recording, a capture or another program's log has one of three grades:
  violation    the specification does not allow it, and the section that states it is named
  suspicious   it is allowed, and the sign of a known defect
  house rule   our own server would not do it; nobody else is held to that (--strict)
docs/recording.md lists every check with its grade, and states what can be seen in each kind of
file.

examples:
  vfio-migration check-trace run.jsonl
  vfio-migration check-trace server.log --flags STOP_COPY,P2P
  vfio-migration check-trace qemu.log
  vfio-migration check-trace - --format ftrace --json          # from standard input

exit status: 0 there is no violation (with --strict: and no house rule is broken), 1 there is one,
2 wrong input: no such file, or a damaged line, 3 unknown: nothing in another program's log states
what a device did
"""

FORMATS = ("qemu", "qmp", "libvfio-user", "spdk", "ftrace", "strace")
"""The logs of other programs, as `model/field_logs.toml` has them: reading it takes too long to
parse a command line with."""
_MAX_LINE_BYTES = 1 << 20
"""How many bytes a line may have. `/dev/zero` is one line without an end."""
_MAX_MESSAGE_BYTES = 4 << 20
"""How many one of a capture may have: it holds a message of 1 MiB in hexadecimal digits."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check-trace", help="hold a recorded run against the specification", description=_HELP
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a recording, a capture, a log or a trace; - for standard input",
    )
    options.spec_option(parser)
    parser.add_argument(
        "--flags",
        metavar="NAMES",
        help="the capabilities of the devices, as STOP_COPY,P2P,PRE_COPY or as a number (7); "
        "by default what the run shows, or any that fits",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="hold the devices to what our own server keeps to, too",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="whose log it is, where that does not follow from it"
    )
    options.json_option(parser)
    parser.set_defaults(run=run)


@dataclass(slots=True)
class Placed:
    """Something that was found, and where.

    Attributes:
        finding: What.
        place: Its line, or its step.
        times: How often the same was found.
        last: The last place.
    """

    finding: Finding
    place: int
    times: int = 1
    last: int = 0


@dataclass(slots=True)
class Result:
    """What came of it.

    Attributes:
        kind: What kind of file it is.
        log: What it is, if it is another program's log.
        devices: The devices it reports.
        lines: How many lines, or steps, were read.
        held: How many of which kind were held against the tables.
        unrestricted: How many of which kind no table restricts.
        cut: The last line is not whole, and was left out.
        unknown: Of another program's log, the first lines of which nothing can be made, by number.
        unknown_lines: How many those are.
        found: What was found, in the order in which it was.
        left_out: How many more of which grade were found than are kept.
    """

    kind: str
    log: str = ""
    devices: tuple[str, ...] = ()
    lines: int = 0
    held: Counter[str] = field(default_factory=Counter)
    unrestricted: Counter[str] = field(default_factory=Counter)
    cut: bool = False
    unknown: dict[int, str] = field(default_factory=dict)
    unknown_lines: int = 0
    found: dict[tuple[str, ...], Placed] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding, place: int) -> None:
        """Add something that was found; what is the same but for its place is kept once."""
        about = (finding.grade, finding.check, finding.device, finding.step, finding.reason)
        placed = self.found.get(about)
        if placed is not None:
            placed.times += 1
            placed.last = place
        elif len(self.found) < _FINDINGS:
            self.found[about] = Placed(finding, place, last=place)
        else:
            self.left_out[finding.grade] += 1

    def graded(self, grade: str) -> list[Placed]:
        """Return what was found of a grade."""
        return [one for one in self.found.values() if one.finding.grade == grade]

    def worst(self, *, strict: bool) -> Placed | None:
        """Return the first finding for which the run does not hold."""
        counts = ("violation", "house rule") if strict else ("violation",)
        return next((one for one in self.found.values() if one.finding.grade in counts), None)

    def passed_over(self, line: int, text: str) -> None:
        """Nothing can be made of a line."""
        self.unknown_lines += 1
        if len(self.unknown) < _SHOWN_LINES:
            self.unknown[line] = text[:_SHOWN_CHARS]

    @property
    def nothing_held(self) -> bool:
        """Whether it is another program's log that states nothing of what a device did."""
        return bool(self.log) and not self.held


_FINDINGS = 1000
"""How many different findings are kept."""
_SHOWN_LINES, _SHOWN_CHARS = 3, 100
"""How many lines are shown of which nothing can be made, and how much of each."""
_HEAD_BYTES, _HEAD_LINES = 4 << 20, 10_000
"""How much of a file is looked at to find out whose log it is, and how many lines of it."""


def run(arguments: argparse.Namespace) -> int:
    """Check; 0 if every step is allowed, 1 if one is not."""
    from vfio_migration.cli.output import NO, UNKNOWN, YES, encodable, one_line, print_json

    spec = options.read_spec(arguments.spec)
    flags = options.read_flags(arguments.flags)
    capabilities = None if flags is None else spec.capability_set(flags)
    name = _STDIN if arguments.file == "-" else arguments.file
    with _open(arguments.file) as file:
        result = check(file, spec, capabilities, name, arguments.format)
    if arguments.json:
        print_json(_data(result, spec, strict=arguments.strict))
    else:
        for line in _report_lines(name, result, spec, strict=arguments.strict):
            print(encodable(one_line(line)))
    if result.worst(strict=arguments.strict) is not None:
        return NO
    return UNKNOWN if result.nothing_held else YES


_STDIN = "standard input"


def _open(path: str) -> AbstractContextManager[BinaryIO]:
    from pathlib import Path

    if path == "-":
        if sys.stdin is None:  # the parent closed it
            raise _wrong(_FILE, path, "cannot be read: standard input is closed")
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        # A ValueError is what a path with a NUL in it gives.
        raise _wrong(_FILE, path, f"cannot be read: {why(error)}") from None


# --- which kind of file it is ---


def check(
    file: BinaryIO,
    spec: Spec,
    capabilities: CapabilitySet | None,
    name: str = "FILE",
    format_: str | None = None,
) -> Result:
    """Describe what kind of file it is, and hold it against the specification.

    Args:
        file: The file.
        spec: The table.
        capabilities: What the devices offer, if that is known.
        name: What the file is called in messages.
        format_: Whose log it is, if that is known.

    Raises:
        SpecError: It is none of these, a line is damaged, or there is no such format.
    """
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake, escaped

    try:
        return _checked(file, spec, capabilities, format_)
    except OSError as error:
        raise _wrong(_FILE, name, f"cannot be read: {why(error)}") from None
    except SpecError as error:
        shown = "".join(escaped(char, quotes=False) for char in name)  # whole, however long
        mistakes = [
            Mistake(
                shown if one.place == _FILE else f"{shown}: {one.place}",
                one.value,
                one.problem,
                one.hint,
            )
            for one in error.mistakes
        ]
        raise SpecError(mistakes, error.origin) from None


_FILE = "FILE"
"""The place of a mistake that is about the whole file."""


def _checked(
    file: BinaryIO, spec: Spec, capabilities: CapabilitySet | None, format_: str | None
) -> Result:
    from vfio_migration.model.field_logs.table import load_field_logs

    if format_ is not None:
        row = load_field_logs().by_name[format_]
        return _field_log(row, _lines(file, _line(file, 1), _MAX_LINE_BYTES), spec, capabilities)
    first = _line(file, 1)
    head = _object(first, 1)
    if head is not None and head.get("kind") == "recording":
        return _recording(head, file, spec, capabilities)
    if head is not None and "from" in head and ("message" in head or "what" in head):
        return _capture(first, file, spec, capabilities)
    if head is not None and "event" in head and "level" in head:
        return _log(first, file, spec, capabilities)
    begun, begins = first, first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if begins != b"{" or (head is not None and "steps" not in head):
        lines = _lines(file, first, _MAX_LINE_BYTES)
        start, size = [], 0
        for line in lines:
            start.append(line)
            size += len(line)
            if size >= _HEAD_BYTES or len(start) >= _HEAD_LINES:
                break
        found = load_field_logs().recognised([_text(line) for line in start])
        if found is not None:
            return _field_log(found, itertools.chain(start, lines), spec, capabilities)
        begun = b"".join(start)
        begins = begun.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    # A trace is one object: it begins with a brace, and what it begins in the first line goes on.
    if begins not in (b"", b"{") or (head is not None and "steps" not in head):
        raise _no_run()
    text = begun + _rest(begun, file)
    if not text.strip():
        raise _wrong(_FILE, None, "is empty")
    whole = _object(text)
    if whole is None or "steps" not in whole:
        raise _no_run()
    return _trace(text, spec, capabilities)


def _rest(begun: bytes, file: BinaryIO) -> bytes:
    """Return what follows the beginning of what may be a trace; whatever else may have no end."""
    rest = file.read(max(0, MAX_TRACE_BYTES + 1 - len(begun)))
    if len(begun) + len(rest) > MAX_TRACE_BYTES:
        raise _wrong(
            _FILE, None, f"is longer than {MAX_TRACE_BYTES} bytes, the most a trace may have"
        )
    return rest


def _no_run() -> SpecError:
    hint = (
        "give a recording (migrate --record), a capture of the wire, a log "
        "(serve --log-format json), a trace, or another program's log; --format names whose"
    )
    return _wrong("line 1", None, "is not how a run begins", hint)


def _object(text: bytes, line: int | None = None) -> dict[str, Any] | None:
    """Read an object; None if it is none.

    Args:
        text: Its text.
        line: Which line of the file the text is; None if it is a whole file.

    Raises:
        SpecError: It has the form of JSON and cannot be taken at its word.
    """
    from vfio_migration.model import json_text

    try:
        data = json_text.parse(text)
    except json_text.JsonError as error:
        if not error.is_json:
            return None
        if line is None:
            raise _wrong(error.place or _FILE, None, error.problem) from None
        column = error.place.partition(", ")[2]
        place = f"line {line}, {column}" if column else f"line {line}"
        raise _wrong(place, None, error.problem) from None
    return data if isinstance(data, dict) else None


# --- each kind ---


def _recording(
    head: dict[str, Any], file: BinaryIO, spec: Spec, capabilities: CapabilitySet | None
) -> Result:
    from vfio_migration.model.conformance.findings import Examination
    from vfio_migration.model.conformance.observation import FORMAT, Observation

    version = head.get("format")
    if type(version) is not int or version != FORMAT:
        hint = f"this version reads {FORMAT}"
        raise _wrong("line 1: format", version, "is not a format of recordings that is known", hint)
    if head.get("spec") != spec.name:
        hint = f"the table read is {spec.name}; name the right one with --spec"
        raise _wrong("line 1: spec", head.get("spec"), "is the name of another table", hint)
    examination = Examination(spec, capabilities=capabilities)
    result = Result("recording", lines=1)
    _each(file, result, lambda data: examination.observe(Observation.of(data, spec)))
    _count(result, examination)
    return result


def _capture(
    first: bytes, file: BinaryIO, spec: Spec, capabilities: CapabilitySet | None
) -> Result:
    from vfio_migration.model.conformance.findings import Examination
    from vfio_migration.model.conformance.observation import Observation
    from vfio_migration.runtime.client.capture import Capture

    examination, capture = Examination(spec, capabilities=capabilities), Capture(spec)
    result = Result("capture")

    def observe(data: dict[str, Any]) -> list[Finding]:
        lines = [Observation.of(line, spec) for line in capture.lines(data)]
        return [finding for line in lines for finding in examination.observe(line)]

    _each(file, result, observe, first, _MAX_MESSAGE_BYTES)
    _count(result, examination)
    return result


def _count(result: Result, examination: Examination) -> None:
    result.held, result.unrestricted = examination.held, examination.unrestricted
    result.devices = examination.devices


def _log(first: bytes, file: BinaryIO, spec: Spec, capabilities: CapabilitySet | None) -> Result:
    from vfio_migration.model.conformance.log import LogConformance

    conformance = LogConformance(spec, capabilities=capabilities)
    result = Result("log")
    _each(file, result, lambda data: _own(conformance.observe(data)), first)
    result.held, result.unrestricted = conformance.held, conformance.unrestricted
    result.devices = (conformance.device,)
    return result


def _field_log(
    format_: Format, lines: Iterable[bytes], spec: Spec, capabilities: CapabilitySet | None
) -> Result:
    from vfio_migration.model import SpecError
    from vfio_migration.model.conformance.findings import Examination
    from vfio_migration.model.conformance.observation import Observation
    from vfio_migration.model.field_logs.reader import Reader
    from vfio_migration.runtime.client.strace import Messages

    examination = Examination(spec, capabilities=capabilities, kind=format_.peer, house=False)
    reader, messages = Reader(format_.name, spec), Messages(spec)
    result = Result(format_.name, format_.log)
    for line in lines:
        if not line.endswith(b"\n"):
            result.cut = True  # a state may be half of the name of another
            break
        result.lines += 1
        text, seen, known = _text(line), None, True
        try:
            if format_.messages and (of_messages := messages.lines(text)) is not None:
                seen = [Observation.of(one, spec) for one in of_messages]
        except SpecError as error:
            raise _at(result.lines, error) from None
        if seen is None:
            seen, known = reader.read(text)
        if not known and text.strip():
            result.passed_over(result.lines, text)
        for one in seen:
            for finding in examination.observe(one):
                result.add(finding, result.lines)
    _count(result, examination)
    return result


def _text(line: bytes) -> str:
    """Return a line of another program's log; what is no UTF-8 in it is of no meaning to us."""
    return line.decode("utf-8", "replace").rstrip("\r\n\t ")


def _trace(text: bytes, spec: Spec, capabilities: CapabilitySet | None) -> Result:
    from dataclasses import replace

    from vfio_migration.model import Trace
    from vfio_migration.model.conformance.trace import check_trace

    trace = Trace.from_json(text)
    if capabilities is not None:
        trace = replace(trace, capabilities=(spec.names(capabilities),) * len(trace.start))
    devices = tuple(f"device {number}" for number in range(len(trace.start)))
    found = check_trace(trace, spec)
    steps = trace.steps if found is None else trace.steps[: found[0]]
    result = Result("trace", devices=devices, lines=len(steps))
    for step in steps:
        result.held[step.kind] += 1
    if found is not None:
        for finding in _own(found[1]):
            result.add(finding, found[0])
    return result


def _own(violation: Violation | None) -> list[Finding]:
    """Return what is wrong with a step of an engine of ours, which is held to everything."""
    from vfio_migration.model.conformance.findings import graded

    return [] if violation is None else [graded(violation, "violation")]


def _each(
    file: BinaryIO,
    result: Result,
    observe: Callable[[dict[str, Any]], list[Finding]],
    first: bytes | None = None,
    longest: int = _MAX_LINE_BYTES,
) -> None:
    """Hold line after line."""
    from vfio_migration.model import SpecError

    for line in _lines(file, first, longest):
        result.lines += 1
        data = _object(line, result.lines)
        if data is None:
            if not line.endswith(b"\n"):
                # Its writer was killed, or had no room for it.
                result.lines -= 1
                result.cut = True
                return
            raise _wrong(f"line {result.lines}", None, "is damaged: it is not a JSON object")
        try:
            found = observe(data)
        except SpecError as error:
            raise _at(result.lines, error) from None
        for finding in found:
            result.add(finding, result.lines)


def _lines(file: BinaryIO, first: bytes | None, longest: int) -> Iterator[bytes]:
    number = 1
    if first is not None:
        yield first
    while line := _line(file, number := number + 1, longest):
        yield line


def _line(file: BinaryIO, number: int, longest: int = _MAX_LINE_BYTES) -> bytes:
    line = file.readline(longest + 1)
    if len(line) > longest:
        raise _wrong(f"line {number}", None, f"is longer than {longest} bytes")
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


# --- what is stated ---

_KINDS = {
    "recording": "a recording",
    "capture": "a capture",
    "log": "a server's log",
    "trace": "a trace",
}


def _data(result: Result, spec: Spec, *, strict: bool) -> dict[str, Any]:
    worst = result.worst(strict=strict)
    return {
        "holds": None if worst is None and result.nothing_held else worst is None,
        "kind": result.kind,
        "spec": spec.name,
        "devices": list(result.devices),
        "lines": result.lines,
        "cut": result.cut,
        "held": dict(result.held),
        "unrestricted": dict(result.unrestricted),
        "unknown": {
            "lines": result.unknown_lines,
            "first": [{"line": line, "text": text} for line, text in result.unknown.items()],
        },
        "violation": None if worst is None else _placed(result, worst),
        "findings": [_placed(result, one) | {"times": one.times} for one in result.found.values()],
        "left_out": sum(result.left_out.values()),
    }


def _placed(result: Result, one: Placed) -> dict[str, Any]:
    # In a trace the place is a step; what happened in it is called that, too.
    line = {} if result.kind == "trace" else {"line": one.place}
    return line | {"place": one.place} | asdict(one.finding)


def _report_lines(name: str, result: Result, spec: Spec, *, strict: bool) -> Iterator[str]:
    from vfio_migration.model.conformance.grades import GRADES

    unit = "step" if result.kind == "trace" else "line"
    lines = f"{result.lines} {unit}{'' if result.lines == 1 else 's'}"
    devices = ", ".join(result.devices) or "no device"
    yield f"{name}: {result.log or _KINDS[result.kind]} of {devices}, {lines}"
    if result.cut:
        yield "  the last line is cut off, and left out"
    yield f"  held against {spec.name}: {_counted(result.held)}"
    if result.unrestricted:
        yield f"  not restricted by it: {_counted(result.unrestricted)}"
    if result.unknown_lines:
        yield f"  of no known kind: {_number(result.unknown_lines, 'line')}, the first of them:"
        for line, text in result.unknown.items():
            yield f"    {line}: {text}"
    for grade in GRADES:
        if grade == "house rule" and not strict:
            continue
        for one in result.graded(grade):
            place = f"{one.place}" if unit == "line" else f" step {one.place}"
            yield from _finding(f"{name}:{place}: {grade}", one, unit, len(spec.states))
    yield _sum(result, strict=strict)


def _finding(head: str, one: Placed, unit: str, states: int) -> Iterator[str]:
    found = one.finding
    again = f" ({one.times} times, last in {unit} {one.last})" if one.times > 1 else ""
    yield f"{head}: {found.device}: {found.step}{again}"
    if found.reason != found.text:
        yield f"  why: {found.reason}"
    if found.situations:
        known = len(found.situations) < states
        yield f"  before: {' or '.join(found.situations) if known else 'in any state'}"
    if found.allowed:
        yield f"  allowed instead: {' or '.join(found.allowed)}"
    if found.sign_of:
        yield f"  sign of: {found.sign_of}"
    if found.row:
        yield f"  row: {found.row}"
    if found.source and found.source != "decision":
        yield f"  source: {found.source}"
    if found.text:
        yield f"  the text states: {found.text}"


def _sum(result: Result, *, strict: bool) -> str:
    """Return in one line what came of it."""
    from vfio_migration.model.conformance.grades import GRADES

    counts = Counter({grade: result.left_out[grade] for grade in GRADES})
    for one in result.found.values():
        counts[one.finding.grade] += one.times
    parts = []
    if result.nothing_held and not any(counts.values()):
        return "unknown: no line states what a device did"
    if counts["violation"]:
        parts.append(_number(counts["violation"], "violation"))
    else:
        parts.append("every step is allowed")
    if counts["suspicious"]:
        parts.append(f"{counts['suspicious']} suspicious")
    if counts["house rule"]:
        rules = _number(counts["house rule"], "house rule") + " not kept"
        parts.append(rules if strict else f"{rules} (--strict shows them)")
    if left := sum(result.left_out.values()):
        parts.append(f"{left} of them not shown")
    return "; ".join(parts)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _counted(counts: Counter[str]) -> str:
    return "; ".join(f"{what} {count}" for what, count in counts.items()) or "nothing"
