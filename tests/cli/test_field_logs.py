"""Logs of other programs: each is recognised, and the first illegal step in it is found."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from support import strace_log
from support.field_log_samples import (
    FOLDER,
    ILLEGAL,
    LIFE,
    SPEC,
    WRITERS,
    Asked,
    ftrace,
    libvfio_user,
    qemu,
    qmp,
    samples,
    spdk,
    walk,
)
from support.wrong_servers import AcceptsStopCopyToPreCopy
from vfio_migration.cli.commands.check_trace import FORMATS, Result, check
from vfio_migration.cli.main import main
from vfio_migration.model import SpecError
from vfio_migration.model.field_logs.table import load_field_logs
from vfio_migration.runtime.protocol.layout import FEATURE_GET, FEATURE_SET, WIRE

LOGS = load_field_logs()
NAMES = [row.name for row in LOGS.formats]
STATES = [row.name for row in SPEC.states]
BOTH = SPEC.machine(7)


def looked_at(
    lines: Iterable[str] | bytes, name: str | None = None, flags: int | None = 7
) -> Result:
    """Return what comes of a log, of devices with all capabilities."""
    text = lines if isinstance(lines, bytes) else "".join(f"{one}\n" for one in lines).encode()
    given = None if flags is None else SPEC.capability_set(flags)
    return check(io.BytesIO(text), SPEC, given, "LOG", name)


def violations(result: Result) -> list[tuple[int, str]]:
    """Return the line of each violation, and its check."""
    return [(one.place, one.finding.check) for one in result.graded("violation")]


# --- the samples ---


def test_the_samples_are_what_the_format_strings_make() -> None:
    made = samples()
    for file, text in made.items():
        assert (FOLDER / file).read_text("utf-8") == text, file
    there = {path.name for path in FOLDER.glob("*.log")}
    real = {f"strace-{kind}.log" for kind in ("allowed", "illegal", "ioctl")} | REAL.keys()
    assert there == made.keys() | real


REAL = {
    "qemu-real.log": {"resets": 1},
    "ftrace-real.log": {
        "capabilities returned": 1,
        "resets": 3,
        "states returned": 25,
        "steps": 26,
        "requests for a state": 23,
    },
}


@pytest.mark.parametrize("file", REAL)
def test_what_qemu_and_linux_really_wrote_passes(file: str) -> None:
    result = looked_at((FOLDER / file).read_bytes(), flags=None)
    assert result.graded("violation") == []
    assert (dict(result.held), result.unknown_lines) == (REAL[file], 0)


def test_each_answer_of_linux_that_is_turned_around_is_found() -> None:
    lines = (FOLDER / "ftrace-real.log").read_text("utf-8").splitlines()
    turned = 0
    for at, line in enumerate(lines):
        other = line.replace("next=0 ret=-22", "next=1 ret=0")
        if other == line and "vfio_next_state" in line:
            other = re.sub(r"next=\d ret=0", "next=0 ret=-22", line)
        if other != line:
            changed = [*lines[:at], other, *lines[at + 1 :]]
            assert violations(looked_at(changed, flags=None))[0][0] == at + 1
            turned += 1
    assert turned == REAL["ftrace-real.log"]["steps"]


@pytest.mark.parametrize("name", NAMES)
def test_a_log_is_recognised_and_one_without_an_illegal_step_passes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-trace", str(FOLDER / f"{name}-allowed.log"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kind"], answer["holds"], answer["findings"]) == (name, True, [])
    assert sum(answer["held"].values()) >= 4
    assert answer["unknown"]["lines"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_first_illegal_step_of_a_log_is_found(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = FOLDER / f"{name}-illegal.log"
    assert main(["check-trace", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["violation"]
    assert found["check"] in ("refusal_succeeds", "step_unknown")
    assert "STOP_COPY" in found["situations"]
    assert "PRE_COPY" in found["step"]
    # The line in which PRE_COPY is reached from STOP_COPY, and not the one before or after.
    line = path.read_text("utf-8").splitlines()[found["line"] - 1]
    assert re.search(LAST_ILLEGAL[name], line), line


LAST_ILLEGAL = {
    "qemu": r"set_device_state .* state PRE_COPY$",
    "qmp": r'"pre-copy"',
    "libvfio-user": "transition to device state 3$",
    "spdk": "migration state 3$",
    "ftrace": "cur=3 new=6 next=6 ret=0$",
    "strace": r"recvfrom\(3, \"\\3\\0\\20",
}


@pytest.mark.parametrize("write", [qemu, qmp, ftrace], ids=lambda one: one.__name__)
def test_of_every_pair_of_states_what_the_table_refuses_is_found(write: Any) -> None:
    pairs = [
        (from_, target)
        for from_, target in itertools.product(STATES, STATES)
        if "ERROR" not in (from_, target) and from_ != target
    ]
    asked = [
        [*walk("RUNNING", from_, device=at), Asked(from_, target, _path(from_, target), None, at)]
        for at, (from_, target) in enumerate(pairs)
    ]
    result = looked_at(write(itertools.chain(*asked)))
    found = {one.finding.device for one in result.graded("violation")}
    refused = {at for at, pair in enumerate(pairs) if BOTH.route(*pair).refused}
    assert len(refused) == 2
    named = {
        qemu: ("0000:0{}:00.0",),
        qmp: ("/machine/peripheral/v{}",),
        ftrace: ("0xffff9d3a4122{:04x}", "0xffff9d3a4177{:04x}"),
    }[write]
    assert found == {
        name.format(at + 1 if write is qemu else at) for name in named for at in refused
    }


def _path(from_: str, target: str) -> tuple[str, ...]:
    route = BOTH.route(from_, target)
    return (target,) if route.refused else tuple(arc.to for arc in route.arcs)


@pytest.mark.parametrize("write", [libvfio_user, spdk], ids=lambda one: one.__name__)
def test_of_every_pair_of_states_a_step_that_is_no_arc_is_found(write: Any) -> None:
    machine = SPEC.machine(5)  # the library knows no P2P
    states = [row for row in STATES if machine.supports(row) and row != "ERROR"]
    pairs = [pair for pair in itertools.product(states, states) if pair[0] != pair[1]]
    asked = [
        [*walk("RUNNING", "STOP", from_, flags=5, device=at), Asked(from_, to, (to,), None, at)]
        for at, (from_, to) in enumerate(pairs)
    ]
    result = looked_at(write(itertools.chain(*asked)), flags=5)
    found = {one.finding.device for one in result.graded("violation")}
    none = {at for at, pair in enumerate(pairs) if machine.arc(*pair) is None}
    name = "server[{}]" if write is libvfio_user else "/var/run/vm{}"
    assert found == {name.format(at + 4711 if write is libvfio_user else at) for at in none}
    assert none


# --- what each program does besides ---


def test_qemu_recovers_from_a_request_that_failed() -> None:
    lines = qemu([*walk("RUNNING", "PRE_COPY"), Asked("PRE_COPY", "STOP_COPY", (), "EIO")])
    assert violations(looked_at([*lines, *qemu(walk("RUNNING", "PRE_COPY", "STOP_COPY"))])) == []


def test_qemu_asks_for_the_state_that_a_device_is_in_and_nothing_is_printed_of_it() -> None:
    lines = [*qemu(walk("RUNNING", "STOP", "STOP", "STOP", "STOP_COPY", "STOP"))]
    assert violations(looked_at(lines)) == []


def test_qemu_resets_a_device_whose_state_could_not_be_set() -> None:
    name = "(0000:01:00.0)"
    lines = [
        f"vfio_migration_set_device_state  {name} state STOP_COPY",
        f"vfio_migration_set_state  {name} new state STOP, recover state ERROR",
        f"vfio_migration_set_device_state  {name} state RUNNING",
        f"vfio_migration_set_state  {name} new state PRE_COPY, recover state RUNNING",
        f"vfio_migration_set_device_state  {name} state PRE_COPY",
    ]
    assert violations(looked_at(lines)) == []
    assert violations(looked_at([lines[0], lines[4]])) == [(2, "refusal_succeeds")]


def test_qemu_before_9_2_prints_a_state_when_it_is_reached() -> None:
    states = ("RUNNING", "STOP_COPY", "PRE_COPY")
    lines = [f"1@2.3:vfio_migration_set_state  (v) state {state}" for state in states]
    assert violations(looked_at(lines)) == [(3, "refusal_succeeds")]


def test_the_capabilities_that_qemu_prints_count() -> None:
    lines = [
        "vfio_migration_init  (v) mig_flags 0x1, precopy_info_v2_used 0, dirty_pages_supported 0",
        "vfio_migration_set_device_state  (v) state PRE_COPY",
    ]
    assert violations(looked_at(lines, flags=None)) == [(2, "refusal_succeeds")]


def test_a_state_to_prepare_for_may_never_be_reached() -> None:
    lines = [*qmp(walk("RUNNING", "PRE_COPY"))]
    prepare = lines[1].replace('"pre-copy"', '"pre-copy-p2p-prepare"')
    back = lines[1].replace('"pre-copy"', '"running"')
    assert prepare != lines[1]
    result = looked_at([*lines, prepare, back])
    assert (violations(result), result.unknown_lines) == ([], 0)
    assert result.held["states reached"] == 2


def test_a_step_of_libvfio_user_that_failed_leaves_the_device_where_it_was() -> None:
    failed = Asked("PRE_COPY", "STOP_COPY", ("STOP_COPY",), "EIO")
    again = walk("PRE_COPY", "RUNNING", "PRE_COPY", flags=5)
    for write in (libvfio_user, spdk):
        lines = [*write([*walk("RUNNING", "PRE_COPY", flags=5), failed, *again])]
        assert violations(looked_at(lines, flags=5)) == []
        silent = [line for line in lines if "failed" not in line]
        assert [check for _, check in violations(looked_at(silent, flags=5))] == ["step_unknown"]


def test_libvfio_user_reports_the_state_in_which_it_refuses_to_read() -> None:
    lines = [*libvfio_user(walk("RUNNING", "PRE_COPY", flags=5))]
    refused = "server[4711]: bad migration state to read data: {}"
    assert violations(looked_at([*lines, refused.format(6)], flags=5)) == []
    assert violations(looked_at([*lines, refused.format(2)], flags=5)) == [(4, "state_moved")]


def test_what_ends_a_connection_is_not_followed_by_an_accusation() -> None:
    lines = [*libvfio_user(walk("RUNNING", "PRE_COPY", "STOP_COPY", flags=5))]
    ended = "server[4711]: vfu_reset_ctx: Connection reset by peer"
    lines += [ended, *libvfio_user(walk("RUNNING", "PRE_COPY", flags=5))]
    assert violations(looked_at(lines, flags=5)) == []


def test_a_log_of_version_1_is_held_against_the_table_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = "ep: migration: transitioned from state {} to state {}\n"
    path.write_text(line.format("running", "stop-and-copy") + line.format("x", "resuming"), "utf-8")
    assert main(["check-trace", str(path), "--spec", "linux-v1"]) == 1
    path.write_text(line.format("x", "running") + line.format("running", "stop-and-copy"), "utf-8")
    assert main(["check-trace", str(path), "--spec", "linux-v1"]) == 0
    assert main(["check-trace", str(path)]) == 1


# --- Linux ---


def steps(
    *about: tuple[int, int, int, int], before: str = "vfio_next_state: (x <- y)"
) -> list[str]:
    names = ("cur", "new", "next", "ret")
    return [
        f"  a b-7  [000] ..... 1.000000: {before} device=0xff "
        + " ".join(f"{name}={value}" for name, value in zip(names, one, strict=True))
        for one in about
    ]


def test_the_next_state_that_linux_chooses_is_held_against_the_path() -> None:
    assert violations(looked_at(steps((2, 4, 5, 0), (5, 4, 1, 0), (1, 4, 4, 0)))) == []
    assert violations(looked_at(steps((2, 4, 1, 0)))) == [(1, "step_off_path")]
    assert violations(looked_at(steps((3, 6, 0, -22)))) == []
    assert violations(looked_at(steps((2, 6, 0, -22)))) == [(1, "step_refused")]
    assert violations(looked_at(steps((3, 6, 6, 0)))) == [(1, "refusal_succeeds")]
    assert violations(looked_at(steps((2, 9, 6, 0)))) == [(1, "refusal_succeeds")]


def test_a_reset_that_linux_does_not_show_is_no_violation() -> None:
    assert violations(looked_at(steps((2, 6, 6, 0), (2, 6, 6, 0)))) == []
    assert violations(looked_at(steps((2, 6, 6, 0), (3, 1, 1, 0)))) == [(2, "state_moved")]


def test_what_linux_lost_may_be_anything() -> None:
    lines = steps((2, 6, 6, 0), (3, 1, 1, 0))
    assert violations(looked_at([lines[0], "CPU:1 [LOST 12 EVENTS]", lines[1]])) == []


def test_calls_of_linux_before_6_9_are_put_together_by_their_thread() -> None:
    def call(task: int, device: int, cur: int, new: int) -> str:
        return (
            f" vmm-{task} [001] d..1. 1.0: vfio_next_state_call: (vfio_mig_get_next_state+0x0/0x1) "
            f"device=0x{device:x} cur={cur} new={new}"
        )

    def returned(task: int, ret: int) -> str:
        return f" vmm-{task} [000] d..1. 1.0: vfio_next_state_ret: (x <- y) ret={ret}"

    lines = [call(1, 1, 2, 6), call(2, 2, 3, 6), returned(1, 0), returned(2, 0)]
    [(line, check)] = violations(looked_at(lines))
    assert (line, check) == (4, "refusal_succeeds")
    assert violations(looked_at([returned(1, 0), *lines[:3], returned(2, -22)])) == []


def test_the_ioctls_of_linux_are_requests_states_capabilities_and_resets() -> None:
    head = "a-1 [000] ..... 1.0: vfio_ioctl: (x <- y) file=0xf"
    about = head + " cmd={} argsz=16 flags={} state={} ret={}"
    asked = [(0x3B75, FEATURE_SET | 2, 3, 0), (0x3B75, FEATURE_SET | 2, 6, -22)]
    lines = [about.format(hex(cmd), hex(flags), state, ret) for cmd, flags, state, ret in asked]
    got = about.format("0x3b75", hex(FEATURE_GET | 2), 3, 0)
    words = about.format("0x3b75", hex(FEATURE_GET | 1), 7, 0)
    reset = about.format("0x3b6f", "(fault)", "(fault)", 0)
    again = about.format("0x3b75", hex(FEATURE_GET | 2), 2, 0)
    result = looked_at([words, *lines, got, reset, again], flags=None)
    assert violations(result) == []
    assert result.held == {
        "requests for a state": 2,
        "states returned": 2,
        "capabilities returned": 1,
        "resets": 1,
    }
    stale = looked_at([words, *lines, got, reset, got], flags=None)
    assert violations(stale) == [(6, "state_after_reset")]


def test_the_numbers_in_the_table_are_those_of_the_wire() -> None:
    moves = next(row for row in WIRE.features if row.moves)
    assert (FEATURE_SET | moves.number, FEATURE_GET | moves.number) == (0x20002, 0x10002)
    assert WIRE.command(13) is not None
    assert {"reset"} == {row.does for row in WIRE.commands if row.number == 13}


# --- strace ---


def test_an_ioctl_whose_argument_strace_does_not_show_is_counted_and_held_against_nobody() -> None:
    result = looked_at((FOLDER / "strace-ioctl.log").read_bytes(), flags=None)
    assert result.unrestricted == {"changes that are not shown": 1}
    assert [one.finding.check for one in result.graded("suspicious")] == ["reset_refused"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_what_strace_really_writes_of_a_client_is_read(tmp_path: Path) -> None:
    strace_log.of_a_client(tmp_path / "log", AcceptsStopCopyToPreCopy, tmp_path)
    result = looked_at((tmp_path / "log").read_bytes())
    assert [check for _, check in violations(result)] == ["refusal_succeeds"]
    assert result.held["requests for a state"] == 4


def test_a_call_that_strace_interrupts_is_put_together() -> None:
    lines = (FOLDER / "strace-illegal.log").read_text("utf-8").splitlines()
    pid = lines[0].split()[0]
    cut = []
    for line in lines:
        head, call, tail = line.partition('"\\')
        if call and "(" in head:
            name = head.split()[1].partition("(")[0]
            cut += [
                f"{head} <unfinished ...>",
                "7 close(3) = 0",
                f"{pid} <... {name} resumed>{call}{tail}",
            ]
        else:
            cut.append(line)
    found = violations(looked_at(cut))
    assert [check for _, check in found] == ["refusal_succeeds"]


def test_a_descriptor_that_is_another_file_by_now_is_not_taken_for_the_connection() -> None:
    lines = (FOLDER / "strace-illegal.log").read_text("utf-8").splitlines()
    pid = lines[0].split()[0]
    at = next(n for n, line in enumerate(lines) if "STOP_COPY" in line or n > 10)
    other = [
        f"{pid} close(3) = 0",
        f'{pid} read(3, "\\177ELF\\2\\1\\1\\3\\0\\0\\0\\0\\0\\0\\0\\0\\3\\0", 832) = 832',
    ]
    assert violations(looked_at([*lines[:at], *other])) == []


def test_a_message_of_which_strace_shows_too_little_names_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    whole = (FOLDER / "strace-allowed.log").read_text("utf-8")
    begun, _, rest = whole.partition('sendto(3, "\\1\\0\\20')
    line = 'sendto(3, "\\1\\0\\20\\0"..., 32, MSG_NOSIGNAL, NULL, 0) = 32\n'
    path.write_text(begun + line + rest.partition("\n")[2], "utf-8")
    assert main(["check-trace", str(path)]) == 2
    assert "have strace show more of it: -s 64" in capsys.readouterr().err


def test_a_message_that_claims_a_size_that_nobody_has_ends_what_is_known() -> None:
    whole = (FOLDER / "strace-illegal.log").read_text("utf-8").splitlines()
    at = next(n for n, line in enumerate(whole) if " sendto(3, " in line and n > 10)
    for claim in ("4294967295", "99999999999999"):
        torn = re.sub(r" = \d+$", f" = {claim}", whole[at])
        result = looked_at([*whole[:at], torn, *whole[at + 1 :]])
        assert violations(result) == []
        assert result.held["disconnections"] >= 1


# --- logs that are damaged ---


@pytest.mark.parametrize("name", NAMES)
def test_a_log_that_is_cut_anywhere_accuses_nobody_who_is_not_guilty(name: str) -> None:
    whole = (FOLDER / f"{name}-illegal.log").read_bytes()
    guilty = violations(looked_at(whole, name, None))[0][0]
    end = sum(len(line) for line in whole.splitlines(keepends=True)[:guilty])
    for at in range(0, len(whole), 61):
        found = violations(looked_at(whole[:at], name, None)) if at else []
        assert bool(found) == (at >= end), at
    allowed = (FOLDER / f"{name}-allowed.log").read_bytes()
    for at in range(1, len(allowed) - 1, 61):
        assert violations(looked_at(allowed[at:], name, None)) == [], at


@pytest.mark.parametrize("name", NAMES)
def test_lines_that_end_in_crlf_and_bytes_that_are_no_text_change_nothing(name: str) -> None:
    whole = (FOLDER / f"{name}-illegal.log").read_bytes()
    guilty = violations(looked_at(whole, None, None))
    assert violations(looked_at(whole.replace(b"\n", b"\r\n"), None, None)) == guilty
    dirty = b"".join(b"\xff\xfe\x00\n" + line for line in whole.splitlines(keepends=True))
    result = looked_at(dirty, None, None)
    assert [check for _, check in violations(result)] == [check for _, check in guilty]
    assert result.unknown_lines == whole.count(b"\n")


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "ftrace"])
@pytest.mark.parametrize("seed", range(3))
def test_several_devices_in_one_log_are_held_each_for_itself(name: str, seed: int) -> None:
    draw = random.Random(seed)
    logs = [
        list(WRITERS[name]([one._replace(device=device) for one in asked]))
        for device, asked in enumerate((LIFE, ILLEGAL, LIFE))
    ]
    mixed = []
    while any(logs):
        mixed.append(draw.choice([log for log in logs if log]).pop(0))
    guilty = {one.finding.device for one in looked_at(mixed, name, None).graded("violation")}
    alone = [one._replace(device=1) for one in ILLEGAL]
    only = {one.finding.device for one in looked_at(WRITERS[name](alone)).graded("violation")}
    assert guilty == only
    assert len(guilty) == 1


def test_a_line_that_is_damaged_in_the_middle_is_counted_and_ends_what_is_known() -> None:
    lines = [*qemu(walk("RUNNING", "STOP_COPY"))]
    torn = "4711@1.0:vfio_migration_set_device_state  (0000:01:00.0) state STOP4711@2.0:vfio_x"
    later = "4711@2.0:vfio_migration_set_device_state  (0000:01:00.0) state PRE_COPY"
    assert [check for _, check in violations(looked_at([*lines, later]))] == ["refusal_succeeds"]
    result = looked_at([*lines, torn, later])
    assert (violations(result), result.unknown_lines) == ([], 1)
    assert result.unknown == {4: torn}


def test_a_line_of_no_known_kind_is_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "q.log"
    lines = [f"kernel: message {n}" for n in range(5)] + [*qemu(LIFE)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    assert main(["check-trace", str(path)]) == 0
    shown = capsys.readouterr().out
    assert (
        "  of no known kind: 5 lines, the first of them:\n"
        "    1: kernel: message 0\n    2: kernel: message 1\n    3: kernel: message 2\n"
    ) in shown


def test_a_log_in_which_nothing_is_stated_is_neither_right_nor_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_text("vfio_pci_reset  (x)\n", "utf-8")
    assert main(["check-trace", str(path), "--format", "qemu"]) == 3
    assert capsys.readouterr().out.endswith("unknown: no line states what a device did\n")
    assert main(["check-trace", str(path), "--format", "qemu", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["holds"] is None


def test_a_format_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check-trace", "log", "--format", "ftrac"])
    assert "invalid choice: 'ftrac'" in capsys.readouterr().err


def test_text_that_is_no_log_is_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\n", "utf-8")
    assert main(["check-trace", str(path)]) == 2
    assert "--format names whose" in capsys.readouterr().err


def test_a_line_without_an_end_is_refused() -> None:
    line = b"4711@1.0:vfio_migration_set_device_state  (v) state " + b"A" * (2 << 20)
    for text in (line, b"x\n" + line):
        with pytest.raises(SpecError, match="is longer than"):
            looked_at(text, "qemu")


def test_names_as_many_as_a_log_likes_are_followed_in_bounded_memory() -> None:
    lines = (
        f"vfio_migration_set_state  (v{n}) new state STOP, recover state ERROR" for n in range(3000)
    )
    assert violations(looked_at(lines)) == []


# --- the table ---


def test_the_table_names_states_formats_and_kinds_of_devices_that_there_are() -> None:
    for row in LOGS.words:
        assert {state for _, state in row.words} <= set(STATES), row.spelling
    for line in LOGS.lines:
        assert line.match("") is None
        assert line.source
    assert {name for line in LOGS.lines for name in line.formats} == set(NAMES)


def test_the_command_line_has_every_format_of_the_table() -> None:
    assert list(FORMATS) == NAMES
