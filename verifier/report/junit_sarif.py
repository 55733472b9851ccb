"""Reports for other programs: JUnit XML for test dashboards, SARIF 2.1.0 for code scanning."""

from __future__ import annotations

import json
import re
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfio_migration.model.xml_text import xml_text
from vfio_migration.verifier.obligations.catalogue import FAMILIES
from vfio_migration.verifier.prove import Report
from vfio_migration.verifier.report import blamed_rows as rows
from vfio_migration.verifier.report.text import disagreement_lines, steps, violation
from vfio_migration.verifier.solver.obligation import Obligation, Verdict

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, slots=True)
class Context:
    """What a report does not know of its own run.

    Attributes:
        obligations: The obligations that were decided.
        origin: The file of the table as the user named it, or None for the packaged one.
        file: Where the text of the table can be read.
        version: The version of this program.
        saved: Where traces were written, by obligation.
        source: If the table is made of a source: the places in it that were changed. Rows are
            pointed at where the source has them, and what no row is to blame for at the first.
    """

    obligations: Sequence[Obligation]
    origin: str | None
    file: Path
    version: str
    saved: Mapping[str, str]
    source: tuple[str, ...] | None = None

    def obligation(self, verdict: Verdict) -> Obligation:
        """The obligation a verdict is about."""
        return next(one for one in self.obligations if one.id == verdict.id)

    def described(self, report: Report, verdict: Verdict) -> str:
        """A violation in words."""
        obligation = self.obligation(verdict)
        saved = self.saved.get(verdict.id)
        return "\n".join(violation(verdict, obligation, report.spec, self.origin, saved))


# --- JUnit ---


def junit(report: Report, context: Context) -> str:
    """Return JUnit XML: a suite for each family, a test case for each obligation.

    A violation is a failure, with its steps as text; what is unknown is an error.
    """
    suites: dict[str, list[Verdict]] = {}
    for verdict in report.verdicts:
        suites.setdefault(verdict.id.rstrip("0123456789"), []).append(verdict)
    top = ET.Element("testsuites", {"name": "vfio-migration verify", **_counts(report.verdicts)})
    top.set("time", f"{report.seconds:.6f}")
    for family, verdicts in suites.items():
        title = FAMILIES.get(family)
        name = f"{family}: {title}" if title else family
        suite = ET.SubElement(top, "testsuite", {"name": name, **_counts(verdicts)})
        suite.set("time", f"{sum(verdict.seconds for verdict in verdicts):.6f}")
        properties = ET.SubElement(suite, "properties")
        for key, value in _properties(report, context).items():
            ET.SubElement(properties, "property", {"name": key, "value": xml_text(value)})
        for verdict in verdicts:
            _case(suite, verdict, report, context)
    ET.indent(top)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(top, "unicode") + "\n"


def _case(suite: ET.Element, verdict: Verdict, report: Report, context: Context) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "classname": f"{report.spec.name}.{verdict.id.rstrip('0123456789')}",
            "name": xml_text(f"{verdict.id} {verdict.title}"),
            "time": f"{verdict.seconds:.6f}",
        },
    )
    if verdict.outcome == "violated":
        message = verdict.example.text if verdict.example else verdict.statement
        attributes = {"message": xml_text(message), "type": "violated"}
        ET.SubElement(case, "failure", attributes).text = xml_text(
            context.described(report, verdict)
        )
    elif verdict.outcome == "unknown":
        kind = "disagreement" if verdict.disagreements else "unknown"
        attributes = {"message": xml_text(verdict.reason or "unknown"), "type": kind}
        text = [verdict.reason or "unknown", *disagreement_lines(verdict)]
        ET.SubElement(case, "error", attributes).text = xml_text("\n".join(text))
    if verdict.witness is not None:
        ET.SubElement(case, "system-out").text = xml_text(f"witness: {verdict.witness.text}")


def _counts(verdicts: Sequence[Verdict]) -> dict[str, str]:
    outcomes = [verdict.outcome for verdict in verdicts]
    return {
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("violated")),
        "errors": str(outcomes.count("unknown")),
        "skipped": "0",
    }


def _properties(report: Report, context: Context) -> dict[str, str]:
    return {
        "table": context.origin or report.spec.name,
        "profile": report.profile,
        "solver": report.solver,
        "version": context.version,
    }


