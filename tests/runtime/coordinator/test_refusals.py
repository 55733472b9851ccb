"""What is refused before anything is begun: nothing has been touched, and the reason is stated."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from support.migration_harness import SPEC, FaultyEdu, FaultyMemory, Harness
from support.samples import sampled
from vfio_migration.model import UnknownNameError
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import CannotMigrateError, Coordinator
from vfio_migration.runtime.coordinator import journal as journals
from vfio_migration.runtime.protocol.messages.features import (
    DeviceFeature,
    DeviceFeatureReply,
    FeatureMigration,
)

MIGRATION = 1


def refused(harness: Harness, **options) -> CannotMigrateError:
    """Migrate; it must be refused, and nothing be changed by it."""
    arcs, states = list(harness.arcs), harness.states
    before = {path.name for path in Path().iterdir()}
    with pytest.raises(CannotMigrateError) as refusal:
        harness.coordinator(**options).run()
    assert (harness.arcs, harness.states) == (arcs, states)
    assert {path.name for path in Path().iterdir()} == before
    return refusal.value


def pair(harness: Harness, **options) -> None:
    for name in ("s0", "d0"):
        harness.serve(name, **options)


def move(name: str, *states: str) -> None:
    with Client(Path(name)) as client:
        for state in states:
            client.set_state(state)


def capabilities(harness: Harness, name: str, flags: int | str) -> None:
    """Have a server answer with other flags, or with an error."""
    serving = harness.hosts[name].server.handlers
    answer = serving.answer

    def instead(command):
        message = command.message
        if isinstance(message, DeviceFeature) and message.index == MIGRATION and message.get:
            if isinstance(flags, str):
                return flags
            return DeviceFeatureReply.got(message, FeatureMigration(flags).pack())
        return answer(command)

    serving.answer = instead


# --- what is asked for ---


def test_no_device():
    with pytest.raises(CannotMigrateError, match="there is no device to migrate"):
        Coordinator([])


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "a")],
        [("a", "b"), ("a", "c")],
        [("a", "b"), ("c", "b")],
        [("a", "b"), ("b", "c")],
        [("a", "b"), ("./a", "c")],
    ],
)
def test_a_socket_named_twice(tmp_path, monkeypatch, pairs):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotMigrateError) as refusal:
        Coordinator(pairs)
    twice = tmp_path / ("b" if str(pairs).count("'b'") > 1 else "a")
    assert str(refusal.value) == f"{twice}: is named twice; each socket is one end of one device"
    assert not refusal.value.refused


@pytest.mark.parametrize("missing", ["s0", "d0"])
def test_nobody_serves_there(harness: Harness, missing: str):
    pair(harness)
    harness.hosts.pop(missing).stop()
    harness.hosts.setdefault("s0", harness.hosts.get("d0"))  # `pairs` goes by the sources
    with pytest.raises(CannotMigrateError) as refusal:
        Coordinator([("s0", "d0")], journal=Path("journal")).run()
    assert str(refusal.value) == f"{missing}: nobody serves there: No such file or directory"
    assert not Path("journal").exists()
    harness.hosts = {name: host for name, host in harness.hosts.items() if host.name == name}


# --- where the devices are ---


@pytest.mark.parametrize(
    "way", [("STOP",), ("RUNNING_P2P",), ("PRE_COPY",), ("STOP_COPY",), ("RESUMING",)]
)
def test_a_source_that_does_not_run(harness: Harness, way: tuple[str, ...]):
    pair(harness)
    move("s0", *way)
    refusal = refused(harness)
    assert refusal.refused
    assert refusal.why == f"s0: is in {way[-1]}, and a source begins in RUNNING"
    assert refusal.hints == (
        "if a migration left it there: vfio-migration recover SRC DST",
        "if a save left it there: vfio-migration recover SRC --keep source",
        "if it holds nothing that is needed: start its server anew",
    )


@pytest.mark.parametrize(
    "state", ["RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P", "STOP_COPY", "RESUMING"]
)
def test_a_destination_that_is_not_blank(harness: Harness, state: str):
    pair(harness)
    move("d0", state)
    refusal = refused(harness)
    assert refusal.refused
    assert refusal.why == f"d0: is in {state}, and a destination begins in RUNNING"


def test_a_destination_that_is_stopped(harness: Harness):
    """That is how a migration leaves a side that is not to run: it can be loaded again."""
    pair(harness)
    move("d0", "STOP")
    harness.coordinator().run()
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole


@pytest.mark.parametrize("name", ["s0", "d0"])
def test_a_device_that_has_failed(harness: Harness, name: str):
    for one in ("s0", "d0"):
        harness.serve(one, faults={("RUNNING", "RUNNING_P2P"): (1, True)} if one == name else None)
    with Client(Path(name)) as client, pytest.raises(Exception, match="EIO"):
        client.set_state("STOP")
    refusal = refused(harness)
    side = "source" if name == "s0" else "destination"
    assert refusal.why == f"{name}: is in ERROR, and a {side} begins in RUNNING"


# --- what the devices are ---


def test_another_kind_of_device(harness: Harness):
    harness.serve("s0", FaultyEdu)
    harness.serve("d0", FaultyMemory)
    refusal = refused(harness)
    assert refusal.refused
    assert refusal.why == (
        "s0 and d0 are not the same kind of device: PCI device 1234:11e8 and 1234:11e9; "
        "region 0 of 1048576 and 4096 bytes; region 2 of 0 and 65536 bytes; region 4 of 0 and 4096 "
        "bytes"
    )
    assert refusal.hints == ("a guest would not find its device again; take another destination",)


def test_another_size(harness: Harness):
    harness.serve("s0", FaultyMemory, size=1 << 16)
    harness.serve("d0", FaultyMemory, size=1 << 17)
    assert refused(harness).why == (
        "s0 and d0 are not the same kind of device: region 2 of 65536 and 131072 bytes"
    )


@pytest.mark.parametrize("name", ["s0", "d0"])
def test_no_migration(harness: Harness, name: str):
    pair(harness)
    capabilities(harness, name, "ENOTTY")
    refusal = refused(harness)
    assert refusal.refused
    assert refusal.why == (
        f"{name}: the device cannot be migrated: DEVICE_FEATURE GET MIGRATION is refused (ENOTTY)"
    )


@pytest.mark.parametrize("flags", [0, 2, 6])
def test_without_what_is_mandatory(harness: Harness, flags: int):
    pair(harness)
    capabilities(harness, "d0", flags)
    assert refused(harness).why == (
        f"d0: the device cannot be migrated: its flags are {flags:#x}, without STOP_COPY"
    )


@pytest.mark.parametrize("unknown", [0x8, 0x100, 1 << 63])
def test_capabilities_that_the_table_does_not_know(harness: Harness, unknown: int):
    """They bring states that nobody asks for."""
    pair(harness)
    for name in ("s0", "d0"):
        capabilities(harness, name, 7 | unknown)
    harness.coordinator().run()
    assert harness.hosts["d0"].whole
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}


# --- the two sides of one device need not have the same capabilities ---

SETS = ["STOP_COPY", "STOP_COPY,P2P", "STOP_COPY,PRE_COPY", "STOP_COPY,P2P,PRE_COPY"]


@sampled(9)
@pytest.mark.parametrize("there", SETS)
@pytest.mark.parametrize("here", SETS)
@pytest.mark.parametrize("migration", ["live", "offline"])
def test_every_mixture_of_capabilities(harness: Harness, migration: str, here: str, there: str):
    harness.serve("s0", capabilities=here)
    harness.serve("d0", capabilities=there)
    summary = harness.coordinator(migration=migration).run()
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
    assert (summary.passes > 1) == (migration == "live" and "PRE_COPY" in here)


# --- groups ---


def test_two_without_p2p(harness: Harness):
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name, capabilities="STOP_COPY,PRE_COPY")
    refusal = refused(harness)
    assert refusal.refused
    # The destination comes first: it is moved first.
    assert refusal.why == (
        "d0, d1: lack P2P, and of a group only 1 may: with 2 no order of steps keeps each from "
        "starting DMA to another that is stopped already (obligation G3)"
    )
    assert refusal.hints == (
        "migrate them without the others, if they do no DMA to each other, or with at most 1 of "
        "them at a time",
        "or give --no-peer-dma, if you can answer for it: No device of the group does DMA to "
        "another device of it.",
    )


def test_two_without_p2p_at_the_source_alone(harness: Harness):
    for name in ("s0", "d0", "s1", "d1", "s2", "d2"):
        lacks = name in ("s0", "s2")
        harness.serve(name, capabilities="STOP_COPY" if lacks else "STOP_COPY,P2P")
    assert refused(harness).why.startswith("s0, s2: lack P2P, and of a group only 1 may")


@pytest.mark.parametrize("migration", ["live", "offline"])
def test_one_without_p2p(harness: Harness, migration: str):
    """It is stopped when the others are quiesced, and before they are; started the other way."""
    for number in range(3):
        for side in "sd":
            lacks = number == 1
            harness.serve(f"{side}{number}", capabilities="STOP_COPY" if lacks else None)
    harness.coordinator(migration=migration).run()
    assert harness.running == {"d0", "d1", "d2"}
    assert all(harness.hosts[name].whole for name in harness.running)
    _never_met(harness)
    stops = {name: _when(harness, name, "change_state", False) for name in ("s0", "s1", "s2")}
    quiet = {name: _when(harness, name, "start_p2p_dma", False) for name in ("s0", "s2")}
    assert max(quiet.values()) < stops["s1"] < min(stops["s0"], stops["s2"])
    starts = {name: _when(harness, name, "change_state", True) for name in ("d0", "d1", "d2")}
    loud = {name: _when(harness, name, "start_p2p_dma", True) for name in ("d0", "d2")}
    assert max(starts["d0"], starts["d2"]) < starts["d1"] < min(loud.values())


def _when(harness: Harness, name: str, activity: str, may: bool) -> int:
    """The last time a device lost or won something, as the order of all arcs."""
    found = [
        i
        for i, (one, from_, to) in enumerate(harness.arcs)
        if one == name
        and SPEC.permits(to, activity) == may
        and SPEC.permits(from_, activity) != may
    ]
    return found[-1]


def _never_met(harness: Harness) -> None:
    """No device of a side ever stood stopped while another might have started DMA to it."""
    at = dict.fromkeys(harness.hosts, "RUNNING")
    for name, _, to in harness.arcs:
        at[name] = "RUNNING" if to == "reset" else to
        for side in "sd":
            states = [state for one, state in at.items() if one[0] == side]
            starts = any(SPEC.permits(one, "start_p2p_dma") for one in states)
            assert not (starts and not all(SPEC.permits(one, "accept_p2p_dma") for one in states))


# --- the journal ---


def test_a_journal_of_an_earlier_migration(harness: Harness):
    pair(harness)
    Path("s0.migration").write_text("something")
    refusal = refused(harness)
    assert refusal.refused
    assert refusal.why.endswith(
        "/s0: an earlier migration of this device was not brought to its end"
    )
    assert refusal.hints[0].endswith("records how to recover it: vfio-migration recover")
    assert Path("s0.migration").read_text() == "something"


@pytest.mark.parametrize(
    ("where", "why"),
    [("no/such/file", "No such file or directory"), ("s0/file", "Not a directory")],
)
def test_a_journal_that_cannot_be_written(harness: Harness, where: str, why: str):
    pair(harness)
    refusal = refused(harness, journal=Path(where))
    assert refusal.why == f"{where}: the journal cannot be written: {why}"
    assert refusal.hints == ("choose another place: --journal FILE",)


def test_a_full_disk(harness: Harness):
    pair(harness)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        refusal = refused(harness)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refusal.why == "s0.migration: the journal cannot be written: File too large"


def test_without_a_journal(harness: Harness):
    pair(harness)
    harness.coordinator(journal=None).run()
    assert sorted(path.name for path in Path().iterdir()) == ["d0", "s0"]
    assert harness.hosts["d0"].whole


def test_what_the_journal_states(harness: Harness):
    """At each step: written before anything of the step is done."""
    pair(harness)
    reported = []

    def watch(exchange) -> None:
        found = journals.read(Path("s0.migration"))
        holder = None if found is None else found.holder
        if not reported or reported[-1][0] != holder:
            reported.append((holder, exchange.peer, harness.states))

    harness.coordinator(observers=[watch]).run()
    assert reported == [
        ("source", "s0", {"s0": "RUNNING", "d0": "RUNNING"}),
        ("delivered", "d0", {"s0": "STOP_COPY", "d0": "RESUMING"}),
        ("destination", "d0", {"s0": "STOP_COPY", "d0": "STOP"}),
        # And at the very end, when all are hung up on.
        (None, "d0", {"s0": "STOP", "d0": "RUNNING"}),
    ]


def test_a_migration_that_is_not_in_the_table(harness: Harness):
    pair(harness)
    with pytest.raises(UnknownNameError) as error:
        harness.coordinator(migration="liv").run()
    assert "live" in str(error.value)
