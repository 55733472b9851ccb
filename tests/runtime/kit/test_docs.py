"""docs/devices.md: its code runs, and what it names is there."""

from __future__ import annotations

import re
import unittest
from pathlib import Path
from typing import Any

import pytest
from forgetful_devices import ForgetsTheSecond

from vfio_migration.runtime.kit import pci_device as kit
from vfio_migration.runtime.kit.pci_device import PciDevice
from vfio_migration.runtime.testing.suite import find_problems

PAGE = (Path(__file__).parents[3] / "docs" / "devices.md").read_text("utf-8")


def test_its_code_runs() -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/devices.md", "exec"), names)
    device, tests = names["Counter"], names["TestCounter"]
    assert isinstance(device, type)
    assert issubclass(device, PciDevice)
    assert isinstance(tests, type)
    assert issubclass(tests, unittest.TestCase)
    assert sum(len(block.strip().splitlines()) for block in blocks[:2]) <= 35
    # The same example stands in the kit's own words.
    shown = [
        line[4:].lstrip(".> ")
        for line in str(kit.__doc__).splitlines()
        if line[4:7] in ("...", ">>>")
    ]
    body = blocks[0].partition("class Counter")[2].split("\n")[1:]
    for line in filter(None, (part.strip() for part in body)):
        assert line in shown


@pytest.mark.exhaustive
def test_its_devices_pass_and_its_drive_finds_what_it_is_for() -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/devices.md", "exec"), names)
    drive = names["drive"]
    assert list(find_problems(names["Doorbell"], capabilities=[7])) == []
    assert list(find_problems(names["Counter"], drive=drive, capabilities=[7])) == []

    class Forgetful(ForgetsTheSecond):
        where = (0, 0xF00)

    # The other way round: it does find what it is for, and what is there without it does not.
    assert next(find_problems(Forgetful, drive=drive, capabilities=[7])).obligation == "S1"
    assert list(find_problems(Forgetful, capabilities=[7])) == []


def test_what_it_names_is_there() -> None:
    for name in re.findall(r"`(?:self\.)?(\w+)\(", PAGE.partition("## Peers")[0]):
        assert hasattr(PciDevice, name) or name in ("Bar", "Area", "__init__", "super"), name
    for name in re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE):
        for one in name.split("`, `"):
            assert hasattr(PciDevice, one), one


def test_the_doctest_of_the_kit() -> None:
    import doctest

    assert doctest.testmod(kit).failed == 0
