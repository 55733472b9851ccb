"""Each check that is made of a recording: a run that breaks exactly it, and one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.scripted_run import SPEC, Script, found_in, grades
from support.transfer_runs import CUTS, DATA, cut, migration
from vfio_migration.model.conformance.grades import HOUSE, VFIO_USER, load_grades

SETS = [list(SPEC.names(one)) for one in SPEC.capability_sets()]
GRADES = load_grades()


def given(words: str) -> dict[str, Any]:
    return {"capabilities": SPEC.capability_set(words)}


def unwanted(*, no_reply: bool) -> Script:
    about = {"id": 9, "command": "REGION_WRITE"}
    run = Script().add("command", **about, **({"no_reply": True} if no_reply else {}))
    return run.add("reply", **about)


def twice(*ids: int) -> Script:
    run = Script().add("command", id=3, command="DEVICE_GET_INFO")
    for ident in ids:
        run.add("reply", id=ident, command="DEVICE_GET_INFO")
    return run


def answered_as(command: str) -> Script:
    return (
        Script().add("command", id=3, command="DEVICE_GET_INFO").add("reply", id=3, command=command)
    )


def ends(by: str) -> Script:
    return (
        Script()
        .get("STOP_COPY")
        .add("command", id=9, command="MIG_DATA_READ", size=9)
        .add("gone", by=by)
    )


def refused(times: int) -> Script:
    run = Script().get("RUNNING")
    for _ in range(times):
        run.set("STOP", "EIO")
    return run


START, STOP, REPORT = "DMA_LOGGING_START", "DMA_LOGGING_STOP", "DMA_LOGGING_REPORT"


A, B, C, D = cut(DATA, *CUTS)
ALTERED = bytes([B[0] ^ 1]) + B[1:]

Case = tuple[str, Callable[[], Script], Callable[[], Script]]

CASES: dict[str, Case] = {
    "reply_unasked": ("violation", lambda: twice(3, 3), lambda: twice(3)),
    "reply_to_another": (
        "violation",
        lambda: answered_as("DEVICE_RESET"),
        lambda: answered_as("DEVICE_GET_INFO"),
    ),
    "reply_malformed": (
        "violation",
        lambda: Script().do("DEVICE_GET_INFO", {}, {"malformed": "5 bytes instead of 16"}),
        lambda: Script().do("DEVICE_GET_INFO", {}, "EIO"),
    ),
    "reply_unwanted": (
        "house rule",
        lambda: unwanted(no_reply=True),
        lambda: unwanted(no_reply=False),
    ),
    "before_version": (
        "house rule",
        lambda: Script(connected=False).get("STOP"),
        lambda: Script(connected=False).do("VERSION", {}, {}).get("STOP"),
    ),
    "refusal_succeeds": (
        "violation",
        lambda: Script().get("STOP_COPY").set("PRE_COPY"),
        lambda: Script().get("STOP_COPY").set("PRE_COPY", "EINVAL"),
    ),
    "refusal_errno": (
        "house rule",
        lambda: Script().get("STOP_COPY").set("PRE_COPY", "EBUSY"),
        lambda: Script().get("STOP_COPY").set("PRE_COPY", "EINVAL"),
    ),
    "present_state_fails": (
        "house rule",
        lambda: Script().get("STOP").set("STOP", "EINVAL"),
        lambda: Script().get("STOP").set("STOP"),
    ),
    "state_after_success": (
        "violation",
        lambda: Script().get("RUNNING").set("STOP").get("RUNNING"),
        lambda: Script().get("RUNNING").set("STOP").get("STOP"),
    ),
    "state_after_refusal": (
        "house rule",
        lambda: Script().get("STOP").set("ERROR", "EINVAL").get("RUNNING"),
        lambda: Script().get("STOP").set("ERROR", "EINVAL").get("STOP"),
    ),
    "state_after_failure": (
        "house rule",
        lambda: Script().get("RUNNING").set("STOP_COPY", "EIO").get("RESUMING"),
        lambda: Script().get("RUNNING").set("STOP_COPY", "EIO").get("STOP"),
    ),
    "state_unknown": ("violation", lambda: Script().get(99), lambda: Script().get("STOP")),
    "state_unsupported": (
        "violation",
        lambda: Script().flags(SETS[0]).get("PRE_COPY"),
        lambda: Script().flags(SETS[-1]).get("PRE_COPY"),
    ),
    "state_moved": (
        "violation",
        lambda: Script().get("STOP").get("RUNNING"),
        lambda: Script().get("STOP").get("STOP"),
    ),
    "failed_by_itself": (
        "suspicious",
        lambda: Script().get("STOP").get("ERROR"),
        lambda: Script().get("STOP").set("RUNNING", "EIO").get("ERROR"),
    ),
    "path_refused_again": ("suspicious", lambda: refused(3), lambda: refused(2)),
    "reset_recovers": (
        "violation",
        lambda: Script().get("ERROR").reset().get("ERROR"),
        lambda: Script().get("ERROR").reset().get("RUNNING"),
    ),
    "state_after_reset": (
        "house rule",
        lambda: Script().get("STOP").reset().get("STOP"),
        lambda: Script().get("STOP").reset().get("RUNNING"),
    ),
    "reset_refused": (
        "suspicious",
        lambda: Script().get("STOP").reset("EINVAL"),
        lambda: Script().get("STOP").reset(),
    ),
    "state_kept": (
        "suspicious",
        lambda: Script().get("STOP").add("gone").add("connected").get("RUNNING"),
        lambda: Script().get("STOP").add("gone").add("connected").get("STOP"),
    ),
    "ended_upon_command": ("suspicious", lambda: ends("server"), lambda: ends("client")),
    "data_outside_session": (
        "violation",
        lambda: Script().get("RUNNING").read(100, 10),
        lambda: Script().get("STOP_COPY").read(100, 10),
    ),
    "outside_session_answer": (
        "house rule",
        lambda: Script().get("RUNNING").read(100, 0),
        lambda: Script().get("RUNNING").read(100, "EINVAL"),
    ),
    "read_refused": (
        "suspicious",
        lambda: Script().get("STOP_COPY").read(100, "EIO"),
        lambda: Script().get("STOP").read(100, "EINVAL"),
    ),
    "more_than_asked": (
        "violation",
        lambda: Script().get("STOP_COPY").read(100, 101),
        lambda: Script().get("STOP_COPY").read(100, 100),
    ),
    "after_the_end": (
        "violation",
        lambda: Script().get("STOP_COPY").read(100, 99).read(100, 1),
        lambda: Script().get("PRE_COPY").read(100, 99).read(100, 1),
    ),
    "nothing_written": (
        "suspicious",
        lambda: Script().get("STOP").set("RESUMING").set("RUNNING"),
        lambda: Script().get("STOP").set("RESUMING").write(1).set("RUNNING"),
    ),
    "write_refused": (
        "violation",
        lambda: Script().get("STOP").set("RESUMING").write(9, "EIO").set("RUNNING"),
        lambda: Script().get("STOP").set("RESUMING").write(9, "EIO").write(9).set("RUNNING"),
    ),
    "stream_truncated": (
        "violation",
        lambda: migration(A, B, C),
        lambda: migration(A, B, C, D),
    ),
    "stream_doubled": (
        "violation",
        lambda: migration(A, B, B, C, D),
        lambda: migration(DATA[:17], DATA[17:5555], DATA[5555:]),
    ),
    "stream_reordered": (
        "violation",
        lambda: migration(A, C, B, D),
        lambda: migration(A + B, C + D),
    ),
    "stream_altered": (
        "violation",
        lambda: migration(A, ALTERED, C, D),
        lambda: migration(DATA),
    ),
    "flags_mandatory": (
        "violation",
        lambda: Script().flags(["P2P"]),
        lambda: Script().flags(["STOP_COPY", "P2P"]),
    ),
    "flags_contradicted": (
        "violation",
        lambda: Script().set("PRE_COPY").flags(SETS[0]),
        lambda: Script().set("PRE_COPY").flags(SETS[-1]),
    ),
    "flags_unknown": (
        "house rule",
        lambda: Script().flags(65),
        lambda: Script().flags(1),
    ),
    "flags_changed": (
        "house rule",
        lambda: Script().flags(SETS[0]).flags(SETS[1]),
        lambda: Script().flags(SETS[0]).flags(SETS[0]),
    ),
    "feature_answer": (
        "house rule",
        lambda: Script().feature("MIG_DATA_SIZE", "SET", {}),
        lambda: Script().feature("MIG_DATA_SIZE", "SET", "EINVAL"),
    ),
    "feature_fails": (
        "house rule",
        lambda: Script().feature("MIGRATION", "PROBE GET", "EINVAL"),
        lambda: Script().feature("MIGRATION", "PROBE GET", {}),
    ),
    "feature_comes_and_goes": (
        "house rule",
        lambda: Script().get("STOP").feature("MIG_DEVICE_STATE", "GET", "ENOTTY"),
        lambda: Script().feature("MIG_DEVICE_STATE", "GET", "ENOTTY"),
    ),
    "feature_short": (
        "violation",
        lambda: Script().feature("MIGRATION", "GET", {"size": 4}),
        lambda: Script().feature("MIGRATION", "GET", {"size": 8}),
    ),
    "feature_long": (
        "house rule",
        lambda: Script().feature("MIGRATION", "GET", {"size": 16}, argsz=24),
        lambda: Script().feature("MIGRATION", "GET", {"size": 8}, argsz=24),
    ),
    "logging_twice": (
        "house rule",
        lambda: Script().feature(START, "SET", {}).feature(START, "SET", {}),
        lambda: Script().feature(START, "SET", {}).feature(STOP, "SET", {}),
    ),
    "report_without_logging": (
        "violation",
        lambda: Script().feature(STOP, "SET", {}).feature(REPORT, "GET", {}),
        lambda: Script().feature(START, "SET", {}).feature(REPORT, "GET", {}),
    ),
}


@pytest.mark.parametrize("check", CASES)
def test_a_run_breaks_exactly_one_check_and_in_its_last_line(check: str) -> None:
    grade, breaks, _ = CASES[check]
    lines = breaks().lines
    assert grades(lines) == [(grade, check)]
    [(index, finding)] = found_in(lines)
    assert index == len(lines) - 1
    if grade == "violation":
        assert (
            finding.source.startswith("docs/interop/vfio-user.rst: ") or "; docs" in finding.source
        )
    if grade == "suspicious":
        assert finding.sign_of


@pytest.mark.parametrize("check", CASES)
def test_what_keeps_to_a_check_breaks_none(check: str) -> None:
    _, _, holds = CASES[check]
    assert grades(holds().lines) == []


def test_every_check_of_the_table_has_a_run_that_breaks_it() -> None:
    # A step is only seen in logs of other programs: tests/cli/test_field_logs.py has them.
    elsewhere = {"flags_given", "step_unknown", "step_off_path", "step_refused"}
    assert CASES.keys() | elsewhere == GRADES.by_name.keys()


def test_capabilities_that_are_given_bind_everybody() -> None:
    run = Script().flags(SETS[1])
    assert grades(run.lines, **given("STOP_COPY")) == [("violation", "flags_given")]
    assert grades(run.lines, **given(",".join(SETS[1]))) == []


def test_a_grade_follows_from_the_document_that_a_row_is_taken_from() -> None:
    assert GRADES.grade("refusal_succeeds", "include/uapi/linux/vfio.h: X") == "house rule"
    assert GRADES.grade("refusal_succeeds", "decision") == "house rule"
    text = "include/uapi/linux/vfio.h: X; docs/interop/vfio-user.rst: Y"
    assert GRADES.grade("refusal_succeeds", text) == "violation"


def test_our_own_server_is_held_to_every_check() -> None:
    house = GRADES.peer(HOUSE)
    for check in GRADES.checks:
        for source in ("decision", "include/uapi/linux/vfio.h: X", "docs/interop/vfio-user.rst: Y"):
            assert GRADES.holds(house, check.name, source)


def test_no_check_is_both_a_violation_and_a_sign() -> None:
    peer = GRADES.peer(VFIO_USER)
    for check in GRADES.checks:
        assert not (check.sign_of and GRADES.holds(peer, check.name)), check.name


def test_what_linux_alone_refuses_is_a_rule_of_the_house() -> None:
    run = Script().get("STOP_COPY").set("PRE_COPY_P2P")
    assert grades(run.lines) == [("house rule", "refusal_succeeds")]


def test_it_goes_on_after_a_violation_and_lists_what_else_there_is() -> None:
    run = Script().get("STOP").get("RUNNING").reset("EIO").get(99).flags(["P2P"])
    assert grades(run.lines) == [
        ("violation", "state_moved"),
        ("suspicious", "reset_refused"),
        ("violation", "state_unknown"),
        ("violation", "flags_mandatory"),
    ]
