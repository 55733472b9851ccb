"""What clients saw, held against the specification, rule by rule: runs written by hand."""

from __future__ import annotations

import pytest

from support.scripted_run import SPEC, Line, Script, first_wrong
from vfio_migration.model import Spec
from vfio_migration.model.conformance.observation import Observation
from vfio_migration.model.conformance.observed import Conformance

STATES = [row.name for row in SPEC.states]
SETS = [list(SPEC.names(one)) for one in SPEC.capability_sets()]


def test_a_refused_request_that_succeeds() -> None:
    wrong = Script().get("RUNNING").set("STOP_COPY").set("PRE_COPY").breaks()
    assert str(wrong) == (
        "src: SET_STATE PRE_COPY is answered with success: a stopped saving session cannot go back "
        "to pre-copying; leave it for STOP first; allowed: refused (EINVAL)"
    )
    assert wrong.situations == ("STOP_COPY",)
    assert wrong.row == "[[refusals]] STOP_COPY -> PRE_COPY"
    assert wrong.source == (
        "include/uapi/linux/vfio.h: enum vfio_device_mig_state (STOP_COPY -> PRE_COPY); "
        "docs/interop/vfio-user.rst: Direct State Transitions"
    )


def test_a_refusal_with_the_wrong_errno() -> None:
    wrong = Script().set("STOP_COPY").set("PRE_COPY", "EBUSY").breaks()
    assert (wrong.step, wrong.allowed) == (
        "SET_STATE PRE_COPY is answered with an error (EBUSY)",
        ("refused (EINVAL)",),
    )
    Script().set("STOP_COPY").set("PRE_COPY", "EINVAL").get("STOP_COPY").holds()


def test_a_state_that_is_never_there() -> None:
    run = Script().flags(["STOP_COPY"])
    wrong = run.set("PRE_COPY").breaks()
    assert wrong.reason == "the device lacks the capabilities this state requires"
    assert wrong.row == "[[requests]] target_unsupported"
    wrong = Script().flags(["STOP_COPY"]).get("PRE_COPY").breaks()
    assert wrong.row == "[[states]] PRE_COPY"
    assert wrong.allowed == ("ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING")
    wrong = Script().get(99).breaks()
    assert wrong.reason == "no state has this number"


def test_a_state_that_contradicts_what_was_answered() -> None:
    wrong = Script().get("RUNNING").set("STOP").get("RUNNING").breaks()
    assert wrong.step == "the device returns its state, RUNNING"
    assert wrong.reason == "SET_STATE STOP was answered with success"
    assert (wrong.allowed, wrong.row) == (("STOP",), "[[arcs]] RUNNING_P2P -> STOP")


def test_a_failed_request_leaves_the_device_on_its_path() -> None:
    run = lambda: Script().flags(SETS[-1]).get("RUNNING").set("STOP_COPY", "EIO")  # noqa: E731
    for state in ("RUNNING", "RUNNING_P2P", "STOP", "ERROR"):
        run().get(state).holds()
    for state in ("STOP_COPY", "RESUMING", "PRE_COPY"):
        wrong = run().get(state).breaks()
        assert wrong.allowed == ("ERROR", "STOP", "RUNNING", "RUNNING_P2P")
        assert wrong.row == "[[events]] arc_failed, arc_failed_for_good"


def test_a_refused_request_changes_nothing() -> None:
    wrong = Script().get("STOP").set("ERROR", "EINVAL").get("RUNNING").breaks()
    assert wrong.allowed == ("STOP",)
    assert wrong.reason.endswith("and what is refused changes nothing")


def test_a_request_for_the_present_state_cannot_fail() -> None:
    wrong = Script().get("STOP").set("STOP", "EINVAL").breaks()
    assert wrong.reason == "the device is in this state already"
    assert (wrong.allowed, wrong.row) == (("success",), "[[requests]] already_there")


