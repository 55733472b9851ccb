"""Whatever stands in a journal, a saved file, a recording or a claim, a command has a message."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import random
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import Ran

from support import samples
from support.hostile_value_server import PciPeer, serving
from support.recorded_runs import Log, running
from vfio_migration.model import load
from vfio_migration.runtime.coordinator.journal import Entry, Journal
from vfio_migration.runtime.transport.peer_process import Process

HELD = bytes(range(200))
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1 << 22, 1 << 31, 1 << 40, 1 << 63, 1 << 64, 10**400, 1.5, 1e308,
    "", "\0", "x" * 5000, "\ud800", "../..", "-x", "\x1b[2J\n", "s", "source", "STOP", "VERSION",
    [], [[]], [None], ["s"], {}, {"a": {}},
)  # fmt: skip
SAMPLE = 60
"""How many changes of a file are tried, besides those that were seen to fail."""
EXIT = (0, 1, 2, 3)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value in plain data."""
    rows = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in rows:
        yield (*place, key)
        if isinstance(value, dict | list):
            yield from places(value, (*place, key))


def put(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return the data with another value at a place."""
    changed = copy.deepcopy(data)
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return changed


def sample(data: Any, about: str) -> Iterator[tuple[str, Any]]:
    """Yield the data with each value taken away, and with some values put for others."""
    ways = list(places(data))
    for place in ways:
        changed = copy.deepcopy(data)
        inside = changed
        for key in place[:-1]:
            inside = inside[key]
        del inside[place[-1]]
        yield f"without {place}", changed
    every = [(place, value) for place in ways for value in VALUES]
    for place, value in random.Random(about).sample(every, min(SAMPLE, len(every))):
        yield f"{place}: {value!r:.40}", put(data, place, value)


def holds(ran: Ran, about: str) -> None:
    """Hold that it ended as is documented, with a message if the answer is no."""
    assert ran.status in EXIT, about
    assert "Traceback" not in ran.err, f"{about}\n{ran.err}"
    assert "Error:" not in ran.err, f"{about}\n{ran.err}"
    if ran.status and not ran.out:
        assert ran.err.startswith("vfio-migration: error: "), f"{about}\n{ran.err}"


def journal() -> dict[str, Any]:
    """The journal of a migration of `s` to `d`, as it would be."""
    served = Process.of(os.getpid())
    data = Journal(None, "live", (Entry("s", "d", served, served),)).to_data()
    return {**data, "asserted": ["no_peer_dma"]}


SEEN = [
    (("devices", 0, "source_process", "pid"), 1 << 40),
    (("devices", 0, "destination_process", "pid"), -1),
    (("devices", 0, "source_process", "started"), 10**400),
    (("devices", 0, "source_process", "unique"), 1 << 70),
    (("folder",), "\0"),
]
"""What was seen to be a traceback, and what is of its kind."""


def write_journal(data: Any) -> None:
    text = json.dumps(data).encode() + b"\n\0"
    Path("s.migration").write_bytes(text)
    Path("s.migration").chmod(0o600)


@pytest.mark.exhaustive
@pytest.mark.parametrize("keep", [(), ("--keep", "source")], ids=["", "keep"])
def test_every_value_of_a_journal_is_taken_or_refused_with_a_message(
    cli: Callable[..., Ran], keep: tuple[str, ...]
) -> None:
    whole = journal()
    cases = [(f"{place}: {value}", put(whole, place, value)) for place, value in SEEN]
    with serving(Path("s"), PciPeer(HELD)), serving(Path("d"), PciPeer(HELD)):
        for about, data in [*cases, *sample(whole, "journal")]:
            write_journal(data)
            holds(cli("recover", "s", "d", *keep, "--timeout", "1s"), about)
            for left in Path().glob("*.migration"):
                left.unlink()


def test_a_journal_with_a_pid_that_no_process_has_is_refused(cli: Callable[..., Ran]) -> None:
    """As reported: a pid of 2^40 was a traceback of os.pidfd_open."""
    write_journal(put(journal(), ("devices", 0, "source_process", "pid"), 1 << 40))
    ran = cli("recover", "s", "d")
    assert ran.status == 2
    assert "s.migration: this is not a journal of a migration, or it is damaged" in ran.err


@pytest.mark.parametrize(
    "text",
    [b"", b"\0", b"{}", b"[]", b"[" * 5000, b'{"format": NaN}', b"\xff" * 100, b"1" * 5000],
    ids=repr,
)
def test_what_is_no_journal_at_all_is_refused_with_a_message(
    cli: Callable[..., Ran], text: bytes
) -> None:
    Path("s.migration").write_bytes(text)
    Path("s.migration").chmod(0o600)
    ran = cli("recover", "s", "d")
    holds(ran, repr(text))
    assert ran.status == 2


TARGETS = {
    "itself": "s.migration",
    "a link that leads to it": "other",
    "a folder": ".",
    "the root": "/",
    "a device": "/dev/zero",
    "a long name": "x" * 300,
    "a long way": "/".join(["x" * 200] * 20),
    "a socket": "s",
    "the memory of a process": "/proc/self/mem",
    "what has no end": "/proc/self/pagemap",
    "relative": "../../etc/hostname",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_wherever_a_claim_leads_a_command_has_a_message(
    cli: Callable[..., Ran], target: str
) -> None:
    Path("other").symlink_to("s.migration")
    with serving(Path("s"), PciPeer(HELD)), serving(Path("d"), PciPeer(HELD)):
        for words in (
            ("recover", "s", "d"),
            ("recover", "s", "d", "--keep", "source"),
            ("migrate", "s", "d", "--dry-run"),
            ("migrate", "s", "d"),
            ("save", "s", "file"),
        ):
            Path("s.migration").unlink(missing_ok=True)
            Path("s.migration").symlink_to(target)
            holds(cli(*words, "--timeout", "1s"), str(words))
    assert Path("/dev/zero").exists()


def header(data: Any, rest: bytes) -> bytes:
    """A saved file with another header, its checksums all right."""
    text = json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")
    fields = struct.pack("<8sIII", b"VFIOSAVE", 1, len(text), zlib.crc32(text))
    body = fields + struct.pack("<I", zlib.crc32(fields)) + text + rest
    return body + hashlib.blake2b(body, digest_size=32).digest()


@pytest.mark.exhaustive
def test_every_value_of_the_header_of_a_saved_file_is_taken_or_refused_with_a_message(
    cli: Callable[..., Ran],
) -> None:
    with serving(Path("s"), PciPeer(HELD)):
        assert cli("save", "s", "saved").status == 0
    saved = Path("saved").read_bytes()
    length = struct.unpack_from("<I", saved, 12)[0]
    whole = json.loads(saved[24 : 24 + length])
    rest = saved[24 + length : -32]
    shapes = [
        (("devices", 0, "identity", "ids"), [1 << 70, -1]),
        (("devices", 0, "identity", "ids"), [True, False]),
        (("devices", 0, "identity", "regions"), [10**400] * 100),
        (("devices", 0, "identity", "irqs"), list(range(100_000))),
        (("devices", 0, "name"), "\x1b[2J"),
    ]
    cases = [(f"{place}: {value!r:.40}", put(whole, place, value)) for place, value in shapes]
    with serving(Path("d"), PciPeer(HELD)):
        for about, data in [*cases, *sample(whole, "header")]:
            Path("changed").write_bytes(header(data, rest))
            ran = cli("restore", "changed", "d", "--timeout", "1s")
            holds(ran, about)
            assert "\x1b" not in ran.err + ran.out, about


@pytest.mark.exhaustive
@pytest.mark.parametrize("how_many", samples.sample([2, 8], 2))
def test_every_value_of_a_recording_is_taken_or_refused_with_file_and_line(
    cli: Callable[..., Ran], how_many: int
) -> None:
    with serving(Path("s"), PciPeer(HELD)), serving(Path("d"), PciPeer(bytes(200))):
        assert cli("migrate", "s", "d", "--record", "run.jsonl").status == 0
    lines = [json.loads(line) for line in Path("run.jsonl").read_text("utf-8").splitlines()]
    chance = random.Random("recording")
    for number in [0, 1, *chance.sample(range(2, len(lines)), how_many)]:
        for about, data in list(sample(lines[number], f"line {number}"))[:: 3 if number else 1]:
            changed = [*lines[:number], data, *lines[number + 1 :]]
            text = "".join(json.dumps(line) + "\n" for line in changed)
            Path("changed.jsonl").write_text(text, "utf-8")
            ran = cli("check-trace", "changed.jsonl")
            holds(ran, f"line {number + 1}: {about}")
            if ran.status == 2:
                assert f"changed.jsonl: line {number + 1}" in ran.err or number == 0, about


def answer(place: os.stat_result) -> dict[str, Any]:
    """What a server reports at its status socket."""
    return {
        "status": 1,
        "socket": [place.st_dev, place.st_ino],
        "pid": os.getpid(),
        "serving_seconds": 1.5,
        "device": "edu",
        "spec": "vfio-v2",
        "capabilities": ["STOP_COPY"],
        "state": "RUNNING",
        "session": None,
        "client": {"number": 1, "pid": 1, "connected_seconds": 0.5},
        "connections": 1,
        "bytes_in": 0,
        "bytes_out": 0,
    }


@pytest.mark.exhaustive
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_every_value_of_a_status_answer_is_shown_or_refused_with_a_message(
    cli: Callable[..., Ran], form: tuple[str, ...]
) -> None:
    texts: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as served, socket.socket(socket.AF_UNIX) as listener:
        served.bind("s")
        listener.bind("s.status")
        listener.listen(1)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        sock.sendall(texts[0])

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        whole = answer(Path("s").stat())
        seen = [
            (("serving_seconds",), 10**400),
            (("client", "connected_seconds"), 10**400),
            (("client", "pid"), 1 << 70),
            (("pid",), 10**4000),
        ]
        cases = [(f"{place}: {value!r:.40}", put(whole, place, value)) for place, value in seen]
        for about, data in [*cases, *sample(whole, "status")]:
            texts[:] = [json.dumps(data).encode()]
            ran = cli("status", "s", *form)
            assert ran.status in EXIT, about
            assert "Traceback" not in ran.err, f"{about}\n{ran.err}"
            assert "\x1b" not in ran.out, about
        for text in (b'{"serving_seconds": NaN}', b"[" * 60_000, b"\0", b"", b"x" * (1 << 17)):
            texts[:] = [text]
            assert cli("status", "s", *form).status == 3
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


@pytest.mark.exhaustive
def test_every_value_of_a_log_is_taken_or_refused_with_file_and_line(
    cli: Callable[..., Ran],
) -> None:
    with Log().kept() as kept, running(load(), 7, Path("beside.jsonl"), name="src") as made:
        assert made.ask("PRE_COPY") == "EINVAL"
    lines = [json.loads(line) for line in kept.lines]
    for number in random.Random("log").sample(range(len(lines)), min(8, len(lines))):
        for about, data in list(sample(lines[number], f"log {number}"))[::3]:
            changed = [*lines[:number], data, *lines[number + 1 :]]
            Path("changed.log").write_text("".join(json.dumps(one) + "\n" for one in changed))
            holds(cli("check-trace", "changed.log"), f"line {number + 1}: {about}")
