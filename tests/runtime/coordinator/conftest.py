"""Fixtures of the tests of the coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.migration_harness import Harness


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """Devices in threads; their sockets have short names, for messages to be compared."""
    monkeypatch.chdir(tmp_path)
    harness = Harness()
    yield harness
    harness.close()
