"""Fixtures of the tests of the coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Devices in threads; their sockets have short names, for messages to be compared."""
    monkeypatch.chdir(tmp_path)
    lab = Lab()
    yield lab
    lab.close()
