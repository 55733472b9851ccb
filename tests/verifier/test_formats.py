"""What reports look like, to people and to programs."""

from __future__ import annotations

import itertools
import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest

from support.samples import sample, sampled
from support.table_edits import BROKEN, broken, spec_of, to_toml
from vfio_migration.model import Spec, Step, Trace, load
from vfio_migration.verifier import OBLIGATIONS, Example, Obligation, Report, Verdict, verify
from vfio_migration.verifier.report import blamed_rows as rows
from vfio_migration.verifier.report import junit_sarif as formats
from vfio_migration.verifier.report.text import disagreement_lines, to_data, violation
from vfio_migration.verifier.solver.obligation import Disagreement

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "verifier/verify.schema.json").read_text("utf-8"))


def golden(name: str, text: str) -> None:
    """Compare with the file; UPDATE_GOLDEN=1 writes it instead."""
    path = GOLDEN / name
    if "UPDATE_GOLDEN" in os.environ:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def by_id(name: str) -> Obligation:
    return next(obligation for obligation in OBLIGATIONS if obligation.id == name)


def violated(name: str, example: Example) -> Verdict:
    statement = by_id(name).statement
    return Verdict(name, statement, "violated", "induction", 0.25, example=example, queries=3)


def a_run(*steps: Step, word: tuple[str, ...] = ("STOP_COPY",), text: str = "") -> Example:
    trace = Trace(
        spec="vfio-v2", capabilities=(word,), start=("RUNNING",), steps=steps, title="a run"
    )
    text = text or f"{len(steps)} events from RUNNING: {'; '.join(str(step) for step in steps)}"
    return Example(text, trace)