def test_only_a_reset_leads_out_of_error() -> None:
    run = Script().get("RUNNING").set("STOP", "EIO").get("ERROR")
    run.set("STOP", "EINVAL").reset().get("RUNNING").holds()
    wrong = Script().get("ERROR").set("STOP").breaks()
    assert wrong.row == "[[requests]] no_way_out"
    wrong = Script().get("STOP").reset().get("STOP").breaks()
    assert (wrong.reason, wrong.row) == ("the device was reset", "[[events]] reset")


def test_a_reset_that_is_answered_with_an_error() -> None:
    for state in ("STOP", "ERROR"):
        Script().get("STOP").reset("EIO").get(state).holds()
    assert Script().get("STOP").reset("EIO").get("RUNNING").breaks().allowed == ("ERROR", "STOP")


def test_data_outside_of_a_session() -> None:
    wrong = Script().get("RUNNING").read(100, 0).breaks()
    assert wrong.row == "[[answers]] out_of_session"
    assert wrong.allowed == ("refused (EINVAL)",)
    assert Script().get("STOP").write(1).breaks().row == "[[answers]] out_of_session"
    assert Script().get("RESUMING").read(100, 0).breaks().allowed == ("refused (EINVAL)",)
    assert Script().get("STOP").read(100, "EIO").breaks().allowed == ("refused (EINVAL)",)
    Script().get("STOP").read(100, "EINVAL").holds()
    # A row that comes before may hold as well.
    Script().get("STOP").read(1 << 30, "E2BIG").holds()
    Script().get("STOP_COPY").read(100, "EIO").read(100, 100).holds()


def test_what_is_read_shows_the_state() -> None:
    assert Script().read(10, 10).set("PRE_COPY", "EIO").get("RESUMING").breaks()
    assert Script().write(10).get("STOP_COPY").breaks().allowed == ("RESUMING",)


def test_more_than_was_asked_for() -> None:
    wrong = Script().get("STOP_COPY").read(100, 101).breaks()
    assert (wrong.reason, wrong.allowed) == ("more than was asked for", ("at most 100 bytes",))


def test_nothing_comes_after_the_final_end() -> None:
    wrong = Script().get("STOP_COPY").read(100, 99).read(100, 1).breaks()
    assert wrong.row == "[[stream_ends]] final"
    assert wrong.situations == ("STOP_COPY at the end of its stream",)
    run = Script().get("STOP_COPY").read(100, 99).read(100, 0)
    run.set("STOP").set("STOP_COPY").read(9, 9).holds()
    # While the session can grow, the end is temporary.
    Script().get("PRE_COPY").read(9, 0).read(9, 9).read(9, 3).set("STOP_COPY").read(9, 9).holds()


def test_a_session_that_closes_with_nothing_written() -> None:
    wrong = Script().get("STOP").set("RESUMING").set("RUNNING").breaks()
    assert wrong.reason == "the session that closes is judged, and nothing was written to it"
    assert (wrong.row, wrong.situations) == (
        "[[sessions]] resuming",
        ("RESUMING with nothing written",),
    )
    assert wrong.allowed == ("an error, if an arc fails",)
    Script().get("STOP").set("RESUMING").write(1).set("RUNNING").holds()
    Script().get("STOP").set("RESUMING").set("RUNNING", "EINVAL").get("RESUMING").holds()
    # Of a session that was open before, nobody knows.
    Script().get("RESUMING").set("RUNNING").holds()
    assert Script().get("STOP").set("RESUMING").write(0).set("STOP").breaks()
    # It cannot have come further than the arc that judges.
    assert Script().get("STOP").set("RESUMING").set("RUNNING", "EIO").get("STOP").breaks()


def test_capabilities_do_not_change() -> None:
    Script().flags(SETS[0]).flags(SETS[0]).holds()
    wrong = Script().flags(SETS[0]).flags(SETS[1]).breaks()
    assert wrong.allowed == ("STOP_COPY",)
    assert wrong.reason == "it returned others before, and they do not change"
    assert "lacks STOP_COPY" in Script().flags(["P2P"]).breaks().reason
    assert "bits that stand for no capability" in Script().flags(65).breaks().reason
    wrong = Script().set("PRE_COPY").flags(SETS[0]).breaks()
    assert wrong.reason == "with these it could not have done what it did"
    assert wrong.allowed == ("STOP_COPY,PRE_COPY", "STOP_COPY,P2P,PRE_COPY")
    given = SPEC.capability_set("STOP_COPY")
    assert "given" in Script().flags(SETS[1]).breaks(capabilities=given).reason
    assert Script().get("PRE_COPY").breaks(capabilities=given)


