"""Live migrations between processes, under load, with peer-to-peer DMA: to B, back to A, and again.

What a source holds is looked at when it has been stopped, and again, with what its destination
holds, when every destination has taken its state over and none has been started. All three have to
be the same, byte for byte.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from workload import Workload

from support.forked_servers import servers
from support.samples import sample_where, sampled
from vfio_migration.model import load
from vfio_migration.model.plan import Move, Phase, Plans, default_plans
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import CannotMigrateError, Coordinator, Event, Summary
from vfio_migration.runtime.kit.devices import edu, memory

MIB = 1 << 20
SPEC = load()
BOTH, P2P, PLAIN = "STOP_COPY,P2P,PRE_COPY", "STOP_COPY,P2P", "STOP_COPY"
PRE_COPY = "STOP_COPY,PRE_COPY"
MEMORY = "memory,size=2M"
STARTS = ("wake", "start-the-one", "run")


def mixed(count: int) -> list[str]:
    return ["edu" if number % 2 == 0 else MEMORY for number in range(count)]


GROUPS = [
    *([(kind, flags)] for kind in ("edu", MEMORY) for flags in (PLAIN, P2P, PRE_COPY, BOTH)),
    *([(kind, flags) for kind in mixed(count)] for flags in (P2P, BOTH) for count in (2, 4, 8)),
    [("edu", BOTH), (MEMORY, PLAIN), (MEMORY, BOTH)],
    [(MEMORY, PRE_COPY), (MEMORY, P2P)],
]


def quick(group: Sequence[tuple[str, str]]) -> bool:
    """Whether a group is small, and has a device that can do all or one that can do least."""
    flags = {flags for _, flags in group}
    return len(group) < 4 and (BOTH in flags or group == [("edu", PLAIN)])


def called(group: Sequence[tuple[str, str]]) -> str:
    kinds = "+".join(sorted({kind.partition(",")[0] for kind, _ in group}))
    flags = "|".join(sorted({flags for _, flags in group}))
    return f"{len(group)} {kinds} {flags}"


def contents(client: Client) -> dict[str, bytes]:
    """All that a guest can see of a device."""
    found = {}
    is_edu = client.region_read(0, 0, 4) == edu.IDENTIFICATION.to_bytes(4, "little")
    for index in range(client.info().num_regions):
        info = client.region_info(index)
        info.close()
        spans = [(0, info.size, MIB)] if info.flags & 1 and info.size else []
        if index == 0:
            spans = [(0, 0xA0 if is_edu else 0x38, 4)]
            spans += [(edu.BUFFER, edu.BUFFER_SIZE, MIB)] if is_edu else []
        for offset, size, step in spans:
            found[f"{index}:{offset:#x}"] = b"".join(
                client.region_read(index, at, min(step, offset + size - at))
                for at in range(offset, offset + size, step)
            )
    return found


class Witness:
    """Looks at both sides while neither runs."""

    def __init__(self, pairs: Sequence[tuple[Client, Client]], dawdle: float = 0.0) -> None:
        self.pairs = {source.name: (source, destination) for source, destination in pairs}
        self.stopped: dict[str, dict[str, bytes]] = {}
        self.compared = self.passes = 0
        self.wrong: list[str] = []
        self._dawdle = dawdle

    def __call__(self, event: Event) -> None:
        fields = event.fields
        if event.name == "progress" and fields["step"] == "passes":
            self.passes = max(self.passes, *(one["pass"] for one in fields["devices"]))
        elif event.name == "moved" and fields["side"] == "source":
            device = fields["device"]
            if device not in self.stopped and not SPEC.permits(fields["to"], "change_state"):
                self.stopped[device] = contents(self.pairs[device][0])
        elif event.name == "phase" and fields["side"] == "destination":
            if fields["phase"] in STARTS and not self.compared:
                self._compare()
        elif event.name == "phase":
            time.sleep(self._dawdle)

    def _compare(self) -> None:
        for name, (source, destination) in self.pairs.items():
            self.compared += 1
            now = contents(source)
            if self.stopped[name] != now:
                self.wrong.append(f"{name}: changed after it had been stopped")
            if now != contents(destination):
                self.wrong.append(f"{name}: is not what has arrived")


@dataclasses.dataclass
class Moved:
    summary: Summary
    witness: Witness
    peers: list[str]
    transfers: int


def migrate(
    froms: Sequence[Path], tos: Sequence[Path], *, plans: Plans | None = None, dawdle: float = 0.0
) -> Moved:
    """Migrate once under load. Both sides are stopped afterwards, for as long as they are read."""
    clients = {str(path): Client(path) for path in (*froms, *tos)}
    try:
        sources = [clients[str(path)] for path in froms]
        targets = [clients[str(path)] for path in tos]
        load_ = Workload(sources, targets, rate=8 * MIB)
        witness = Witness(list(zip(sources, targets, strict=True)), dawdle)
        with load_.running():
            time.sleep(0.05)
            before = load_.transfers
            summary = Coordinator(
                list(zip(froms, tos, strict=True)),
                clients=clients,
                hooks=load_.hooks,
                plans=plans,
                report=witness,
            ).run()
            time.sleep(0.05)
        assert load_.error is None
        for client in sources:
            assert client.state() == "STOP"
        for client in targets:
            assert client.state() == "RUNNING"
            client.set_state("STOP")
        peers = load_.check("destination")
        for client in targets:
            if client.region_read(0, 0, 4) == memory.IDENTIFICATION.to_bytes(4, "little"):
                is_consistent(client)
            client.set_state("RUNNING")
        return Moved(summary, witness, peers, load_.transfers - before)
    finally:
        for client in clients.values():
            client.close()


def is_consistent(client: Client) -> None:
    """What a memory holds follows from how many pages were changed."""
    changes, seed, size = (
        int.from_bytes(client.region_read(0, register, 8), "little")
        for register in (memory.REG_CHANGES, memory.REG_SEED, memory.REG_SIZE)
    )
    got = b"".join(client.region_read(2, at, MIB) for at in range(0, size, MIB))
    assert changes
    assert got == memory.contents(seed, size, changes)[:]


@sampled(5)
@pytest.mark.parametrize("group", sample_where(GROUPS, quick), ids=called)
def test_there_and_back_twice(tmp_path: Path, group: list[tuple[str, str]]) -> None:
    devices = [
        (f"{side}{number}", kind, flags)
        for side in "ab"
        for number, (kind, flags) in enumerate(group)
    ]
    with servers(tmp_path, devices) as paths:
        here, there = paths[: len(group)], paths[len(group) :]
        for froms, tos in ((here, there), (there, here)) * 2:
            moved = migrate(froms, tos)
            assert moved.witness.wrong == []
            assert moved.peers == []
            assert moved.witness.compared == moved.summary.devices == len(group)
            assert 0 < moved.summary.downtime <= moved.summary.seconds
            if any("PRE_COPY" in flags for _, flags in group):
                assert moved.witness.passes, "the devices ran while they were copied"
            if any(kind == "edu" for kind, _ in group) and len(group) > 1:
                assert moved.transfers, "and they did DMA to each other"


def test_more_than_one_without_p2p_is_refused(tmp_path: Path) -> None:
    devices = [(f"{side}{number}", "edu", PRE_COPY) for side in "ab" for number in range(2)]
    with servers(tmp_path, devices) as paths:
        pairs = list(zip(paths[:2], paths[2:], strict=True))
        with pytest.raises(CannotMigrateError, match="no order of steps") as caught:
            Coordinator(pairs).run()
        assert caught.value.refused
        for path in paths:
            with Client(path) as client:
                assert client.state() == "RUNNING"


def one_by_one() -> Plans:
    """The plans, but those with PRE_COPY are stopped while the others still run."""
    plans = default_plans(SPEC)
    save = plans.plan("save")
    phases = (
        Phase(name="pre-copy", moves=(Move(needs=("PRE_COPY",), to="PRE_COPY"),), summary=""),
        Phase(name="quiesce", moves=(Move(needs=("PRE_COPY",), to="STOP_COPY"),), summary=""),
        Phase(name="stop-the-one", moves=(Move(to="STOP_COPY"),), summary=""),
        Phase(name="stop", moves=(Move(to="STOP_COPY"),), summary=""),
    )
    lazy = dataclasses.replace(save, phases=phases)
    rows = tuple(lazy if row is save else row for row in plans.plans)
    return dataclasses.replace(plans, plans=rows)


def test_the_witness_sees_that_a_plan_is_not_sound(tmp_path: Path) -> None:
    """The comparison can fail: a device that was stopped too early is written to by its peer."""
    devices = [
        (f"{side}{number}", MEMORY, flags)
        for side in "ab"
        for number, flags in enumerate([BOTH, P2P])
    ]
    with servers(tmp_path, devices) as paths:
        sound = migrate(paths[:2], paths[2:], dawdle=0.05)
        assert sound.witness.wrong == []
        moved = migrate(paths[2:], paths[:2], plans=one_by_one(), dawdle=0.05)
        assert moved.witness.wrong == [f"{paths[2]}: changed after it had been stopped"]
