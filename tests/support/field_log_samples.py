"""Logs of other programs, as they would write them: their format strings, for walks of states.

    PYTHONPATH=tests python -m support.field_log_samples

writes those of `tests/data/field_logs` again. Each function takes what a device does, and returns
the lines of one program. The format strings are in `model/field_logs.toml`, by file and function;
here they are filled in as the program fills them in.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vfio_migration.model import load

FOLDER = Path(__file__).resolve().parents[1] / "data/field_logs"
SPEC = load()
VFU = {"STOP": 0, "RUNNING": 1, "STOP_COPY": 2, "PRE_COPY": 3, "RESUMING": 4}
QAPI = {row.name: row.name.lower().replace("_", "-") for row in SPEC.states}


class Asked(NamedTuple):
    """A request for a state, and what came of it.

    Attributes:
        from_: Where the device is.
        target: What is asked for.
        path: The states that are stepped through, the target last.
        errno: Why it failed, or None.
        device: Which device.
    """

    from_: str
    target: str
    path: tuple[str, ...]
    errno: str | None = None
    device: int = 0


def walk(*states: str, flags: int | str = 7, device: int = 0) -> list[Asked]:
    """Return requests that lead through states, each by the path of the table."""
    machine, made = SPEC.machine(flags), []
    for from_, target in itertools.pairwise(states):
        route = machine.route(from_, target)
        path = (target,) if route.refused else tuple(arc.to for arc in route.arcs)
        made.append(Asked(from_, target, path, device=device))
    return made


def qemu(asked: Iterable[Asked]) -> Iterator[str]:
    """QEMU, `-trace 'vfio_*'`: a failure is recovered from with a request for RUNNING."""
    for number, one in enumerate(asked):
        name, at = f"0000:0{one.device + 1}:00.0", f"4711@1764595800.{number:06}:"
        recover, asked_for = "RUNNING", f"{at}vfio_migration_set_state  ({name})"
        yield f"{asked_for} new state {one.target}, recover state {recover}"
        if one.errno is not None:
            yield (
                f"qemu-system-x86_64: {name}: Failed setting device state to {one.target}. "
                f"Setting device in recover state {recover}: {one.errno}"
            )
            yield f"{at}vfio_migration_set_device_state  ({name}) state {recover}"
        elif one.target != one.from_:
            yield f"{at}vfio_migration_set_device_state  ({name}) state {one.target}"
        yield f"{at}vfio_vmstate_change  ({name}) running 0 reason paused device state {one.target}"


def qmp(asked: Iterable[Asked]) -> Iterator[str]:
    """QEMU's monitor, with `x-pci-vfio-migration-events=on`."""
    yield json.dumps({"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}}}})
    for number, one in enumerate(asked):
        about = {"device-id": f"v{one.device}", "qom-path": f"/machine/peripheral/v{one.device}"}

        def event(state: str, about: dict[str, str] = about, number: int = number) -> str:
            data = about | {"device-state": state}
            stamp = {"seconds": 1764595800 + number, "microseconds": 0}
            return json.dumps({"timestamp": stamp, "event": "VFIO_MIGRATION", "data": data})

        if one.target == "PRE_COPY_P2P":
            yield event("pre-copy-p2p-prepare")
        if one.target != one.from_:
            yield event(QAPI[one.target if one.errno is None else "RUNNING"])


def libvfio_user(asked: Iterable[Asked]) -> Iterator[str]:
    """The sample `server` of libvfio-user, with -v."""
    for one in asked:
        name = f"server[{4711 + one.device}]"
        for state in one.path:
            yield f"{name}: quiescing device"
            yield f"{name}: migration: transition to device state {VFU[state]}"
            yield f"{name}: device quiesced immediately"
        if one.errno is not None:
            yield f"{name}: msg0x7: cmd 16 failed: Invalid argument"


def spdk(asked: Iterable[Asked]) -> Iterator[str]:
    """SPDK's NVMe device, with -L nvmf_vfio -L vfio_user."""
    for number, one in enumerate(asked):
        name, at = f"/var/run/vm{one.device}", f"[2026-05-11 16:27:35.{number:06}] vfio_user.c"
        for state in one.path:
            yield (
                f"{at}:3510:vfio_user_migration_device_state_transition: *DEBUG*: {name} "
                f"controller state 3, migration state {VFU[state]}"
            )
        if one.errno is not None:
            failed = "msg0x7: cmd 16 failed: Invalid argument"
            yield f"{at}:2843:vfio_user_log: *ERROR*: {name}: {failed}"


def ftrace(asked: Iterable[Asked], *, inner: bool = True) -> Iterator[str]:
    """Linux's ftrace, with the probes of docs/recording.md."""
    yield "# tracer: nop"
    yield "#"
    yield "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION"
    numbers = {row.name: row.value for row in SPEC.states}
    for number, one in enumerate(asked):
        cpu, time = f"[{number % 2:03}]", f"{100 + number / 1e6:12.6f}"
        at = f"          qemu-{4711 + one.device:<6}  {cpu} ..... {time}: "
        target, here = numbers[one.target], one.from_
        for state in one.path if inner else ():
            yield (
                f"{at}vfio_next_state: (mtty_set_state+0x5c/0x1d0 [mtty] <- "
                f"vfio_mig_get_next_state) device=0xffff9d3a4122{one.device:04x} "
                f"cur={numbers[here]} new={target} next={numbers[state]} ret=0"
            )
            here = state
        ret = 0 if one.errno is None else -22
        yield (
            f"{at}vfio_ioctl: (__x64_sys_ioctl+0x97/0xd0 <- vfio_device_fops_unl_ioctl) "
            f"file=0xffff9d3a4177{one.device:04x} cmd=0x3b75 argsz=16 flags=0x20002 "
            f"state={target} ret={ret}"
        )


WRITERS: dict[str, Callable[[Iterable[Asked]], Iterator[str]]] = {
    "qemu": qemu,
    "qmp": qmp,
    "libvfio-user": libvfio_user,
    "spdk": spdk,
    "ftrace": ftrace,
}

# A migration, given up at first, and the life after it; libvfio-user knows no P2P.
LIFE = walk("RUNNING", "PRE_COPY", "RUNNING", "PRE_COPY", "STOP_COPY", "STOP", "RUNNING", flags=5)
ILLEGAL = [
    *walk("RUNNING", "PRE_COPY", "STOP_COPY", flags=5),
    Asked("STOP_COPY", "PRE_COPY", ("PRE_COPY",)),
    *walk("PRE_COPY", "RUNNING", flags=5),
]


def samples() -> dict[str, str]:
    """Return each file of `tests/data/field_logs` that is made here, with what is in it."""
    made = {}
    for name, write in WRITERS.items():
        for kind, asked in (("allowed", LIFE), ("illegal", ILLEGAL)):
            made[f"{name}-{kind}.log"] = "".join(f"{line}\n" for line in write(asked))
    return made


if __name__ == "__main__":
    for file, text in samples().items():
        (FOLDER / file).write_text(text, "utf-8")