def test_a_client_that_comes_back_finds_the_state() -> None:
    Script().get("STOP_COPY").add("gone").add("connected").get("STOP_COPY").read(9, 9).holds()
    wrong = Script().get("STOP_COPY").add("gone").add("connected").get("RUNNING").breaks()
    assert wrong.allowed == ("ERROR", "STOP_COPY")
    assert (wrong.reason, wrong.row) == (
        "a client that comes back finds the device as it was",
        "[[events]] disconnect",
    )
    # The end of a stream that was read is not there again, either.
    run = Script().get("STOP_COPY").read(9, 0).add("gone").add("connected")
    assert run.read(9, 9).breaks().row == "[[stream_ends]] final"


def handshake(run: Script, connection: int, *whats: str) -> Script:
    about = {"id": 0, "command": "VERSION", "connection": connection}
    for what in whats:
        run.add(what, **(about if what in ("command", "reply") else {"connection": connection}))
    return run


def turned(run: Script, connection: int) -> Script:
    """What was added last is of this connection."""
    for line in run.lines[-2:]:
        line["connection"] = connection
    return run


def test_a_client_that_waits_for_its_turn_takes_nothing_from_the_one_that_is_served() -> None:
    run = handshake(Script().set("STOP"), 2, "command")
    run.get("STOP").holds()
    run = handshake(run, 2, "gone").get("STOP")
    run.holds()
    assert run.get("RUNNING").breaks()
    assert handshake(Script().set("STOP"), 2, "command", "gone").read(1, 1).breaks()


def test_clients_are_served_in_turn() -> None:
    run = handshake(handshake(Script().set("STOP"), 2, "command"), 3, "command").add("gone")
    run = handshake(run, 2, "reply", "connected")
    turned(run.get("STOP"), 2).holds()
    wrong = handshake(Script().set("STOP"), 2, "command").add("gone")
    assert turned(handshake(wrong, 2, "reply", "connected").get("RUNNING"), 2).breaks()
    turned(run.set("RUNNING"), 2).holds()
    run = handshake(handshake(run, 2, "gone"), 3, "reply", "connected")
    assert turned(run.get("STOP"), 3).breaks().allowed == ("ERROR", "RUNNING")


def test_a_client_that_is_forgotten_has_ended() -> None:
    """Nobody has closed it, and nobody waits for its replies."""
    run = handshake(Script().flags(SETS[0]).set("STOP_COPY"), 2, "command", "reply", "connected")
    turned(run.get("STOP_COPY"), 2).holds()
    turned(handshake(run, 1, "gone").read(9, 9), 2).holds()
    assert turned(run.get("RUNNING"), 2).breaks()


def test_a_device_that_serves_two_at_a_time_is_not_held() -> None:
    run = handshake(Script().set("STOP"), 2, "command", "reply", "connected")
    turned(run.set("RUNNING"), 2)
    run.get("RUNNING").get("STOP").holds()
    conformance = Conformance(SPEC)
    for line in run.lines:
        assert conformance.observe(Observation.of(line, SPEC)) is None
    assert conformance.unrestricted["messages of several clients at a time"] == 5


def test_what_was_asked_last_before_the_end_may_be_done_or_not() -> None:
    asked = {"feature": "MIG_DEVICE_STATE", "method": "SET", "state": "STOP"}
    for state in ("RUNNING", "STOP", "ERROR"):
        run = Script().flags(SETS[0]).get("RUNNING")
        run.add("command", id=99, command="DEVICE_FEATURE", **asked)
        run.add("gone").add("connected").get(state).holds()
    run = Script().flags(SETS[0]).get("RUNNING")
    run.add("command", id=99, command="DEVICE_FEATURE", **asked)
    assert run.add("gone").add("connected").get("STOP_COPY").breaks()


