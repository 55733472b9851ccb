"""Names of sockets and files that are not text, or would do something to a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.migration_harness import Harness
from support.samples import sampled
from vfio_migration.runtime.files.container import (
    ContainerReader,
    ContainerWriter,
    DeviceHeader,
    Header,
)

ESCAPE = "e\x1b[2Jx"
BYTES = os.fsdecode(b"b\xff")
FORGED = "a\nevery byte is right"


def raw(text: str) -> bool:
    """Return whether a terminal would be reported more than text."""
    return any(not char.isprintable() and char not in "\n\t" for char in text)


@sampled(2)
@pytest.mark.parametrize("name", [ESCAPE, BYTES, FORGED])
def test_sockets(harness: Harness, cli, name):
    harness.serve(name)
    harness.serve("d0")
    reported, shown = name.encode("unicode_escape").decode(), False
    for words in (
        ("migrate", name, "d0", "--dry-run"),
        ("migrate", name, "d0"),
        ("recover", name, "d0", "--keep", "source"),
        ("save", name, "saved", "--then", "run"),
        ("save", name, "saved", "--then", "run"),
        ("restore", "saved", "d0"),
        ("restore", "saved", name, "d0"),
        ("recover", "d0", name),
        ("check-trace", name),
    ):
        ran = cli(*words)
        assert not raw(ran.out + ran.err), words
        assert "Traceback" not in ran.err
        assert "\nevery byte" not in ran.out + ran.err
        shown = shown or reported in ran.out + ran.err
    assert shown


def test_a_name_that_is_no_text_is_saved(harness: Harness, cli):
    harness.serve(BYTES)
    ran = cli("save", BYTES, "saved")
    assert (ran.status, ran.err) == (0, "")
    with ContainerReader("saved") as reader:
        assert [one.name for one in reader.header.devices] == ["b\\udcff"]


@pytest.mark.parametrize("name", [ESCAPE, BYTES, FORGED])
def test_files(harness: Harness, cli, name):
    harness.serve("s0")
    for words in (("save", "s0", name, "--then", "run"), ("restore", name, "s0")):
        ran = cli(*words, "-q")
        assert (ran.status, ran.err) == (0, "")
        assert not raw(ran.out)
    Path(name).write_bytes(b"VFIOSAVE")
    ran = cli("restore", name, "s0")
    assert ran.status == 2
    assert not raw(ran.err)


@pytest.mark.parametrize("name", [ESCAPE, FORGED, "x" * (1 << 19)])
def test_devices_in_a_saved_file(harness: Harness, cli, name):
    """Who wrote the file states what the devices are called."""
    harness.serve("d0")
    with ContainerWriter("saved", Header((DeviceHeader(name), DeviceHeader("b")))) as file:
        file.write(0, b"state")
    ran = cli("restore", "saved", "d0")
    assert (ran.status, ran.out) == (2, "")
    assert not raw(ran.err)
    assert ran.err.count("\n") == 1
    assert len(ran.err) < 2000
    assert ran.err.endswith(", b), and 1 is given; give one DST for each, in this order\n")
    reported = json.loads(cli("restore", "saved", "d0", "--json").out)
    assert name in reported["message"]


def test_a_trace(cli, tmp_path):
    title = "t\x1b[2J\ud800\nevery step is right"
    trace = {"format": 1, "spec": "vfio-v2", "title": title}
    trace |= {"capabilities": [["STOP_COPY"]], "start": ["RUNNING"], "steps": []}
    run = tmp_path / "run.json"
    run.write_text(json.dumps(trace), "utf-8")
    for words in (
        ("replay", run),
        *(("diagram", "--trace", run, "-o", tmp_path / f"x.{form}") for form in ("svg", "png")),
        *(("diagram", "--trace", run, "--format", form) for form in ("dot", "mmd", "json")),
    ):
        ran = cli(*words)
        assert (ran.status, ran.err) == (0, "")
        assert not raw(ran.out)
        assert words[0] != "replay" or "\nevery step" not in ran.out


def test_a_complaint(cli):
    for words in (("route", ESCAPE, "STOP"), ("verify", ESCAPE), ("route", "--" + ESCAPE, "a")):
        ran = cli(*words)
        assert ran.status == 2
        assert not raw(ran.err)