# --- SARIF ---


def sarif(report: Report, context: Context, shown: Collection[str] | None = None) -> str:
    """Return SARIF 2.1.0: obligations are rules, violations are results at their table rows.

    Of `shown` are the identifiers of the violations that are results; all by default. What is
    unknown is no result but a notification of the tool, as SARIF has it: then the run was
    no success.
    """
    text = "" if context.source is not None else context.file.read_text("utf-8")
    of_table = context.origin or context.file.name
    file = of_table if context.source is None else _in_source(report, context, None)[0]
    uri = urllib.parse.quote(file)
    unknown = [verdict for verdict in report.verdicts if verdict.outcome == "unknown"]
    index = {obligation.id: number for number, obligation in enumerate(context.obligations)}
    results = [
        {
            "ruleId": verdict.id,
            "ruleIndex": index[verdict.id],
            "kind": "fail",
            "level": "error",
            "message": {"text": context.described(report, verdict)},
            "locations": [_location(report, verdict, context, text)],
            "partialFingerprints": {"obligation/v1": f"{report.spec.name}/{verdict.id}"},
            **_flow(verdict, uri),
        }
        for verdict in report.verdicts
        if verdict.outcome == "violated" and (shown is None or verdict.id in shown)
    ]
    data = {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "vfio-migration",
                        "version": context.version,
                        "rules": [_rule(obligation) for obligation in context.obligations],
                    }
                },
                "automationDetails": {"id": f"verify/{report.spec.name}/{report.profile}"},
                "invocations": [
                    {
                        "executionSuccessful": not unknown,
                        "toolExecutionNotifications": [
                            {
                                "level": "error",
                                "associatedRule": {"id": verdict.id, "index": index[verdict.id]},
                                "message": {"text": f"{verdict.id} is unknown: {verdict.reason}"},
                            }
                            for verdict in unknown
                        ],
                    }
                ],
                "properties": _properties(report, context),
                "results": results,
            }
        ],
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _rule(obligation: Obligation) -> dict[str, Any]:
    return {
        "id": obligation.id,
        "shortDescription": {"text": obligation.heading},
        "fullDescription": {"text": f"{obligation.statement} Over {obligation.ranges_over}."},
        "help": {"text": obligation.why},
        "defaultConfiguration": {"level": "error"},
        "properties": {"method": obligation.method},
    }


def _location(report: Report, verdict: Verdict, context: Context, text: str) -> dict[str, Any]:
    """The row of the table; the table as a whole where no row is to blame."""
    blamed = rows.blamed(report.spec, verdict.example) if verdict.example else None
    row = blamed[1] if blamed else None
    if context.source is None:
        uri = context.origin or context.file.name
        found = rows.lines(text, row) if row else None
    else:
        uri, found = _in_source(report, context, row)
    physical: dict[str, Any] = {"artifactLocation": {"uri": urllib.parse.quote(uri)}}
    if found is not None:
        physical["region"] = {"startLine": found[0], "endLine": found[1]}
    location: dict[str, Any] = {"physicalLocation": physical}
    if row is not None:
        location["logicalLocations"] = [{"fullyQualifiedName": row, "kind": "member"}]
    return location


_PLACE = re.compile(r"(?:git:[^:]+:)?(.+):(\d+)")
"""A file and a line, of a commit or not."""


def _in_source(
    report: Report, context: Context, row: str | None
) -> tuple[str, tuple[int, int] | None]:
    """The file and line from which a row is made, or else the first that was changed."""
    of_row = "" if row is None else rows.source(report.spec, row).partition(";")[0]
    for place in (of_row, *(context.source or ())):
        found = _PLACE.fullmatch(place)
        if found is not None:
            return found[1], (int(found[2]), int(found[2]))
    return context.origin or context.file.name, None


def _flow(verdict: Verdict, uri: str) -> dict[str, Any]:
    """The steps of the run, if there is one."""
    trace = verdict.example.trace if verdict.example else None
    if trace is None or not trace.steps:
        return {}
    places = [
        {
            "location": {
                "message": {"text": line},
                "physicalLocation": {"artifactLocation": {"uri": uri}},
            }
        }
        for line in steps(trace)
    ]
    return {"codeFlows": [{"threadFlows": [{"locations": places}]}]}