def test_features_and_their_methods() -> None:
    for answer in ({}, "EIO"):
        run = Script().feature("MIG_DATA_SIZE", "SET", answer)
        assert run.breaks().row == "[[answers]] method_unsupported"
    assert Script().feature("MIGRATION", "GET SET", {}).breaks().row.endswith("feature_flags_clash")
    assert Script().feature("MIGRATION", "", {}).breaks().row == "[[answers]] method_missing"
    assert Script().feature("MIGRATION", "PROBE GET", "EIO").breaks().allowed == ("success",)
    Script().feature("MIG_DATA_SIZE", "PROBE GET SET", "EINVAL").holds()
    Script().feature("MIG_DATA_SIZE", "PROBE GET", "ENOTTY").holds()
    Script().feature(77, "GET", {}).holds()
    wrong = Script().feature("MIG_DEVICE_STATE", "GET", "EIO").breaks()
    assert wrong.reason == "no row of [[answers]] refuses it"


def test_a_feature_is_there_or_it_is_not() -> None:
    run = Script().feature("MIGRATION", "GET", "ENOTTY")
    run.feature("MIG_DEVICE_STATE", "GET", "ENOTTY").set("STOP", "ENOTTY").holds()
    wrong = Script().get("STOP").feature("MIG_DEVICE_STATE", "GET", "ENOTTY").breaks()
    assert wrong.row == "[[answers]] feature_unknown"
    wrong = Script().feature("MIG_DEVICE_STATE", "PROBE GET", "ENOTTY").get("STOP").breaks()
    assert wrong.allowed == ("refused (ENOTTY)",)
    # An arc may fail with any error, this one too.
    Script().get("RUNNING").set("STOP", "ENOTTY").get("RUNNING").holds()
    Script().set("STOP", "ENOTTY").get("ERROR").holds()
    assert Script().get("STOP").set("STOP", "ENOTTY").breaks().allowed == ("success",)


def test_dma_logging_is_on_or_off() -> None:
    run = Script().feature("DMA_LOGGING_START", "SET", {}).feature("DMA_LOGGING_STOP", "SET", {})
    assert run.feature("DMA_LOGGING_REPORT", "GET", {}).breaks().row == "[[answers]] logging_off"
    run = Script().feature("DMA_LOGGING_START", "SET", {})
    assert run.feature("DMA_LOGGING_START", "SET", {}).breaks().row == "[[answers]] logging_on"
    run = Script().feature("DMA_LOGGING_START", "SET", {}).add("gone").add("connected")
    run.feature("DMA_LOGGING_START", "SET", {}).holds()


@pytest.mark.parametrize("method", ["START", "STOP"])
def test_dma_logging_of_which_nothing_was_received_may_be_on_or_off(method: str) -> None:
    before = Script().feature(f"DMA_LOGGING_{'STOP' if method == 'START' else 'START'}", "SET", {})
    asked = {"feature": f"DMA_LOGGING_{method}", "method": "SET"}
    for more in ({}, {"no_reply": True}):
        for command, how in (("REPORT", "GET"), ("START", "SET")):
            run = Script()
            run.lines, run.next = [*before.lines], before.next
            run.add("command", id=99, command="DEVICE_FEATURE", **asked, **more)
            run.feature(f"DMA_LOGGING_{command}", how, {}).holds()
            if not more:
                run.add("reply", id=99, command="DEVICE_FEATURE", **asked)
                run.feature("DMA_LOGGING_REPORT", "GET", {}).holds()


def test_a_reset_may_end_dma_logging() -> None:
    """No specification states whether it does."""
    run = Script().feature("DMA_LOGGING_START", "SET", {}).reset()
    run.feature("DMA_LOGGING_START", "SET", {}).holds()
    assert run.feature("DMA_LOGGING_START", "SET", {}).breaks().row == "[[answers]] logging_on"
    # A reset that is overtaken is held as any other.
    run = Script().set("STOP").feature("DMA_LOGGING_START", "SET", {})
    run.add("command", id=99, command="DEVICE_RESET").feature("DMA_LOGGING_START", "SET", {})
    run.add("reply", id=99, command="DEVICE_RESET").get("RUNNING").holds()
    assert run.get("STOP").breaks()


