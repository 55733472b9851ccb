"""`python -m peer_habits SOCKET FILE HABIT...`: serve a device that holds what is in a file."""

from __future__ import annotations

import sys
from pathlib import Path

from peer_habits import servers
from peer_habits.base import Peer, serve

if __name__ == "__main__":
    path, held, *names = sys.argv[1:]
    habits = tuple(getattr(servers, name) for name in names if name != Peer.__name__)
    kind = type("HabitualPeer", (*habits, Peer), {})
    serve(Path(path), kind(Path(held).read_bytes()))
