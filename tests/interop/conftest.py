"""A machine with our guest in it, and what stands around it. Run by `make interop`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# `make interop` names the QEMU here. Without one there is nothing to run: `make test` fetches no
# QEMU, and a skipped test would be a line in its report that never goes away.
QEMU = os.environ.get("VFIO_MIGRATION_QEMU")
# A folder: what passes between QEMU and the server is written into it, one file per machine.
RECORD = os.environ.get("VFIO_MIGRATION_RECORD")

collect_ignore = [] if QEMU else ["test_qemu.py"]

MEMORY = 64  # MiB
TIMEOUT_S = 120  # seconds for a machine; it takes one or two


@dataclass(frozen=True)
class Run:
    """What a machine did: QEMU's exit status, the guest's lines, what QEMU itself said."""

    status: int
    lines: tuple[str, ...]
    complaints: str

    @property
    def checks(self) -> dict[str, str]:
        """The guest's checks by name, with the value seen."""
        found = [line.removeprefix("not ").split() for line in self.lines if line[:1] != "#"]
        return {words[1]: words[2] for words in found if words[0] == "ok"}


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's image, built from tests/interop/guest."""
    out = tmp_path_factory.mktemp("guest")
    command = ["make", "--no-print-directory", "-C", str(HERE / "guest"), f"OUT={out}"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"the guest could not be built:\n{built.stdout}{built.stderr}"
    return out / "guest.bin"


@pytest.fixture(scope="session")
def boot(guest: Path) -> Callable[..., Run]:
    """Starts a machine with the guest and one more device, and waits until the guest is done."""

    def boot(device: str, *, shared_memory: bool = True, trace: str = "") -> Run:
        arguments = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"]
        arguments += ["-machine", "pc", "-m", str(MEMORY), "-bios", str(guest)]
        arguments += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-debugcon", "stdio"]
        if shared_memory:
            memory = f"memory-backend-memfd,id=ram,size={MEMORY}M,share=on"
            arguments += ["-object", memory, "-machine", "memory-backend=ram"]
        arguments += ["-device", device]
        if trace:
            arguments += ["-trace", trace]
        assert QEMU
        try:
            ran = subprocess.run(
                [QEMU, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            parts = [part or b"" for part in (late.stdout, late.stderr)]
            reported = "".join(part.decode(errors="replace")[-4000:] for part in parts)
            pytest.fail(f"the guest did not finish in {TIMEOUT_S} s:\n{reported}", pytrace=False)
        return Run(ran.returncode, tuple(ran.stdout.splitlines()), ran.stderr)

    return boot


@pytest.fixture
def mapped(guest: Path) -> Callable[[str], list[str]]:
    """Starts a machine that is stopped, and returns the lines of its maps that show a device."""

    def mapped(device: str) -> list[str]:
        assert QEMU
        arguments = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"]
        arguments += ["-machine", "pc", "-bios", str(guest), "-S", "-qmp", "stdio"]
        arguments += ["-device", device]
        process = subprocess.Popen(
            [QEMU, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            # Its first reply comes once all devices are there.
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b'{"execute": "qmp_capabilities"}\n')
            process.stdin.flush()
            greeting, reply = process.stdout.readline(), process.stdout.readline()
            maps = Path(f"/proc/{process.pid}/maps").read_text("utf-8")
        finally:
            process.kill()
            complaints = process.communicate()[1]
        assert b"QMP" in greeting, complaints
        assert b"return" in reply, complaints
        assert not complaints, complaints
        return [line for line in maps.splitlines() if "/memfd:vfio-migration-bar" in line]

    return mapped


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The socket of `vfio-migration serve`, which must end well afterwards.

    It serves an edu, or the device that the test names as the parameter of this fixture.
    """
    name = getattr(request, "param", "edu")
    path = tmp_path / "device.sock"
    program = Path(sys.executable).with_name("vfio-migration")
    with (tmp_path / "server.log").open("w+") as log:
        command = [str(program), "serve", str(path), "--device", name]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def reported() -> str:
            log.seek(0)
            return f"{' '.join(command)} said:\n{log.read()[-4000:]}"

        try:
            _wait(path, process, reported)
            yield path
            assert process.poll() is None, f"the server is gone: {process.returncode}; {reported()}"
            process.terminate()
            assert process.wait(timeout=10) == 0, reported()
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def vfio_user(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """QEMU's device on a socket; through record.py, if the messages are to be kept."""
    recorders: list[subprocess.Popen[bytes]] = []

    def device(path: Path) -> str:
        if RECORD:
            Path(RECORD).mkdir(parents=True, exist_ok=True)
            listen = tmp_path / f"record-{len(recorders)}.sock"
            name = re.sub(r"\W+", "-", request.node.name).strip("-")
            out = Path(RECORD) / f"{name}-{len(recorders)}.jsonl"
            command = [sys.executable, str(HERE / "record.py"), str(listen), str(path), str(out)]
            recorders.append(subprocess.Popen(command))
            _wait(listen, recorders[-1], lambda: "record.py did not start")
            path = listen
        socket = f'{{"type": "unix", "path": "{path}"}}'
        return f'{{"driver": "vfio-user-pci", "socket": {socket}}}'

    yield device
    for recorder in recorders:
        try:
            recorder.wait(timeout=10)
        finally:
            recorder.kill()
            recorder.wait()


def _wait(path: Path, process: subprocess.Popen[bytes], reported: Callable[[], str]) -> None:
    """Until the process listens there."""
    deadline = time.monotonic() + 20
    while not _listens(path):
        if process.poll() is not None:
            pytest.fail(f"ended with status {process.returncode}; {reported()}", pytrace=False)
        if time.monotonic() > deadline:
            pytest.fail(f"no socket at {path} after 20 s; {reported()}", pytrace=False)
        time.sleep(0.05)


def _listens(path: Path) -> bool:
    """Whether some process listens at this path, as the kernel lists it: no connection is made."""
    flags_of_a_listener = "00010000"
    for line in Path("/proc/net/unix").read_text("utf-8").splitlines():
        words = line.split()
        if words[-1] == str(path) and words[3] == flags_of_a_listener:
            return True
    return False