def test_the_size_of_what_is_reported() -> None:
    state = {"size": 4}
    wrong = Script().feature("MIG_DEVICE_STATE", "GET", state).breaks()
    assert (wrong.reason, wrong.allowed) == ("its data is 8 bytes", ("8 bytes",))
    Script().feature("MIG_DEVICE_STATE", "GET", {"size": 0}, argsz=8).holds()
    assert Script().feature("MIG_DEVICE_STATE", "GET", {"size": 0}).breaks()
    report = "DMA_LOGGING_REPORT"
    Script().feature(report, "GET", {"size": 24 + 16}, argsz=48).holds()
    assert Script().feature(report, "GET", {"size": 24 + 15}, argsz=48).breaks()


def test_replies_and_their_commands() -> None:
    run = Script().get("STOP")
    assert run.add("reply", id=0, command="DEVICE_FEATURE").breaks().allowed == ("nothing",)
    run = Script().add("command", id=3, command="DEVICE_RESET")
    wrong = run.add("reply", id=3, command="MIG_DATA_READ").breaks()
    assert wrong.reason == "the command with id 3 was DEVICE_RESET"
    assert wrong.row == "[[answers]] reply_unasked"


def test_nothing_is_served_before_a_version_is_agreed() -> None:
    run = Script(connected=False)
    assert run.get("STOP").breaks().row == "[[answers]] version_first"
    Script(connected=False).reset("EINVAL").holds()
    assert Script(connected=False).reset("EIO").breaks().allowed == ("refused (EINVAL)",)
    Script(connected=False).do("VERSION", {}, {}).get("STOP").holds()


def test_devices_are_distinguished() -> None:
    one, two = Script("one").get("STOP"), Script("two").get("RUNNING")
    lines = [line for pair in zip(one.lines, two.lines, strict=True) for line in pair]
    assert first_wrong(lines) is None
    conformance = Conformance(SPEC)
    for line in lines:
        assert conformance.observe(Observation.of(line, SPEC)) is None
    assert conformance.devices == ("one", "two")
    assert (conformance.states("one"), conformance.states("two")) == (("STOP",), ("RUNNING",))


def test_it_goes_on_after_a_violation() -> None:
    conformance = Conformance(SPEC)
    run = Script().get("STOP").set("STOP", "EIO").get("RUNNING").set("STOP")
    found = [conformance.observe(Observation.of(line, SPEC)) for line in run.lines]
    assert [index for index, one in enumerate(found) if one] == [4]
    assert conformance.states("src") == ("STOP",)


def test_what_is_not_restricted() -> None:
    run = Script().get("STOP").do("REGION_WRITE", {}, {}).do("DMA_MAP", {}, "ENOSPC").add("served")
    conformance = Conformance(SPEC)
    for line in [*run.lines, {"what": "note", "event": "phase"}]:
        assert conformance.observe(Observation.of(line, SPEC)) is None
    assert dict(conformance.unrestricted) == {"REGION_WRITE": 1, "DMA_MAP": 1, "DMA by messages": 1}
    assert conformance.notes == 1


# --- commands that are under way together ---


def under_way(*order: int, states: list[str] = ["STOP"]) -> Script:  # noqa: B006
    """RUNNING; then SET and GETs are sent at once, and answered in the order given."""
    run = Script().flags(SETS[-1]).get("RUNNING")
    which = {"command": "DEVICE_FEATURE", "feature": "MIG_DEVICE_STATE"}
    run.add("command", id=50, **which, method="SET", state="STOP")
    for number, _ in enumerate(states, 51):
        run.add("command", id=number, **which, method="GET", argsz=16)
    recorded = {number: {"state": state, "size": 8} for number, state in enumerate(states, 51)}
    for number in order:
        run.add("reply", id=number, **which, method="GET", **recorded.get(number, {}))
    return run


