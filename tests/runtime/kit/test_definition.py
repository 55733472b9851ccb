"""A device that is written in a way that cannot work is refused when it is defined, or made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vfio_migration.model import Spec
from vfio_migration.runtime import ArcError
from vfio_migration.runtime.kit import errors
from vfio_migration.runtime.kit import guest_memory as dma
from vfio_migration.runtime.kit import pci_device as kit
from vfio_migration.runtime.kit.pci_device import (
    Area,
    Bar,
    DeviceDefinitionError,
    Identity,
    PciDevice,
)

MISSPELT = "start_dmaa"


def define(**declared: Any) -> type[PciDevice]:
    """Define a device with some declarations, and nothing else."""
    return type("Odd", (PciDevice,), declared)


# --- what is declared ---


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": ""}, "Odd.name: '' is not a name"),
        ({"name": " "}, "Odd.name: ' ' is not a name"),
        ({"name": None}, "Odd.name: None is not a name"),
        ({"name": "x" * 201}, "Odd.name: a name of 201 characters"),
        (
            {"identity": Identity(vendor=0x12345, device=1)},
            "Odd.identity.vendor: 0x12345 is out of range; it is a number of 16 bits, 0 to 0xffff",
        ),
        ({"identity": Identity(vendor=1, device=-1)}, "Odd.identity.device: -0x1 is out of range"),
        (
            {"identity": Identity(vendor=1, device=1, revision=256)},
            "Odd.identity.revision: 0x100 is out of range; it is a number of 8 bits",
        ),
        (
            {"identity": Identity(vendor=1, device=1, class_code=1 << 24)},
            "Odd.identity.class_code: 0x1000000 is out of range",
        ),
        ({"identity": Identity(vendor="1", device=1)}, "Odd.identity.vendor: '1' is out of range"),
        ({"identity": 0x12345678}, "Odd.identity: 305419896 is not an Identity"),
        ({"bars": {6: Bar(4096)}}, "Odd.bars[6]: there is no such BAR; a device has BARs 0 to 5"),
        ({"bars": {-1: Bar(4096)}}, "Odd.bars[-1]: there is no such BAR"),
        ({"bars": {"0": Bar(4096)}}, "Odd.bars['0']: there is no such BAR"),
        ({"bars": {0: 4096}}, "Odd.bars[0]: 4096 is not a Bar; write `Bar(4096)`"),
        ({"bars": {0: Bar(100)}}, "Odd.bars[0]: size 100 is out of range; it is a power of two"),
        ({"bars": {0: Bar(8)}}, "Odd.bars[0]: size 8 is out of range"),
        ({"bars": {0: Bar(0)}}, "Odd.bars[0]: size 0 is out of range"),
        ({"bars": {0: Bar(1 << 32)}}, "Odd.bars[0]: size 0x100000000 is out of range; more than"),
        ({"bars": {0: Bar(1 << 41, is64=True)}}, "Odd.bars[0]: size 2199023255552 is out of range"),
        ({"bars": {5: Bar(4096, is64=True)}}, "Odd.bars[5]: it takes the next number too"),
        ({"bars": [Bar(4096)]}, "Odd.bars: list is not a mapping"),
        ({"private": {"": 1}}, "Odd.private['']: this is not a name"),
        ({"private": {"a": 0}}, "Odd.private['a']: size 0 is out of range"),
        ({"msi": 3}, "Odd.msi: 3 vectors; it can be 0, 1, 2, 4, 8, 16, 32"),
        ({"msi": True}, "Odd.msi: True vectors"),
        ({"msix": 2049}, "Odd.msix: 2049 vectors; it can be 0 to 2048"),
        ({"msix_bar": 6}, "Odd.msix_bar: there is no BAR 6"),
        ({"version": -1}, "Odd.version: -1 is out of range"),
        ({"version": "1"}, "Odd.version: '1' is out of range"),
        ({"loads": 1}, "Odd.loads: 1 is not a collection of versions; write `(1, 2)`"),
        ({"loads": (1, 1 << 32)}, "Odd.loads: 4294967296 is out of range"),
        ({"deferrable": "finish"}, "Odd.deferrable: 'finish' is not a collection of names"),
    ],
)
def test_what_is_declared_out_of_range_is_refused_at_the_class_statement(
    declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceDefinitionError, match=f"^{re.escape(message)}"):
        define(**declared)
    # Options set on the object are looked at when it is made.
    plain = define()

    class Optional(plain):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            vars(self).update(declared)
            super().__init__()

    with pytest.raises(
        DeviceDefinitionError, match=f"^{re.escape(message.replace('Odd', 'Optional'))}"
    ):
        Optional()


def test_a_name_that_is_left_out_is_that_of_the_class() -> None:
    device = define(bars={0: Bar(4096)})()
    assert device.kit_header()["device"] == "Odd"
    device.close()


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"bars": {4: Bar(4096)}, "msix": 1}, "Odd: BAR 4: there is one already"),
        ({"bars": {0: Bar(4096, is64=True), 1: Bar(4096)}}, "Odd: BAR 1: there is one already"),
        ({"bars": {0: Bar(8192, areas=(Area(0, 64),))}}, "Odd: BAR 0: area 0x0+0x40 cannot be"),
        ({"deferrable": ("finish",)}, "Odd.deferrable: 'finish': Odd has no such method"),
        ({"deferrable": ("save",)}, "Odd.deferrable: 'save': it is for the kit to call"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_made(
    declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceDefinitionError, match=f"^{re.escape(message)}"):
        define(**declared)()


# --- callbacks ---


async def waits(*_about: Any) -> Any:
    raise NotImplementedError


def yields(*_about: Any) -> Iterator[None]:
    yield


def takes_nothing(self: PciDevice) -> Any:
    raise NotImplementedError


def takes_too_much(self: PciDevice, *, more: int) -> Any:
    raise NotImplementedError


CALLBACKS = [
    *("bar_read", "bar_write", "save", "load", "reset_device", "config_written"),
    *("quiesce", "resume", "stop", "start"),
]


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_that_is_async_is_refused_at_the_class_statement(name: str) -> None:
    with pytest.raises(DeviceDefinitionError) as refusal:
        define(**{name: waits})
    reported = str(refusal.value)
    assert reported.startswith(
        f"Odd.{name} ({__file__}:{waits.__code__.co_firstlineno}) is `async def`"
    )
    assert f"write `def {name}(self" in reported


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_with_a_yield_is_refused_at_the_class_statement(name: str) -> None:
    with pytest.raises(DeviceDefinitionError, match=f"Odd.{name} .* has a `yield`"):
        define(**{name: yields})


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_that_cannot_be_called_so_is_refused_at_the_class_statement(name: str) -> None:
    with pytest.raises(DeviceDefinitionError, match=f"write `def {name}"):
        define(**{name: takes_too_much})
    if name in ("bar_read", "bar_write", "load", "config_written"):
        with pytest.raises(DeviceDefinitionError, match=f"write `def {name}"):
            define(**{name: takes_nothing})


def test_a_device_that_saves_and_does_not_load_is_refused_at_the_class_statement() -> None:
    with pytest.raises(DeviceDefinitionError, match="Odd has `save` and no `load`"):
        define(save=lambda self: b"state")


# --- activities ---


def in_words(device: PciDevice) -> bool:
    return device.may("start_dmaa")


def by_name(device: PciDevice) -> bool:
    return device.may(MISSPELT)


def in_a_lambda(device: PciDevice) -> Callable[[], bool]:
    return lambda: device.may("start_dmaa")


@pytest.mark.parametrize("asks", [in_words, by_name, in_a_lambda])
def test_an_unknown_activity_in_may_is_refused_when_the_device_is_made(asks: Any) -> None:
    with pytest.raises(DeviceDefinitionError) as refusal:
        define(ask=asks)()
    reported = str(refusal.value)
    assert reported.startswith(f"Odd.{asks.__name__} ({__file__}:")
    assert "about 'start_dmaa', which the table does not have" in reported
    assert 'did you mean "start_dma"?' in reported
    assert "it has start_dma, start_p2p_dma, raise_interrupt" in reported


@pytest.mark.parametrize("activity", ["start_dmaa", "", 7, None])
def test_an_unknown_activity_that_is_computed_is_refused_when_it_is_asked_about(
    activity: Any,
) -> None:
    device = define()()
    with pytest.raises(DeviceDefinitionError, match="which the table does not have"):
        device.may(activity)
    device.close()


def test_an_activity_of_a_changed_table_is_known(spec: Spec) -> None:
    from dataclasses import replace

    [first, *rest] = spec.activities
    changed = replace(spec, activities=(first, *rest, replace(first, name="start_dmaa")))
    device = define(ask=in_words)(spec=changed)
    assert device.may("start_dma")
    assert not device.may("start_dmaa")
    device.close()


# --- what comes from the kit ---


def test_what_a_device_raises_and_catches_comes_from_the_kit() -> None:
    assert kit.DmaFaultError is dma.DmaFaultError
    assert kit.NotPermittedError is dma.NotPermittedError
    assert kit.CommandError is errors.CommandError
    assert kit.ArcError is ArcError
    assert {"DmaFaultError", "NotPermittedError", "CommandError", "ArcError"} <= set(kit.__all__)
