"""Runs written by hand in which a state is carried from one device to another."""

from __future__ import annotations

import itertools
import zlib

from support.scripted_run import Script

DATA = bytes(range(256)) * 40
CUTS = (1000, 5000, 8000)


def cut(data: bytes, *cuts: int) -> list[bytes]:
    """Return data in pieces, cut at these places."""
    return [data[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(data)])]


class Migration(Script):
    """Devices, and what is carried from one to another."""

    def __init__(self, *pairs: tuple[str, str], reported: bool = True) -> None:
        super().__init__("src")
        self.lines = []
        self.pairs = pairs or (("src", "dst"),)
        for source, destination in self.pairs:
            if reported:
                self.on(source).add("device", role="source", pair=destination)
                self.on(destination).add("device", role="destination", pair=source)
            self.on(source).add("connected").get("RUNNING").set("STOP_COPY")
            self.on(destination).add("connected").get("STOP").set("RESUMING")

    def on(self, device: str) -> Migration:
        """Go on with this device."""
        self.device = device
        return self

    def reads(self, *pieces: bytes, end: bool = True, device: str = "src") -> Migration:
        """Read these from the source; with `end`, up to a short read."""
        self.on(device)
        for piece in pieces:
            about = {"size": len(piece), "crc": f"{zlib.crc32(piece):08x}"}
            self.do("MIG_DATA_READ", {"size": len(piece)}, about)
        if end:
            self.do("MIG_DATA_READ", {"size": 4096}, {"size": 0, "crc": "00000000"})
        return self

    def writes(self, *pieces: bytes, errno: str | None = None, device: str = "dst") -> Migration:
        """Write these into the destination."""
        self.on(device)
        for piece in pieces:
            about = {"size": len(piece), "crc": f"{zlib.crc32(piece):08x}"}
            self.do("MIG_DATA_WRITE", about, errno or {})
        return self

    def closes(self, device: str = "dst") -> Migration:
        """The destination takes the state over, and runs."""
        self.on(device).set("RUNNING")
        return self


def migration(*pieces: bytes, end: bool = True, reported: bool = True) -> Migration:
    """A source that is read in four pieces, and a destination that is given these."""
    return Migration(reported=reported).reads(*cut(DATA, *CUTS), end=end).writes(*pieces).closes()
