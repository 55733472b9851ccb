"""What `serve --device NAME,KEY=VALUE` takes, and what it states of a wrong word."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cli_support import until

from vfio_migration.runtime.client import Client
from vfio_migration.runtime.kit.devices import memory

NUMBER = "is not a number; 64M and 0x1000 are"
MEMORY = "there are size, rate, seed"


@pytest.mark.parametrize(
    ("device", "complains"),
    [
        (
            "",
            '--device: "": is not a device; there are edu, memory; one of your own is named as '
            "package.module:Class",
        ),
        ("memori", '--device: "memori": is not a device; did you mean memory?'),
        ("memory,", f'--device: "": is not an option of memory; {MEMORY}'),
        ("memory,zzz=1", f'--device: "zzz": is not an option of memory; {MEMORY}'),
        ("memory,siz=4M", '--device: "siz": is not an option of memory; did you mean size?'),
        ("edu,size=1", '--device: "size": is not an option of edu; there are dma_mask'),
        ("memory,size", f'--device size: "": {NUMBER}'),
        ("memory,size=", f'--device size: "": {NUMBER}'),
        ("memory,size=M", f'--device size: "M": {NUMBER}'),
        ("memory,size=64m", f'--device size: "64m": {NUMBER}'),
        ("memory,size=-1", f'--device size: "-1": {NUMBER}'),
        ("memory,rate=1.5M", f'--device rate: "1.5M": {NUMBER}'),
        ("memory,rate=18446744073709551616", f'--device rate: "18446744073709551616": {NUMBER}'),
        ("memory,seed=0x", f'--device seed: "0x": {NUMBER}'),
        ("memory,size=4M,size=8M", '--device: "size": is given twice; give it once'),
        (
            "memory,size=3M",
            '--device: "memory,size=3M": size 3145728: must be a power of two of at least 4096',
        ),
        (
            "memory,size=2048",
            '--device: "memory,size=2048": size 2048: must be a power of two of at least 4096',
        ),
        (
            "memory,size=4294967296G",
            '--device: "memory,size=4294967296G": MemoryDevice.bars[2]: size 4611686018427387904 '
            "is out of range; it is a power of two of at least 16 and at most 0x10000000000",
        ),
    ],
)
def test_a_wrong_word(cli, tmp_path, device, complains):
    path = tmp_path / "nowhere" / "x.sock"  # where a word that is taken is not served for ever
    ran = cli("serve", path, "--device", device)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"vfio-migration: error: {complains}\n"


def test_right_words(serve):
    served = serve("m.sock", "memory,size=0x10000,rate=8K,seed=7")
    with Client(served.path) as client:
        found = {
            register: int.from_bytes(client.region_read(0, register, 8), "little")
            for register in (memory.REG_SIZE, memory.REG_RATE, memory.REG_SEED)
        }
    assert list(found.values()) == [1 << 16, 8 << 10, 7]


def test_an_edu_with_a_mask(serve):
    assert serve("e.sock", "edu,dma_mask=0xffffffff").state == "RUNNING"


def test_the_help_names_every_word():
    from vfio_migration.cli.devices import OPTIONS

    command = [sys.executable, "-m", "vfio_migration.cli.main", "serve", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for words in OPTIONS.values():
        assert all(f"{word}=" in text for word in words)


def test_the_log_states_what_was_asked_for(serve):
    served = serve("m.sock", "memory,size=4K")
    log = served.path.with_suffix(".log")
    until(lambda: '"serving"' in log.read_text("utf-8"))
    line = next(one for one in log.read_text("utf-8").splitlines() if '"serving"' in one)
    assert json.loads(line)["device"] == "memory,size=4K"


def test_what_is_wrong_with_the_flags_is_not_put_down_to_the_device(cli):
    ran = cli("serve", "s", "--flags", "P2P")
    assert ran.status == 2
    assert ran.err.startswith('vfio-migration: error: flags: "P2P": lacks STOP_COPY')
