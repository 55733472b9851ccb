"""A Chromium without a window. Run by `make browser`, which finds one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)

from chromium import Chromium  # noqa: E402 - it is beside this file

CHROMIUM = os.environ.get("VFIO_MIGRATION_CHROMIUM")

# Without one there is nothing to run, and a skipped test would be a line in the report of
# `make test` that never goes away.
collect_ignore = [] if CHROMIUM else ["test_report.py"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """One browser for all tests; each opens a tab of its own."""
    assert CHROMIUM
    with Chromium(CHROMIUM) as browser:
        yield browser
