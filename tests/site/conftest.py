"""The manual as a site. Run by `make site`, which builds it and brings Sphinx."""

from __future__ import annotations

import os

# Without Sphinx there is nothing to run, and a skipped test would be a line in the report of
# `make test` that never goes away.
collect_ignore = [] if os.environ.get("VFIO_MIGRATION_SITE") else ["test_site.py"]
