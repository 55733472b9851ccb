"""What real peers do and the text allows, as recordings: none of it is called a violation.

The facts are those of the project's reference material: vfio-user servers and clients as they were
measured, and Linux.
"""

from __future__ import annotations

import pytest

from support.scripted_run import Script, grades

ANY = (None, 0, "EINVAL", "ENOTTY", "EIO", "ENOENT", "EOPNOTSUPP", 4095)
"""Success, an error without an errno, errors with a name, and one with a number alone."""


def answer(errno: str | int | None, **recorded: object) -> dict[str, object]:
    return dict(recorded) if errno is None else {"errno": errno}


def worst(run: Script) -> str | None:
    """Return the grade of the worst that is found."""
    found = {grade for grade, _ in grades(run.lines)}
    return next((one for one in ("violation", "suspicious", "house rule") if one in found), None)


@pytest.mark.parametrize("errno", ANY)
@pytest.mark.parametrize("method", ["PROBE", "PROBE GET", "PROBE SET", "PROBE GET SET", "GET"])
@pytest.mark.parametrize(
    "feature", ["MIGRATION", "MIG_DATA_SIZE", "DMA_LOGGING_START", "DMA_LOGGING_REPORT", 77]
)
def test_probe_or_get_of_a_feature_the_peer_lacks_may_fail_with_any_errno_or_none(
    feature: str, method: str, errno: str | int | None
) -> None:
    recorded = answer(errno, size=24 if feature == "DMA_LOGGING_REPORT" else 8)
    run = Script().feature(feature, method, recorded, argsz=48)
    run.feature(feature, method, {"errno": "EIO"})
    assert worst(run) in (None, "house rule")


@pytest.mark.parametrize("errno", ANY)
def test_a_second_logging_start_may_succeed(errno: str | int | None) -> None:
    run = Script().feature("DMA_LOGGING_START", "SET", {})
    run.feature("DMA_LOGGING_START", "SET", answer(errno))
    assert worst(run) in (None, "house rule")


@pytest.mark.parametrize("errno", ANY[1:])
def test_what_is_refused_may_be_refused_with_any_errno_or_none(errno: str | int) -> None:
    recorded = {"errno": errno}
    run = Script().get("STOP_COPY")
    run.feature("MIG_DEVICE_STATE", "SET", recorded, state="PRE_COPY").get("STOP_COPY")
    run.feature("MIG_DEVICE_STATE", "SET", recorded, state="ERROR").get("STOP_COPY")
    run.feature("MIG_DEVICE_STATE", "SET", recorded, state=99).get("STOP_COPY")
    run.set("STOP").do("MIG_DATA_READ", {"size": 9}, recorded)
    run.do("MIG_DATA_WRITE", {"size": 9}, recorded).get("STOP")
    assert worst(run) in (None, "house rule")


@pytest.mark.parametrize("state", ["STOP", "STOP_COPY", "RESUMING", "RUNNING"])
def test_a_reset_may_keep_every_state_but_error(state: str) -> None:
    """The C library since mid 2026."""
    assert worst(Script().get(state).reset().get(state)) in (None, "house rule")


@pytest.mark.parametrize("state", ["STOP", "STOP_COPY"])
def test_get_info_and_reset_may_be_refused_while_stopped(state: str) -> None:
    """The C library since mid 2026; a reset that is refused is suspicious."""
    run = Script().get(state).do("DEVICE_GET_INFO", {}, "EINVAL")
    assert worst(run) is None
    assert worst(run.reset("EINVAL").get(state)) == "suspicious"


def test_a_client_that_hangs_up_may_leave_a_device_that_runs() -> None:
    """The C library before mid 2026: it is suspicious."""
    run = Script().get("RESUMING").add("gone", by="client").add("connected").get("RUNNING")
    assert grades(run.lines) == [("suspicious", "state_kept")]


def test_a_server_that_ends_with_its_client_and_is_started_anew_may_offer_something_else() -> None:
    run = Script().flags(["STOP_COPY", "PRE_COPY"]).get("STOP_COPY").add("gone", by="client")
    run.add("connected").flags(["STOP_COPY"]).get("RUNNING")
    assert worst(run) == "house rule"


