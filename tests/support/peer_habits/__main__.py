"""`python -m support.peer_habits SOCKET FILE HABIT...`: serve a device that holds that file."""

from __future__ import annotations

import sys
from pathlib import Path

from support.peer_habits import servers
from support.peer_habits.base import Peer, serve

if __name__ == "__main__":
    path, held, *names = sys.argv[1:]
    habits = tuple(getattr(servers, name) for name in names if name != Peer.__name__)
    kind = type("HabitualPeer", (*habits, Peer), {})
    serve(Path(path), kind(Path(held).read_bytes()))
