"""A real client: QEMU's vfio-user-pci, and a guest in it that drives the edu device.

The guest knows what is right; its source is in guest/. It runs with QEMU's own edu device, which
shows that the guest is right, and with ours, which may not differ in anything that the guest sees.
"""

from __future__ import annotations

import json

import pytest

from vfio_migration.cli.main import main

PASSED = 33  # QEMU's exit status when the guest reports that all was right

INTERRUPTS = ("by-hand", "by-factorial", "factorial", "by-dma", "this-way", "in-all", "none-left")
CHECKS = [
    *("on-the-bus", "class-and-revision", "interrupt-pin", "bar0-size", "bar0-address"),
    *("identification", "liveness", "factorial", "dma-page", "dma-odd", "dma-one-byte"),
    *(f"intx-{name}" for name in INTERRUPTS),
    "msi-capability",
    *(f"msi-{name}" for name in INTERRUPTS),
    *(f"intx-again-{name}" for name in INTERRUPTS),
]


def assert_all_right(run) -> None:
    report = "\n".join((*run.lines, run.complaints))
    assert not [line for line in run.lines if line.startswith("not ok")], report
    assert list(run.checks) == CHECKS, report
    assert run.lines[-1] == "done", report
    assert run.status == PASSED, report
    assert run.complaints == "", report


@pytest.fixture(scope="session")
def reference(boot):
    """The guest with QEMU's own edu."""
    return boot("edu")


def test_the_guest_is_right(reference) -> None:
    assert_all_right(reference)
    assert reference.checks["identification"] == "010000ed"
    assert reference.checks["factorial"] == f"{479001600:08x}"


@pytest.mark.parametrize("shared_memory", [True, False], ids=["by-descriptor", "by-message"])
def test_our_edu_is_the_same_to_the_guest(
    boot, server, vfio_user, reference, shared_memory
) -> None:
    """Guest memory reaches the server as descriptors, or only by messages on the one socket."""
    ours = boot(vfio_user(server), shared_memory=shared_memory)
    assert_all_right(ours)
    assert ours.checks == reference.checks


def test_the_next_machine_is_served_like_the_first(boot, server, vfio_user) -> None:
    """A machine goes away without a word: QEMU ends, and its socket with it."""
    for shared_memory in (True, False, True):
        assert_all_right(boot(vfio_user(server), shared_memory=shared_memory))


@pytest.mark.parametrize(
    ("server", "sizes"), [("edu", [4096]), ("memory,size=1M", [4096])], indirect=["server"]
)
def test_qemu_maps_what_a_region_states_can_be_mapped(server, vfio_user, mapped, sizes) -> None:
    """The flag and the descriptor come with the full reply only, which QEMU asks for."""
    found = []
    for line in mapped(vfio_user(server)):
        begin, _, end = line.split()[0].partition("-")
        found.append(int(end, 16) - int(begin, 16))
    assert found == sizes


def test_check_trace_reads_what_qemu_traces(boot, server, vfio_user, tmp_path, capsys) -> None:
    log = tmp_path / "qemu.log"
    log.write_text(boot(vfio_user(server), trace="vfio*").complaints, "utf-8")
    assert main(["check-trace", str(log), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kind"], answer["unknown"]["lines"]) == ("qemu", 0)
    assert answer["held"]["resets"] >= 1
