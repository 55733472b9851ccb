"""Sources that others wrote. Run by `make sources`, which fetches them."""

from __future__ import annotations

import os

# Without them there is nothing to run: `make test` fetches nothing, and a skipped test would be a
# line in its report that never goes away.
_TESTS = ["test_debian_sources.py", "test_tests_for_linux.py"]
collect_ignore = [] if os.environ.get("VFIO_MIGRATION_SOURCES") else _TESTS