def test_a_state_reported_in_the_middle_of_a_request() -> None:
    for state in ("RUNNING", "RUNNING_P2P", "STOP", "ERROR"):
        under_way(51, 50, states=[state]).get("STOP").holds()
    assert under_way(51, states=["PRE_COPY"]).breaks().allowed == (
        "ERROR",
        "STOP",
        "RUNNING",
        "RUNNING_P2P",
    )
    assert under_way(50, 51, states=["RUNNING_P2P"]).breaks()


def test_a_command_without_a_reply_is_served_in_its_turn() -> None:
    run = Script().flags(SETS[-1]).get("STOP").set("RESUMING")
    run.add("command", id=70, command="MIG_DATA_WRITE", size=10, no_reply=True)
    run.set("RUNNING").holds()
    # The same, where the recording does not state that there will be none.
    run = Script().flags(SETS[-1]).get("STOP").set("RESUMING")
    run.add("command", id=70, command="MIG_DATA_WRITE", size=10)
    run.add("command", id=70, command="REGION_WRITE").add("reply", id=70, command="REGION_WRITE")
    run.set("RUNNING").holds()


def test_replies_that_others_have_overtaken_are_not_held() -> None:
    run = Script().flags(SETS[-1]).get("RUNNING")
    which = {"command": "DEVICE_FEATURE", "feature": "MIG_DEVICE_STATE", "method": "SET"}
    run.add("command", id=60, **which, state="STOP")
    run.add("command", id=61, **which, state="RUNNING")
    run.add("reply", id=61, **which).add("reply", id=60, **which).get("RUNNING").holds()


# --- other tables ---


def test_a_ninth_state_is_followed_as_it_is(ninth_state: Spec) -> None:
    """Nothing here knows a state by its name."""
    new = next(row.name for row in ninth_state.states if row.name not in STATES)
    machine = ninth_state.machine()
    for start in (row.name for row in machine.states):
        route = machine.route(start, new)
        good = Script().get(start).set(new, None if route.refused is None else route.refused.errno)
        assert first_wrong(good.lines, ninth_state) is None, start
        if route.refused is not None:
            assert first_wrong(Script().get(start).set(new).lines, ninth_state), start
    with pytest.raises(Exception, match="there is no such state in this table"):
        Observation.of(Script().get(new).lines[-1], SPEC)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({}, "what: is missing"),
        (
            {"what": "comand"},
            'what: "comand": is not a kind of line that a recording has; did you mean "command"?',
        ),
        ({"what": "gone"}, "device: is missing"),
        ({"what": "gone", "device": 3}, "device: 3: is not a string"),
        ({"what": "reply", "device": "a"}, "id: is missing"),
        ({"what": "reply", "device": "a", "id": True}, "id: true: is not a whole number"),
        ({"what": "reply", "device": "a", "id": 1}, "command: is missing"),
        (
            {"state": "STOPP"},
            'state: "STOPP": there is no such state in this table; did you mean "STOP"?',
        ),
        ({"state": []}, "state: []: is neither a name nor a number"),
        ({"size": -1}, "size: -1: is below zero"),
        ({"size": "1"}, 'size: "1": is not a whole number'),
        ({"method": "GOT"}, 'method: "GOT": is not a method of a feature; did you mean "GET"?'),
        ({"flags": [1]}, "flags: 1: is not a name of a capability"),
        ({"errno": []}, "errno: []: is neither a name nor a number"),
        ({"malformed": 5}, "malformed: 5: is not a string"),
        ({"no_reply": 1}, "no_reply: 1: is not true or false"),
    ],
)
def test_a_damaged_line_is_named(line: Line, message: str) -> None:
    if line and "what" not in line:
        line = {"what": "reply", "device": "a", "id": 1, "command": "X"} | line
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared whole
        Observation.of(line, SPEC)
    assert str(error.value) == message


def test_what_a_line_has_more_of_is_passed_over() -> None:
    line = {"device": "a", "what": "connected", "weather": {"fine": True}}
    assert Observation.of(line, SPEC) == Observation(device="a", what="connected")
