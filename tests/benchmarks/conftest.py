"""Benchmarks are collected by `make bench`, which leaves out --benchmark-skip, and by nothing else.

pytest-benchmark would leave out only those that use its fixture.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect nothing here while benchmarks are to be skipped."""
    return True if config.getoption("benchmark_skip") else None
