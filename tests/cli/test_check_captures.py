"""`vfio-migration check-trace` on captures of the wire."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from support.peer_habits import servers as habits
from support.peer_habits.running import running
from support.samples import sample
from support.scripted_run import grades
from support.table_edits import ROOT
from support.wire_captures import capture_of, relaying
from vfio_migration.cli.main import main
from vfio_migration.model import load
from vfio_migration.runtime.client import Client, ClientError
from vfio_migration.runtime.client.capture import Capture

SPEC = load()
QEMU = ROOT / "tests/data/qemu-11-realize.jsonl"
VERSION, GET_INFO, REGION_INFO, RESET, FEATURE, READ = 1, 4, 5, 13, 16, 17
COMMAND, REPLY, NO_REPLY, ERROR = 0x0, 0x1, 0x10, 0x20
GET, SET = 1 << 16, 1 << 17
DEVICE_STATE = 2


def message(ident: int, number: int, kind: int, payload: bytes = b"", errno: int = 0) -> bytes:
    return struct.pack("=HHIII", ident, number, 16 + len(payload), kind, errno) + payload


def asks(ident: int, number: int, payload: bytes = b"", flags: int = 0) -> tuple[str, bytes]:
    return "client", message(ident, number, COMMAND | flags, payload)


def expected(ident: int, number: int, payload: bytes = b"") -> tuple[str, bytes]:
    return "server", message(ident, number, REPLY, payload)


def fails(ident: int, number: int, errno: int) -> tuple[str, bytes]:
    return "server", message(ident, number, REPLY | ERROR, errno=errno)


HANDSHAKE = (
    asks(0, VERSION, struct.pack("=HH", 0, 1)),
    expected(0, VERSION, struct.pack("=HH", 0, 0)),
)


def state(value: int, flags: int) -> bytes:
    return struct.pack("=IIIi", 16, flags | DEVICE_STATE, value, -1)


def found(path: str) -> list[tuple[str, str]]:
    """Return what is found in a capture."""
    capture = Capture(SPEC)
    text = Path(path).read_text("utf-8")
    return grades([one for line in text.splitlines() for one in capture.lines(json.loads(line))])


def test_what_qemu_and_a_server_state_is_read_and_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-trace", str(QEMU), "--strict"]) == 0
    assert capsys.readouterr().out == (
        f"{QEMU}: a capture of server, 76 lines\n"
        "  held against vfio-v2: connections 1; resets 1\n"
        "  not restricted by it: DMA_MAP 6; DEVICE_GET_INFO 1; DEVICE_GET_REGION_INFO 7; "
        "DEVICE_GET_IRQ_INFO 1; REGION_READ 9; REGION_WRITE 9; DEVICE_SET_IRQS 3\n"
        "every step is allowed\n"
    )


def test_a_violation_in_a_capture_names_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = capture_of(
        tmp_path / "wire.jsonl",
        *HANDSHAKE,
        asks(1, FEATURE, state(3, SET)),
        expected(1, FEATURE, state(3, SET)),
        asks(2, FEATURE, state(6, SET)),
        expected(2, FEATURE, state(6, SET)),
    )
    assert main(["check-trace", path]) == 1
    wrong = f"{path}:6: violation: server: SET_STATE PRE_COPY is answered with success\n"
    assert wrong in capsys.readouterr().out


def test_a_malformed_reply_in_a_capture_is_a_violation_that_states_what_is_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = capture_of(
        tmp_path / "wire.jsonl",
        *HANDSHAKE,
        asks(1, GET_INFO, struct.pack("=IIII", 16, 0, 0, 0)),
        expected(1, GET_INFO, b"short"),
    )
    assert main(["check-trace", path]) == 1
    reported = capsys.readouterr().out
    assert f"{path}:4: violation: server: DEVICE_GET_INFO is answered with a reply that" in reported
    assert "5 bytes" in reported
    assert "  source: docs/interop/vfio-user.rst: VFIO_USER_DEVICE_GET_INFO\n" in reported


def test_the_habits_of_other_clients_are_not_held_against_the_server(tmp_path: Path) -> None:
    """SPDK: 4,064 bytes of payload. rust-vmm: argsz 32. Ids are used again before a reply comes."""
    long = struct.pack("=IIIIQQ", 4064, 0, 0, 0, 0, 0).ljust(4064, b"\0")
    region = struct.pack("=IIIIQQ", 32, 0, 0, 0, 0, 0)
    info = struct.pack("=IIII", 32, 0, 0, 0)
    capture = capture_of(
        tmp_path / "wire.jsonl",
        *HANDSHAKE,
        asks(1, REGION_INFO, long),
        expected(1, REGION_INFO, region),
        asks(1, GET_INFO, info),
        asks(1, GET_INFO, info),
        expected(1, GET_INFO, struct.pack("=IIII", 16, 2, 9, 5)),
        expected(1, GET_INFO, struct.pack("=IIII", 16, 2, 9, 5)),
        asks(7, 99, b"no command has this number"),
        fails(7, 99, 22),
        asks(8, FEATURE, b"?"),
        fails(8, FEATURE, 0),
        asks(9, RESET, flags=NO_REPLY),
    )
    assert found(capture) == []


def test_an_error_without_an_errno_in_a_capture_is_an_error(tmp_path: Path) -> None:
    capture = capture_of(
        tmp_path / "wire.jsonl",
        *HANDSHAKE,
        asks(1, FEATURE, state(3, SET)),
        expected(1, FEATURE, state(3, SET)),
        asks(2, FEATURE, state(6, SET)),
        fails(2, FEATURE, 0),
        asks(3, FEATURE, struct.pack("=II", 16, GET | DEVICE_STATE)),
        expected(3, FEATURE, state(3, GET)),
    )
    assert found(capture) == []


def test_an_error_reply_that_has_the_type_of_a_command_is_passed_over(tmp_path: Path) -> None:
    """rust-vmm 0.1.3 answers so; nothing is made of it."""
    capture = capture_of(
        tmp_path / "wire.jsonl",
        *HANDSHAKE,
        asks(1, RESET),
        ("server", message(1, RESET, ERROR)),
    )
    assert found(capture) == []


def test_the_relay_and_the_recording_of_one_connection_are_judged_alike(tmp_path: Path) -> None:
    out = tmp_path / "wire.jsonl"
    with (
        running(tmp_path, "a", habits.CLibrary) as server,
        relaying(server.path, out) as sock,
        Client(sock, name="src", spec=SPEC, timeout_s=20) as client,
    ):
        client.set_state("STOP_COPY")
        while client.read_data(3000, lambda _: None) == 3000:
            pass
        with pytest.raises(ClientError):
            client.reset()
        client.set_state("RUNNING")
        assert client.state() == "RUNNING"
    assert main(["check-trace", str(out)]) == 0
    assert found(str(out)) == [("suspicious", "reset_refused")]


def test_the_relay_states_who_ended_the_connection(tmp_path: Path) -> None:
    out = tmp_path / "wire.jsonl"
    with (
        running(tmp_path, "a", habits.DiesUponRead) as server,
        relaying(server.path, out) as sock,
        Client(sock, name="src", spec=SPEC, timeout_s=20) as client,
    ):
        client.set_state("STOP_COPY")
        with pytest.raises(ClientError):
            client.read_data(100, lambda _: None)
    assert found(str(out)) == [("suspicious", "ended_upon_command")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"from": "me", "message": ""}, 'from: "me": is neither "client" nor "server"'),
        ({"from": "client", "message": 7}, "message: 7: is not a string"),
        ({"from": "client", "message": "xy"}, "message: is not written in hexadecimal digits"),
        ({"from": "client", "message": "00" * 9}, "message: has 9 bytes, and a header 16"),
        (
            {"from": "client", "message": message(1, 4, 0)[:-1].hex() + "0000"},
            "message: has 17 bytes, and the size in its header is 16",
        ),
        (
            {"from": "client", "message": message(1, 13, 0).hex(), "descriptors": -1},
            "descriptors: -1: is not a number of descriptors",
        ),
    ],
)
def test_a_damaged_line_of_a_capture_is_named_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: dict[str, object], why: str
) -> None:
    path = Path(capture_of(tmp_path / "wire.jsonl", *HANDSHAKE))
    path.write_text(path.read_text("utf-8") + json.dumps(line) + "\n", "utf-8")
    assert main(["check-trace", str(path)]) == 2
    assert capsys.readouterr().err == f"vfio-migration: error: {path}: line 3: {why}\n"


@pytest.mark.exhaustive
@pytest.mark.parametrize("apart", sample([205, 41], 2))
def test_any_byte_of_a_capture_may_be_another(tmp_path: Path, apart: int) -> None:
    lines = QEMU.read_bytes().splitlines(keepends=True)[:20]
    text = b"".join(lines)
    path = tmp_path / "wire.jsonl"
    for at in range(0, len(text), apart):
        for other in (b"0", b"f", b'"', b"\xff"):
            path.write_bytes(text[:at] + other + text[at + 1 :])
            assert main(["check-trace", str(path)]) in (0, 1, 2)