REQUEST = Step(kind="request", to="STOP", state="RUNNING")
ARC = Step(kind="arc", from_="RUNNING", to="STOP", state="STOP")
MESSAGES = {
    "failing-arc": violated(
        "D7",
        a_run(
            Step(kind="request", to="RESUMING", state="RUNNING"),
            ARC,
            Step(kind="arc", from_="STOP", to="RESUMING", state="RESUMING", session=1),
            Step(kind="request", to="STOP", state="RESUMING", session=1),
            Step(kind="arc_failed", from_="RESUMING", to="STOP", state="STOP", errno="EIO"),
        ),
    ),
    "device-acts": violated(
        "D5",
        a_run(REQUEST, ARC, Step(kind="note", state="STOP", note="the device: change_state")),
    ),
    "one-request": violated(
        "T4", a_run(REQUEST, ARC, text="RUNNING -> STOP (SET_STATE STOP): another path is there")
    ),
    "dead-row": violated(
        "T9", Example("refusals[0] (STOP_COPY -> PRE_COPY) is dead", None, "refusals[0]")
    ),
    "two-devices": violated(
        "G2",
        Example(
            "device 0 meets device 1",
            Trace(
                spec="vfio-v2",
                capabilities=(("STOP_COPY", "P2P"), ("STOP_COPY",)),
                start=("RUNNING", "RUNNING"),
                steps=(
                    Step(kind="arc", device=1, from_="RUNNING", to="STOP", state="STOP"),
                    Step(kind="note", state="RUNNING", note="the device: start_p2p_dma"),
                ),
            ),
        ),
    ),
    "without-example": Verdict("D1", by_id("D1").statement, "violated", "induction", 0.1),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_violation_reads_as_it_always_did(spec: Spec, name):
    verdict = MESSAGES[name]
    text = "\n".join(violation(verdict, by_id(verdict.id), spec, "my table.toml"))
    golden(f"violation-{name}.txt", text + "\n")


def test_the_last_line_replays_the_trace_once_it_is_saved(spec: Spec):
    verdict = MESSAGES["failing-arc"]
    *_, last = violation(verdict, by_id("D7"), spec, None, "traces/D7.json")
    assert last == "  see it again: vfio-migration replay traces/D7.json"


def test_a_disagreement_reads_as_it_always_did():
    found = Disagreement("second-path", "unsat", "sat", "", "queries/T4/second-path.smt2")
    verdict = Verdict(
        "T4", "It holds.", "unknown", "symbolic", 0.1, reason="-", disagreements=(found,)
    )
    golden("disagreement.txt", "\n".join(disagreement_lines(verdict)) + "\n")


# --- the published schema ---


def a_report(spec: Spec) -> Report:
    """One verdict of each kind."""
    (proved,) = verify(spec, only=["T1"]).verdicts
    found = Disagreement("q", "sat", "unsat", "", None)
    gave_up = "q: z3 reports sat and cvc5 reports unsat"
    unknown = Verdict(
        "D2", "It holds.", "unknown", "induction", 0.1, reason=gave_up, disagreements=(found,)
    )
    verdicts = (proved, unknown, *MESSAGES.values())
    return Report(spec, "linux", verdicts, (), 1.5)


def test_the_schema_is_one_and_describes_a_report(spec: Spec):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    data = to_data(a_report(spec))
    validator.validate(data)
    # A schema that lets everything pass proves nothing.
    for spoil in (
        lambda d: d.pop("outcome"),
        lambda d: d.update(outcome="passed"),
        lambda d: d["verdicts"][0].update(witness=None),
        lambda d: d["verdicts"][1].update(reason=None),
        lambda d: d["verdicts"][2]["trace"]["steps"][0].pop("state"),
        lambda d: d["verdicts"][2].pop("engine"),
    ):
        spoilt = json.loads(json.dumps(data))
        spoil(spoilt)
        assert not validator.is_valid(spoilt)


@sampled(6)
@pytest.mark.parametrize(
    "path", sample(sorted(BROKEN.glob("*.toml")), 6), ids=lambda path: path.stem
)
def test_a_violation_of_a_broken_table_fits_the_schema(path: Path):
    edit, data = broken(path)
    report = verify(spec_of(data), only=[edit["breaks"]])
    jsonschema.validate(to_data(report), SCHEMA, jsonschema.Draft202012Validator)


# --- JUnit and SARIF ---


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "my table.toml"
    path.write_bytes((ROOT / "model/vfio_v2.toml").read_bytes())
    return path


def context(table: Path | None = None) -> formats.Context:
    return formats.Context(
        obligations=OBLIGATIONS,
        origin=str(table) if table else None,
        file=table or ROOT / "model/vfio_v2.toml",
        version="1.2.3",
        saved={"D7": "traces/D7.json"},
    )


def test_junit_has_a_case_for_each_obligation(spec: Spec, table: Path):
    report = a_report(spec)
    top = ET.fromstring(formats.junit(report, context(table)))
    assert (top.tag, top.get("tests"), top.get("failures"), top.get("errors")) == (
        "testsuites", str(len(report.verdicts)), str(len(MESSAGES)), "1",
    )  # fmt: skip
    suites = top.findall("testsuite")
    assert [suite.get("name", "")[:2] for suite in suites] == ["T:", "D:", "G:"]
    assert sum(int(suite.get("tests", "")) for suite in suites) == len(report.verdicts)
    cases = {case.get("name", "").split()[0]: case for case in top.iter("testcase")}
    assert cases["T1"].find("failure") is None
    assert cases["T1"].findtext("system-out", "").startswith("witness: ")
    failure = cases["D7"].find("failure")
    assert failure is not None
    assert failure.text is not None
    assert "4. SET_STATE STOP" in failure.text
    assert "see it again: vfio-migration replay traces/D7.json" in failure.text
    error = cases["D2"].find("error")
    assert error is not None
    assert error.get("type") == "disagreement"
    assert all(float(case.get("time", "")) >= 0 for case in cases.values())


def test_junit_holds_what_xml_cannot(spec: Spec):
    nasty = Example('<&>"\x00\x1b[31m \ud800 \uffff ]]> \U0001f600')
    report = Report(spec, "linux", (violated("D1", nasty),), (), 0.1)
    text = formats.junit(report, context())
    failure = ET.fromstring(text.encode("utf-8")).find(".//failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith(
        '<&>"\ufffd\ufffd[31m \ufffd \ufffd ]]> \U0001f600'
    )


def test_sarif_points_at_the_row(spec: Spec, table: Path):
    report = a_report(spec)
    data = json.loads(formats.sarif(report, context(table)))
    assert data["version"] == "2.1.0"
    (run,) = data["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [obligation.id for obligation in OBLIGATIONS]
    results = {result["ruleId"]: result for result in run["results"]}
    assert set(results) == {verdict.id for verdict in MESSAGES.values()}  # violations only
    for result in results.values():
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert uri.endswith("/my%20table.toml")
    (location,) = results["T9"]["locations"]
    assert location["logicalLocations"] == [{"fullyQualifiedName": "refusals[0]", "kind": "member"}]
    region = location["physicalLocation"]["region"]
    lines = table.read_text("utf-8").splitlines()
    assert lines[region["startLine"] - 1] == "[[refusals]]"
    assert 'from = "STOP_COPY"' in lines[region["startLine"]]
    assert lines[region["endLine"] - 1].startswith("source = ")
    (flow,) = results["D7"]["codeFlows"]
    assert len(flow["threadFlows"][0]["locations"]) == 6
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False  # something is unknown
    assert invocation["toolExecutionNotifications"][0]["associatedRule"]["id"] == "D2"


def test_sarif_of_a_good_table_has_no_results(spec: Spec):
    report = verify(spec, only=["T1"])
    (run,) = json.loads(formats.sarif(report, context()))["runs"]
    assert run["results"] == []
    assert run["invocations"][0]["executionSuccessful"] is True


# --- where a row stands in the file ---


def test_every_row_of_the_table_is_found(spec: Spec):
    text = (ROOT / "model/vfio_v2.toml").read_text("utf-8")
    lines = text.splitlines()
    seen = []
    for section in ("capabilities", "operations", "states", "arcs", "refusals", "events"):
        for index, row in enumerate(getattr(spec, section)):
            found = rows.lines(text, f"{section}[{index}]")
            assert found is not None
            first, last = found
            assert lines[first - 1] == f"[[{section}]]"
            assert row.source in " ".join(lines[first - 1 : last])
            assert "[[" not in "".join(lines[first:last])
            seen.append((first, last))
    assert all(one[1] < other[0] for one, other in itertools.pairwise(seen))
    assert rows.lines(text, f"arcs[{len(spec.arcs)}]") is None
    first, last = rows.lines(text, "initial") or (0, 0)
    assert first == last
    assert lines[first - 1].startswith("initial")
    assert rows.lines(text, "nothing") is None


def test_what_only_looks_like_a_header_is_none():
    text = '''\
initial = "A" # [[arcs]]
note = """
[[arcs]]
\\""" still [[arcs]]
"""
list = [
  [ "a" ],
  "[[arcs]]", # ]
]
literal = \'\'\'
[[arcs]]\\\'\'\'
  [[ arcs ]]  # the first
from = "]["

# about the next
[[states]]
x = 1
[["arcs"]]
from = 'B"'
[arcs.more]
y = 2
'''
    lines = text.splitlines()
    first, second = rows.lines(text, "arcs[0]"), rows.lines(text, "arcs[1]")
    assert first is not None
    assert second is not None
    assert lines[first[0] - 1] == "  [[ arcs ]]  # the first"
    assert first[1] == first[0] + 1
    assert lines[second[0] - 1] == '[["arcs"]]'
    assert rows.lines(text, "arcs[2]") is None
    assert rows.lines('arcs = [{from = "A"}]\n', "arcs[0]") is None
    assert rows.lines("", "arcs[0]") is None


def test_a_row_of_another_table_is_just_named(spec: Spec):
    assert rows.described(spec, "phases[3]") == "phases[3]"
    assert rows.described(spec, "arcs[999]") == "arcs[999]"
    assert rows.described(spec, "initial") == "initial"


def test_rows_are_found_in_a_table_without_comments(spec: Spec):
    _, data = broken(BROKEN / "t9-dead-refusal.toml")
    text = to_toml(data)
    first, last = rows.lines(text, "refusals[2]") or (0, 0)
    assert text.splitlines()[first - 1] == "[[refusals]]"
    assert 'to = "ERROR"' in text.splitlines()[first:last]


def test_the_packaged_table_is_what_is_read(spec: Spec):
    assert load() == spec
