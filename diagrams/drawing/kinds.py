"""What the strokes of a picture distinguish, and a theme has a look for."""

from __future__ import annotations

from typing import Literal

EdgeKind = Literal["moves", "opens", "keeps", "closes", "refused", "fails", "event"]
"""What an edge stands for.

An arc is one of the first four, by its effect on the data session ("moves" has none). "refused" is
a request that never sets out. The last two are events of the table: "fails" takes the device off
the grid, "event" puts it back on.
"""

ARC_KINDS: tuple[EdgeKind, ...] = ("moves", "opens", "keeps", "closes")
"""The kinds that are arcs of the machine."""

Emphasis = Literal["normal", "strong", "dim", "alarm"]
"""How much a node or edge stands out: on the route or run, beside it, or where it goes wrong."""

Change = Literal["same", "added", "removed", "changed"]
"""What became of a node or edge from one machine to another."""

Liveness = Literal["all", "some", "none", "off_grid"]
"""How many of the table's activities a state permits; "off_grid" is a device that has failed."""
