"""The picture that goes with a verdict in a mail: the grid in ASCII, and what a change did."""

from __future__ import annotations

from dataclasses import replace

from vfio_migration.diagrams.machine.changes import change_graph
from vfio_migration.diagrams.machine.extract import machine_graph
from vfio_migration.diagrams.machine.text import text_lines
from vfio_migration.model import Spec


def mail_picture(new: Spec, old: Spec | None, width: int) -> list[str]:
    """Return a table with every capability as lines of text.

    Args:
        new: The table.
        old: The table it is compared with: what it has otherwise is marked. Or None.
        width: How wide the lines may be.
    """
    machine = new.machine()
    graph = machine_graph(machine) if old is None else change_graph(machine, old.machine())
    return text_lines(replace(graph, title="", subtitle="", legend=()), width, ascii_only=True)