def test_a_destination_may_take_a_state_that_nobody_judges() -> None:
    """The C library leaves that to the device; where nothing was written it is suspicious."""
    run = Script().get("STOP").set("RESUMING").write(1).set("STOP")
    assert worst(run) is None
    run = Script().get("STOP").set("RESUMING").set("STOP")
    assert grades(run.lines) == [("suspicious", "nothing_written")]


def test_a_legal_path_may_be_refused_and_is_suspicious_when_that_goes_on_and_on() -> None:
    run = Script().get("RUNNING").set("PRE_COPY", "EIO").get("RUNNING").set("PRE_COPY", "EIO")
    assert worst(run) is None
    run.get("RUNNING").set("PRE_COPY", "EIO")
    assert grades(run.lines) == [("suspicious", "path_refused_again")]
    run.set("PRE_COPY", "EIO").set("PRE_COPY", "EIO")
    assert grades(run.lines) == [("suspicious", "path_refused_again")]  # said once
    # Something else in between begins a new count.
    run = Script().get("RUNNING").set("PRE_COPY", "EIO").set("PRE_COPY", "EIO").set("STOP")
    assert worst(run.set("RUNNING").set("PRE_COPY", "EIO")) is None


def test_reads_that_are_refused_in_a_state_that_streams_are_suspicious() -> None:
    run = Script().get("PRE_COPY").read(64, "EIO").read(64, 64)
    assert grades(run.lines) == [("suspicious", "read_refused")]
    # More than the server takes in one message it may refuse.
    run = Script(connected=False).do("VERSION", {}, {"max_data_xfer_size": 100})
    assert worst(run.get("STOP_COPY").read(101, "EINVAL")) is None


def test_that_there_is_nothing_now_may_be_an_error_where_more_may_come() -> None:
    """docs/precopy-info.md; where the end is final it is a read that is refused."""
    run = Script().get("PRE_COPY").read(64, 64).read(64, "ENOMSG").read(64, "ENOMSG").read(64, 64)
    assert worst(run) is None
    assert grades(run.set("STOP_COPY").read(64, 9).read(64, "ENOMSG").lines) == [
        ("suspicious", "read_refused")
    ]


def test_a_connection_that_ends_upon_a_command_is_suspicious() -> None:
    run = Script().get("RUNNING").add("command", id=9, command="DMA_MAP").add("gone", by="server")
    assert grades(run.lines) == [("suspicious", "ended_upon_command")]
    run = Script().get("RUNNING").add("gone", by="server")
    assert worst(run) is None


def test_a_device_that_fails_may_be_in_any_state_afterwards() -> None:
    for state in ("RUNNING", "STOP", "STOP_COPY", "RESUMING", "ERROR"):
        run = Script().flags(["STOP_COPY"]).get("RUNNING").set("STOP_COPY", "EIO").get(state)
        assert worst(run) in (None, "house rule"), state


def test_what_linux_does_is_allowed() -> None:
    """No-ops succeed, drained streams return nothing for ever, a bad stream may be completed."""
    run = Script().flags(["STOP_COPY", "P2P", "PRE_COPY"]).get("RUNNING").set("RUNNING")
    run.set("PRE_COPY").read(9, 0).read(9, 0).set("PRE_COPY_P2P").read(9, 9).set("STOP_COPY")
    run.read(9, 3).read(9, 0).read(9, 0).set("PRE_COPY", "EINVAL").set("STOP").read(9, "ENODEV")
    run.set("RESUMING").write(5).set("STOP", "EINVAL").get("RESUMING").write(5).set("RUNNING")
    run.set("STOP").reset().get("RUNNING")
    run.feature("MIG_DATA_SIZE", "GET", {"size": 8}).feature(12, "SET", {})
    assert worst(run) in (None, "house rule")


def test_the_accident_of_linux_that_error_can_be_asked_for_is_named_by_the_text() -> None:
    """The text: ERROR cannot be specified as a state."""
    assert grades(Script().get("ERROR").set("ERROR").lines) == [("violation", "refusal_succeeds")]
