"""`vfio-migration conform`: hold a live server of anybody's against the tables."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options

if TYPE_CHECKING:
    from vfio_migration.model import Spec
    from vfio_migration.runtime.conform.report import Deviation, Report

_HELP = """\
Hold a live vfio-user server against the specification: its messages, and the whole finite suite of
`generate tests`, which finds every deviation of a device that has at most K states more than the
table.

The device loses its state: it is reset, moved and reset again, thousands of times. So
--device-may-be-reset has to be there. Nothing else may be connected.

What is found has one of three grades, as in check-trace: a violation breaks a sentence of the
specification, which is named; suspicious is what is allowed, and the sign of a known defect; a
house rule is what our own server keeps to and nobody else has to (--strict). Each comes with the
request, the reply and the shortest sequence of inputs that shows it.

examples:
  vfio-migration conform /run/edu.sock --device-may-be-reset
  vfio-migration conform /run/other.sock --device-may-be-reset --hidden-states 0 --json
  vfio-migration conform a.sock --device-may-be-reset --restart ./start-a

exit status: 0 nothing is violated; 1 something is, or the server died; 2 wrong input; 3 nobody
serves there, or not all could be tested
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "conform", help="hold a live server against the specification", description=_HELP
    )
    parser.add_argument("socket", metavar="SOCKET", help="where the server listens")
    parser.add_argument(
        "--device-may-be-reset",
        action="store_true",
        help="yes: whatever the device holds may be lost",
    )
    parser.add_argument(
        "--hidden-states",
        metavar="K",
        type=int,
        default=1,
        help="how many states the device may have more than the table (default: 1)",
    )
    parser.add_argument(
        "--restart",
        metavar="COMMAND",
        help="how to start the server when nobody listens; it is ended when the test is over",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=options.seconds,
        help="how long the server may take for a reply (default 5)",
    )
    parser.add_argument(
        "--total-timeout",
        metavar="SECONDS",
        type=options.seconds,
        help="how long the whole test may take (default 3600)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="hold it to what our own server keeps to, too"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--junit", metavar="FILE", help="write the cases as JUnit XML too")
    options.spec_option(parser)
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Test; 0 if nothing is violated, 1 if something is, 3 if that cannot be known."""
    from vfio_migration.cli import files
    from vfio_migration.cli.output import NO, UNKNOWN, YES, print_json, printable
    from vfio_migration.cli.progress import Progress
    from vfio_migration.runtime.conform.checking import Choices, conform
    from vfio_migration.runtime.conform.tested_server import ServerEndedError

    if not arguments.device_may_be_reset:
        files.refuse(
            "--device-may-be-reset",
            None,
            "is not given, and whatever the device holds is lost",
            "give it if that may be",
        )
    files.keep_apart({"--junit": arguments.junit}, {"--spec": arguments.spec})
    spec = options.read_spec(arguments.spec)
    try:
        restart = tuple(shlex.split(arguments.restart or ""))
    except ValueError as error:
        files.refuse("--restart", arguments.restart, f"is not a command: {error}")
    line = Progress([], shown=not arguments.quiet)
    given = {"timeout_s": arguments.timeout, "total_timeout_s": arguments.total_timeout}
    choices = Choices(
        hidden_states=arguments.hidden_states,
        restart=restart,
        progress=line.count,
        **{name: seconds for name, seconds in given.items() if seconds is not None},
    )
    try:
        with line:
            report = conform(arguments.socket, spec, choices)
    except ServerEndedError as ended:
        print(printable(f"vfio-migration: {arguments.socket}: {ended}"), file=sys.stderr)
        return UNKNOWN
    if arguments.junit is not None:
        files.write_whole("--junit", Path(arguments.junit), junit(report, spec).encode())
    if arguments.json:
        print_json(data(report, spec))
    else:
        print(printable("\n".join(lines(report, spec, strict=arguments.strict))))
    if not _conforms(report, strict=arguments.strict):
        return NO
    return YES if report.capabilities and not report.left_out else UNKNOWN


def _conforms(report: Report, *, strict: bool) -> bool:
    rules = any(one.grade == "house rule" for one in report.deviations) or report.more["house rule"]
    return report.conforms and not (strict and rules)


def _sequence(one: Deviation, spec: Spec) -> list[str]:
    from vfio_migration.model.suite import in_words

    return [in_words(spec, given) for given in one.sequence]


def data(report: Report, spec: Spec) -> dict[str, Any]:
    """Return a report as an object of JSON."""
    return {
        "conforms": report.conforms,
        "socket": report.path,
        "spec": spec.name,
        "capabilities": list(report.capabilities),
        "hidden_states": report.hidden_states,
        "sequences": report.sequences,
        "inputs": report.inputs,
        "messages": report.messages,
        "cases": report.cases,
        "starts": report.starts,
        "ends_with_client": report.ends_with_client,
        "seconds": round(report.seconds, 3),
        "died": report.died or None,
        "left_out": report.left_out,
        "findings": [
            {
                "grade": one.grade,
                "check": one.check,
                "step": one.step,
                "reason": one.reason,
                "source": one.source or None,
                "text": one.text or None,
                "request": one.request.hex(),
                "reply": one.reply.hex(),
                "sequence": _sequence(one, spec),
                "times": one.times,
            }
            for one in report.deviations
        ],
        "more": dict(report.more),
    }


def lines(report: Report, spec: Spec, *, strict: bool) -> Iterator[str]:
    """Yield a report as text."""
    from vfio_migration.model.conformance.grades import GRADES

    offers = ", ".join(report.capabilities) or "no migration"
    yield f"{report.path}: {offers}"
    yield (
        f"  {report.cases} cases, {report.sequences} sequences of {report.inputs} inputs "
        f"(hidden states: {report.hidden_states}), {report.messages} messages, "
        f"{report.seconds:.1f} s"
    )
    for why in report.left_out:
        yield f"  not tested: {why}"
    if report.ends_with_client:
        yield f"  the server ends when its client leaves; it was started {report.starts} times"
    elif report.starts:
        yield f"  the server was started {report.starts} times"
    for grade in GRADES:
        if grade == "house rule" and not strict:
            continue
        for one in report.deviations:
            if one.grade == grade:
                yield from _deviation(one, spec)
    if report.died:
        yield f"the test ended early: {report.died}"
    counts = Counter({grade: report.more[grade] for grade in GRADES})
    counts.update(one.grade for one in report.deviations)
    yield (
        f"{counts['violation']} violations, {counts['suspicious']} suspicious, "
        f"{counts['house rule']} house rules not kept"
        + ("" if strict or not counts["house rule"] else " (--strict shows them)")
    )


def _deviation(one: Deviation, spec: Spec) -> Iterator[str]:
    again = f" ({one.times} times)" if one.times > 1 else ""
    yield f"{one.grade}: {one.step}{again}"
    yield f"  {one.reason}"
    if one.sequence:
        yield f"  shortest: {'; '.join(_sequence(one, spec))}"
    if one.source:
        yield f"  source: {one.source}"
    if one.text:
        yield f"  the text states: {one.text}"
    if one.request:
        yield f"  request: {one.request.hex(' ', 4)}"
    if one.reply:
        yield f"  reply: {one.reply.hex(' ', 4)}"


def junit(report: Report, spec: Spec) -> str:
    """Return a report as JUnit XML: a test case for each deviation, and one for the whole."""
    import xml.etree.ElementTree as ET

    from vfio_migration.model.xml_text import xml_text

    violations = sum(one.grade == "violation" for one in report.deviations)
    top = ET.Element(
        "testsuite",
        {
            "name": "vfio-migration conform",
            "tests": str(len(report.deviations) + 1),
            "failures": str(violations + bool(report.died)),
            "time": f"{report.seconds:.3f}",
        },
    )
    for one in report.deviations:
        case = ET.SubElement(top, "testcase", {"classname": "conform"})
        case.set("name", xml_text(f"{one.check}: {one.step}"))
        if one.grade == "violation":
            failure = ET.SubElement(case, "failure", {"message": xml_text(one.reason)})
            failure.text = xml_text("\n".join(_deviation(one, spec)))
        else:
            ET.SubElement(case, "system-out").text = xml_text(f"{one.grade}: {one.reason}")
    case = ET.SubElement(top, "testcase", {"classname": "conform"})
    case.set("name", "the server is there to the end")
    if report.died:
        ET.SubElement(case, "failure", {"message": xml_text(report.died)})
    ET.indent(top)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(top, "unicode") + "\n"
