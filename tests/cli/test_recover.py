"""`vfio-migration recover` as its users see it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from cli_support import BIG, SLOW, Gate, complains, masked, until

from support.migration_harness import FaultyMemory, Harness
from support.samples import sampled

SOURCE = "The source holds the whole state: the destination never ran on it, or was given up."
TAKEN = "The destination has taken the whole state over, and may have run."
HALF = "refuses what it was given, so it is reset"
JUDGED = ("RESUMING", "STOP")
STARTED = ("RUNNING_P2P", "RUNNING")
ANEW = "it has to be set up anew, or a save restored into it (vfio-migration restore)"
UNCLEAR = "there is no journal of a migration, and it is not known who is to run"
HINTS = (
    "  give the place of the journal: --journal FILE",
    "  or choose which side is to run, and the other is stopped: --keep source or --keep "
    "destination",
)
NOTHING = "    0.000 s  the destination runs: it runs, the source is stopped: nothing to do\n"


def start_served(harness: Harness, **states: str) -> None:
    """Lead devices to where they are to stand."""
    for name, state in states.items():
        harness.hosts[name].server.engine.set_state(state)


def killed(harness: Harness, start, where: dict[str, str], *more: str) -> None:
    """Kill a migration once all devices stand somewhere."""
    program = start("migrate", *(name for pair in harness.pairs for name in pair), *SLOW, *more)
    until(lambda: harness.states == where)
    program.signal(signal.SIGKILL)
    assert program.ends().status == -signal.SIGKILL


@pytest.fixture
def big(harness: Harness) -> Harness:
    """A device whose pre-copy takes longer than any test, with `SLOW`."""
    harness.serve("s0", FaultyMemory, size=BIG)
    harness.serve("d0", FaultyMemory, size=BIG)
    return harness


# --- after a migration that was killed ---


@sampled(2)
@pytest.mark.parametrize("named", [["s0", "d0"], ["s0"]])
def test_a_migration_that_was_killed(big: Harness, start, cli, named):
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"})
    assert Path("s0.migration").exists()
    ran = cli("recover", *named)
    assert (ran.status, ran.err) == (0, "")
    recorded = masked(ran.out).splitlines()
    assert recorded[0] == f"    0.000 s  recovering: {SOURCE}"
    assert recorded[-1] == "    0.000 s  the source runs"
    assert big.states == {"s0": "RUNNING", "d0": "STOP"}
    assert big.hosts["s0"].whole
    assert not Path("s0.migration").exists()


def test_it_is_quiet(big: Harness, start, cli):
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"})
    ran = cli("recover", "s0", "d0", "-q")
    assert (ran.status, ran.err) == (0, "")
    # A device with half a stream does not stop: it is reset.
    lines = (f"d0: {HALF}", f"the source runs: {SOURCE}")
    recorded = [f"    0.000 s  {line}\n" for line in lines]
    assert masked(ran.out) == "".join(recorded)


def test_it_is_json(big: Harness, start, cli):
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"})
    ran = cli("recover", "s0", "d0", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert {one["event"] for one in ran.events} == {
        "recovering",
        "phase",
        "refuses",
        "moved",
        "won",
    }
    last = ran.events[-1]
    del last["time"]
    assert last == {"event": "won", "outcome": "source", "why": SOURCE, "problems": []}


def test_again_and_again(big: Harness, start, cli):
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"})
    for _ in range(3):
        assert cli("recover", "s0", "d0").status == 0
        assert big.states == {"s0": "RUNNING", "d0": "STOP"}
        assert big.hosts["s0"].whole


def test_a_journal_elsewhere(big: Harness, start, cli):
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"}, "--journal", "elsewhere")
    assert Path("s0.migration").is_symlink()
    assert cli("recover", "s0", "d0").status == 0
    assert big.states == {"s0": "RUNNING", "d0": "STOP"}
    assert not [one for one in Path().iterdir() if one.suffix == ".migration"]
    assert not Path("elsewhere").exists()


def test_other_pairs_than_those_of_the_journal(big: Harness, start, cli):
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"}, "--journal", "elsewhere")
    big.serve("d1", FaultyMemory, size=BIG)
    before = big.states
    right = "  run: vfio-migration recover s0 d0"
    why = "d1: elsewhere records that s0 was migrated to d0"
    complains(cli("recover", "s0", "d1", "--journal", "elsewhere"), 2, why, right)
    why = "d1: is not a source of the migration in elsewhere"
    complains(cli("recover", "d1", "d0", "--journal", "elsewhere"), 2, why, right)
    assert big.states == before
    assert Path("elsewhere").exists()


@sampled(2)
@pytest.mark.parametrize("keep", [[], ["--keep", "destination"]])
@pytest.mark.parametrize("named", [["d0"], ["d0", "s0"]])
def test_a_destination_in_the_place_of_a_source(big: Harness, start, cli, named, keep):
    """It is refused, and what is reported to run decides it."""
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"})
    before = big.states
    where = Path("s0.migration").resolve()  # a destination has but a link to it
    ran = cli("recover", *named, *keep)
    right = " ".join(["vfio-migration recover s0 d0", *keep])
    complains(ran, 2, f"d0: is not a source of the migration in {where}", f"  run: {right}")
    assert big.states == before
    if not keep:
        assert cli(*right.split()[1:]).status == 0
        assert big.states == {"s0": "RUNNING", "d0": "STOP"}


def test_the_sources_of_several_devices(harness: Harness, start, cli):
    """One of them is enough; two would be a source and its destination."""
    gate = threading.Event()
    for number in (0, 1):
        harness.serve(f"s{number}")
        harness.serve(f"d{number}", gate={JUDGED: gate})
    program = start("migrate", "s0", "d0", "s1", "d1")
    until(lambda: set(harness.states.values()) == {"STOP_COPY", "RESUMING"})
    program.signal(signal.SIGKILL)
    program.ends()
    gate.set()
    ran = cli("recover", "s0", "s1")
    right = "  run: vfio-migration recover s0 d0 s1 d1"
    complains(ran, 2, "s1: s0.migration records that s0 was migrated to d0", right)
    assert cli("recover", "s1").status == 0
    assert not list(Path().glob("*.migration"))


def test_a_destination_that_was_started(harness: Harness, start, cli):
    gate = threading.Event()
    for number in (0, 1):
        harness.serve(f"s{number}")
        harness.serve(f"d{number}", gate={STARTED: gate} if number else None)
    program = start("migrate", "s0", "d0", "s1", "d1")
    until(lambda: harness.states["d0"] == "RUNNING" and harness.states["d1"] == "RUNNING_P2P")
    program.signal(signal.SIGKILL)
    program.ends()
    gate.set()
    # One source is enough to find the journal; it knows of the others.
    ran = cli("recover", "s0")
    assert (ran.status, ran.err) == (0, "")
    assert masked(ran.out).endswith("  the destination runs\n")
    assert harness.running == {"d0", "d1"}
    assert harness.hosts["d0"].whole
    assert harness.hosts["d1"].whole
    ran = cli("recover", "s0", "d0", "s1", "d1")
    assert (ran.status, masked(ran.out), ran.err) == (0, NOTHING, "")


@pytest.mark.parametrize("keep", ["source", "destination"])
def test_a_side_is_kept_whatever_the_journal_states(harness: Harness, start, cli, keep):
    gate = threading.Event()
    harness.serve("s0")
    harness.serve("d0", gate={STARTED: gate})
    program = start("migrate", "s0", "d0")
    until(lambda: harness.states == {"s0": "STOP_COPY", "d0": "RUNNING_P2P"})
    program.signal(signal.SIGKILL)
    program.ends()
    gate.set()
    ran = cli("recover", "s0", "d0", "--keep", keep, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.events[-1]["outcome"] == keep
    name = keep[0] + "0"
    assert harness.running == {name}
    assert harness.hosts[name].whole
    assert not Path("s0.migration").exists()


def test_a_side_that_has_ended_for_good(tmp_path, serve, start, cli):
    source, destination = (serve(name, f"memory,size={BIG}") for name in ("s0", "d0"))
    program = start("migrate", source.path, destination.path, *SLOW)
    until(lambda: "pre-copy" in program.out)
    program.signal(signal.SIGKILL)
    program.ends()
    destination.kill()
    ran = cli("recover", source.path, destination.path, "--keep", "source")
    assert (ran.status, ran.err) == (0, "")
    assert source.state == "RUNNING"
    assert not Path(f"{source.path}.migration").exists()


# --- without a journal ---


def test_there_was_nothing_to_recover(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0")
    assert cli("migrate", "s0", "d0", "-q").status == 0
    for _ in range(2):
        ran = cli("recover", "s0", "d0")
        assert (ran.status, masked(ran.out), ran.err) == (0, NOTHING, "")
    ran = cli("recover", "s0", "d0", "--json")
    assert ran.status == 0
    assert [(one["event"], one["outcome"]) for one in ran.events] == [("won", "destination")]
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}


@pytest.mark.parametrize("state", ["PRE_COPY", "STOP_COPY", "RUNNING_P2P", "RUNNING"])
def test_no_destination_runs(harness: Harness, cli, state):
    harness.serve("s0")
    harness.serve("d0")
    start_served(harness, s0=state, d0="RESUMING")
    assert cli("recover", "s0", "d0").status == 0
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert harness.hosts["s0"].whole


@pytest.mark.parametrize("state", ["PRE_COPY", "STOP_COPY", "RUNNING"])
def test_one_source_alone(harness: Harness, cli, state):
    """One that is stopped may have a destination that runs: the caller has to know."""
    harness.serve("s0")
    start_served(harness, s0=state)
    keep = []
    if state == "STOP_COPY":
        complains(cli("recover", "s0"), 2, f"{UNCLEAR}: s0 in {state}", *HINTS)
        assert harness.states == {"s0": state}
        keep = ["--keep", "source"]
    ran = cli("recover", "s0", *keep)
    assert (ran.status, ran.err) == (0, "")
    assert harness.states == {"s0": "RUNNING"}
    assert harness.hosts["s0"].whole


@pytest.mark.parametrize("state", ["RUNNING", "PRE_COPY", "STOP_COPY"])
def test_it_is_not_clear_who_is_to_run(harness: Harness, cli, state):
    harness.serve("s0")
    harness.serve("d0")
    start_served(harness, s0=state)
    before = harness.states
    complains(cli("recover", "s0", "d0"), 2, f"{UNCLEAR}: s0 in {state}, d0 in RUNNING", *HINTS)
    assert harness.states == before
    ran = cli("recover", "s0", "d0", "--json")
    (error,) = ran.events
    assert (ran.status, error["event"], error["outcome"]) == (2, "error", None)
    assert [f"  {hint}" for hint in error["hints"]] == list(HINTS)


def test_a_source_that_is_stopped_may_have_been_retired(harness: Harness, cli):
    """Its destination may have run since, and been stopped."""
    harness.serve("s0")
    harness.serve("d0")
    start_served(harness, s0="STOP", d0="STOP")
    complains(cli("recover", "s0", "d0"), 2, f"{UNCLEAR}: s0 in STOP, d0 in STOP", *HINTS)
    complains(cli("recover", "s0"), 2, f"{UNCLEAR}: s0 in STOP", *HINTS)
    assert harness.running == set()
    assert cli("recover", "s0", "--keep", "source").status == 0
    assert harness.running == {"s0"}
    assert harness.hosts["s0"].whole


@pytest.mark.parametrize("keep", ["source", "destination"])
def test_it_is_stated_who_is_to_run(harness: Harness, cli, keep):
    harness.serve("s0")
    harness.serve("d0")
    harness.hosts["d0"].fill()
    for _ in range(2):
        assert cli("recover", "s0", "d0", "--keep", keep).status == 0
        assert harness.running == {keep[0] + "0"}
        assert harness.hosts[keep[0] + "0"].whole


def test_a_destination_that_nobody_named(harness: Harness, cli):
    harness.serve("s0")
    start_served(harness, s0="STOP")
    ran = cli("recover", "s0", "--keep", "destination")
    complains(ran, 2, "--keep destination: which one is not known: give SRC DST")
    assert harness.states == {"s0": "STOP"}


def test_nobody_serves(harness: Harness, cli):
    harness.serve("s0")
    why = "d0: nobody serves there: No such file or directory"
    why += ", and there is no journal of a migration"
    complains(cli("recover", "s0", "d0"), 2, why, *HINTS)
    assert cli("recover", "s0", "d0", "--keep", "source").status == 0
    assert harness.running == {"s0"}


# --- wrong input ---


def test_sockets_that_make_no_pairs(cli):
    complains(cli("recover", "a", "b", "c"), 2, "c: has no DST: give SRC DST [SRC DST ...]")
    why = "a: is named twice; each socket is one end of one device"
    complains(cli("recover", "a", "b", "a", "c"), 2, why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "this is not a journal of a migration, or it is damaged"),
        ("{}", "this is not a journal of a migration, or it is damaged"),
        ('{"format": 2, "holder": "source", "devices": []}', "format 2 and holder source"),
    ],
)
def test_a_journal_that_is_damaged(harness: Harness, cli, text, why):
    harness.serve("s0")
    Path("s0.migration").write_text(text)
    ran = cli("recover", "s0")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"vfio-migration: error: s0.migration: {why}")
    assert ran.err.endswith(
        "\n  choose which side is to run: --keep source or --keep destination\n"
    )


def test_a_side_is_kept_though_the_journal_is_damaged(harness: Harness, cli):
    """The message states that this helps."""
    harness.serve("s0")
    harness.serve("d0")
    start_served(harness, s0="STOP_COPY", d0="RESUMING")
    Path("s0.migration").write_text("damaged")
    assert cli("recover", "s0", "d0", "--keep", "source").status == 0
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}


def test_a_journal_that_cannot_be_written(big: Harness, start, cli):
    """A journal that cannot be removed is stated, and is no reason not to bring anybody back."""
    Path("folder").mkdir()
    killed(big, start, {"s0": "PRE_COPY", "d0": "RESUMING"}, "--journal", "folder/journal")
    Path("folder").chmod(0o555)
    arguments = ("recover", "s0", "d0", "--journal", "folder/journal")
    ran = start(*arguments, override=False).ends()
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.endswith("  folder/journal: the journal cannot be removed: Permission denied\n")
    Path("folder").chmod(0o755)
    assert cli(*arguments).status == 0
    assert big.states == {"s0": "RUNNING", "d0": "STOP"}


# --- what cannot be brought back ---


def test_a_server_that_hangs(harness: Harness, start, cli):
    gate = Gate()
    harness.serve("s0", FaultyMemory, size=BIG, gate={("PRE_COPY", "RUNNING"): gate})
    harness.serve("d0", FaultyMemory, size=BIG)
    killed(harness, start, {"s0": "PRE_COPY", "d0": "RESUMING"})
    first = start("recover", "s0", "d0")
    until(gate.hangs.is_set)
    assert harness.states["d0"] == "STOP"
    first.signal(signal.SIGINT)
    ran = first.ends()
    assert ran.status == 130
    why = "interrupted: it may not have come to its end"
    again = "run it again; nothing is lost by that"
    assert ran.err == f"vfio-migration: error: {why}\n  {again}\n"
    ran = cli("recover", "s0", "d0", "--timeout", "300ms")
    assert ran.status == 3
    assert ran.err == (
        "vfio-migration: error: s0: does not answer, and its process is there: it may still hold "
        "the state (it is not known who runs)\n"
        "  s0: VERSION is not answered; does it serve another client?\n"
        "  run it again; nothing is lost by that\n"
    )
    gate.set()
    assert cli("recover", "s0", "d0").status == 0
    assert harness.running == {"s0"}


@sampled(2)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_the_state_is_lost(form, tmp_path, serve, start, cli):
    source, destination = (serve(name, f"memory,size={BIG}") for name in ("s0", "d0"))
    program = start("migrate", source.path, destination.path, *SLOW)
    until(lambda: "pre-copy" in program.out)
    program.signal(signal.SIGKILL)
    program.ends()
    source.kill()
    why = f"{source.path}: held the state, and cannot be reached any more"
    then = [
        f"{source.path}: nobody serves there: Connection refused",
        f"{destination.path}: is stopped in STOP and is blank; it can be migrated to again",
        f"start the server of {source.path} anew: it is blank; {ANEW}",
    ]
    ran = cli("recover", source.path, destination.path, *form)
    assert ran.status == 1
    if form:
        assert ran.err == ""
        assert [one["outcome"] for one in ran.events if "outcome" in one] == ["lost", "lost"]
        last = ran.events[-1]
        assert (last["event"], last["message"], last["hints"]) == ("error", why, then)
    else:
        recorded = [line[13:] for line in masked(ran.out).splitlines()]
        assert (recorded[0], recorded[-1]) == (f"recovering: {why}", "nobody holds the whole state")
        lines = [f"vfio-migration: error: {why} (the state is lost)", *(f"  {one}" for one in then)]
        assert ran.err.splitlines() == lines
    assert destination.state == "STOP"
    assert not Path(f"{source.path}.migration").exists()
    # What was stated is so.
    serve("s0", f"memory,size={BIG}")
    ran = cli("migrate", source.path, destination.path, "-q")
    assert (ran.status, ran.err) == (0, "")
    assert destination.state == "RUNNING"


def test_of_two_sources_one_is_lost(tmp_path, serve, start, cli):
    sources, destinations = (
        [serve(f"{side}{number}", f"memory,size={BIG}") for number in (0, 1)] for side in "sd"
    )
    paths = [one.path for pair in zip(sources, destinations, strict=True) for one in pair]
    program = start("migrate", *paths, *SLOW)
    until(lambda: "pre-copy" in program.out)
    program.signal(signal.SIGKILL)
    program.ends()
    sources[1].kill()
    ran = cli("recover", *paths)
    assert ran.status == 1
    still = "is stopped in STOP and is blank; it can be migrated to again"
    assert ran.err.splitlines()[2:] == [
        *(f"  {one.path}: {still}" for one in destinations),
        f"  {sources[0].path}: runs with what it held, without the rest",
        f"  start the server of {sources[1].path} anew: it is blank; {ANEW}",
    ]
    assert [one.state for one in (sources[0], *destinations)] == ["RUNNING", "STOP", "STOP"]


def test_the_state_is_lost_and_the_source_was_started_anew(tmp_path, serve, start, cli):
    source, destination = (serve(name, f"memory,size={BIG}") for name in ("s0", "d0"))
    program = start("migrate", source.path, destination.path, *SLOW)
    until(lambda: "pre-copy" in program.out)
    source.kill()
    ran = program.ends()
    assert ran.status == 1
    lines = ran.err.splitlines()[1:]
    # A process that is being ended may still take a connection, and close it then.
    assert lines.pop(1) in (
        f"  {source.path}: nobody serves there: Connection refused",
        f"  {source.path}: the connection has ended: the server closed its end",
    )
    assert lines == [
        f"  {source.path}: held the state, and cannot be reached any more",
        f"  {destination.path}: is stopped in STOP and is blank; it can be migrated to again",
        f"  start the server of {source.path} anew: it is blank; {ANEW}",
        f"  once it can be reached run: vfio-migration recover {source.path} {destination.path}",
    ]
    anew = serve("s0", f"memory,size={BIG}")
    ran = cli("recover", source.path, destination.path, "-q")
    why = f"{source.path}: held the state, and the server that answers has a blank device"
    assert ran.status == 1
    assert ran.err.splitlines() == [
        f"vfio-migration: error: {why} (the state is lost)",
        f"  {destination.path}: is stopped in STOP; it can be migrated to again",
        f"  {source.path}: runs and is blank; {ANEW}",
    ]
    assert (anew.state, destination.state) == ("RUNNING", "STOP")
    assert cli("migrate", source.path, destination.path, "-q").status == 0
