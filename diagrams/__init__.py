"""Pictures and tables of a machine, made from the table and from runs.

    >>> from vfio_migration.diagrams import machine_graph, render
    >>> from vfio_migration.model import load
    >>> machine = load().machine("STOP_COPY,P2P")
    >>> picture = machine_graph(machine, machine.route("RUNNING", "RESUMING"))
    >>> svg = render(picture, "svg")

`machine_graph` and `trace_graphs` make a neutral `Graph`; `render` turns one into a file of any of
`FORMATS`, `to_dot`, `to_mermaid` and `to_json` into text; `tables` writes a whole table out for a
manual. Pictures in SVG, PNG, PDF and DOT need the extra "diagrams", which is imported only when one
is drawn; without it they raise `MissingDependency`. JSON, Mermaid and tables need nothing.

`python -m vfio_migration.diagrams.generate` keeps the committed pictures and tables up to date.
"""

from vfio_migration.diagrams.dot import to_dot
from vfio_migration.diagrams.errors import MissingDependency
from vfio_migration.diagrams.extract import machine_graph, trace_graphs
from vfio_migration.diagrams.graph import Edge, Graph, Heading, LegendEntry, Mark, Node
from vfio_migration.diagrams.palette import Theme
from vfio_migration.diagrams.plain import to_json, to_mermaid
from vfio_migration.diagrams.render import FORMATS, Format, render
from vfio_migration.diagrams.tables import TABLE_FORMATS, TableFormat, tables

__all__ = [
    "FORMATS",
    "TABLE_FORMATS",
    "Edge",
    "Format",
    "Graph",
    "Heading",
    "LegendEntry",
    "Mark",
    "MissingDependency",
    "Node",
    "TableFormat",
    "Theme",
    "machine_graph",
    "render",
    "tables",
    "to_dot",
    "to_json",
    "to_mermaid",
    "trace_graphs",
]
