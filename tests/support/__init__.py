"""What the tests of several rooms share: second models, peers in plain Python, servers to test.

`explicit_...` are second models of the tables, which share no code with the first; `peer_habits`,
`raw_client` and `hostile_...` are peers with nothing of ours in them; `migration_harness`,
`forked_servers` and `server_process` start servers of ours; `kill_points` kills them.
"""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """The environment of a program that imports this package, as a test has it."""
    folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
