"""What tests of several rooms share."""

from __future__ import annotations

import gc
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from support import examples, samples
from vfio_migration.model import Spec, load

DATA = Path(__file__).parent / "data"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT for what it starts in the background, and an ignored signal is
    # inherited. The tests interrupt themselves and the programs that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

examples.register()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    samples.mark_the_rest(items)  # before pytest leaves out what `-m` does not choose


def pytest_collection_finish() -> None:
    # Tests that count descriptors have the collector run first. What stays for the whole run, some
    # million objects, need not be looked through each time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def spec() -> Spec:
    """The table that comes with the package."""
    return load()


@pytest.fixture(scope="session")
def ninth_state() -> Spec:
    """A copy of the table with a ninth state, off to the side with its own arcs."""
    return load(DATA / "ninth_state.toml")


@pytest.fixture(scope="session")
def linux_paths() -> dict[str, Any]:
    """What Linux answers, cell by cell: paths[flags][current][target]."""
    return json.loads((DATA / "linux-7.3-paths.json").read_text("utf-8"))["paths"]
