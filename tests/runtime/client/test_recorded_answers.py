"""What a recording records of the answers of servers that we did not write."""

from __future__ import annotations

from pathlib import Path

import pytest
from client_support import ERROR, FEATURE, GET_INFO, REPLY, RESET

from support.recorded_runs import lines_of
from vfio_migration.model import load
from vfio_migration.model.conformance.followed import Violation
from vfio_migration.model.conformance.observation import Observation
from vfio_migration.model.conformance.observed import Conformance
from vfio_migration.runtime.client import ClientError
from vfio_migration.runtime.client.recording import Recording

SPEC = load()


def replies(foreign, path: Path, script, *acts) -> list[dict[str, object]]:
    """The lines of the replies to what a client does; it is gone afterwards."""
    with Recording(path, SPEC) as recording:
        client = foreign(script, observers=[recording])
        for act in acts:
            with pytest.raises(ClientError):
                act(client)
        client.close()
    lines = [line for line in lines_of(path)[1:] if line["what"] == "reply"]
    for line in lines:
        for key in ("time", "device", "id"):
            line.pop(key)
    return lines[1:]  # VERSION was answered


@pytest.mark.parametrize(
    ("number", "reported"), [(0, 0), (22, "EINVAL"), (4095, 4095), (0xFFFFFFEA, 0xFFFFFFEA)]
)
def test_the_errno_that_came_is_recorded_and_no_other(foreign, tmp_path, number, reported) -> None:
    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(RESET)
        peer.send(ident, RESET, flags=REPLY | ERROR, errno=number)

    [line] = replies(foreign, tmp_path / "run", script, lambda client: client.reset())
    assert line == {"what": "reply", "command": "DEVICE_RESET", "errno": reported}


def test_a_malformed_reply_is_recorded_as_that_and_not_as_an_errno_of_the_peer(
    foreign, tmp_path
) -> None:
    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(GET_INFO)
        peer.send(ident, GET_INFO, b"short")

    [line] = replies(foreign, tmp_path / "run", script, lambda client: client.info())
    assert line == {
        "what": "reply",
        "command": "DEVICE_GET_INFO",
        "malformed": "DeviceGetInfoReply: 5 bytes instead of 16",
    }


def violation(answer: dict[str, object]) -> Violation | None:
    """What is wrong with a device in STOP_COPY that answers so when asked for PRE_COPY."""
    run = Conformance(SPEC)
    asked = {"command": "DEVICE_FEATURE", "feature": "MIG_DEVICE_STATE", "method": "SET", "size": 8}
    script: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"command": "VERSION"}, {}),
        (asked | {"state": "STOP_COPY"}, {}),
        (asked | {"state": "PRE_COPY"}, answer),
    ]
    for ident, (command, reply) in enumerate(script):
        for more in ({"what": "command"}, {"what": "reply"} | reply):
            line = {"device": "d", "id": ident} | command | more
            found = run.observe(Observation.of(line, SPEC))
            if found is not None:
                return found
    return None


def test_a_refusal_without_an_errno_is_no_violation() -> None:
    """The text: the errno may be zero even if the Error bit is set."""
    assert violation({"errno": 0}) is None
    assert violation({"errno": "EINVAL"}) is None
    assert violation({}) is not None


def test_a_malformed_reply_is_a_violation_in_its_own_words() -> None:
    found = violation({"malformed": "nothing fits"})
    assert found is not None
    assert found.reason == "nothing fits"
    assert found.step == (
        "SET MIG_DEVICE_STATE PRE_COPY is answered with a reply that does not fit it"
    )


def test_a_timeout_names_what_was_asked(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
        peer.expect(FEATURE)
        peer.until_hung()

    client = foreign(script, timeout_s=0.2)
    with pytest.raises(ClientError, match="DEVICE_FEATURE SET MIG_DEVICE_STATE STOP is not answe"):
        client.set_state("STOP")
