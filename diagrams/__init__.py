"""Pictures and tables of a machine, made from the table and from runs.

    >>> from vfio_migration.diagrams import machine_graph, render
    >>> from vfio_migration.model import load
    >>> machine = load().machine("STOP_COPY,P2P")
    >>> picture = machine_graph(machine, machine.route("RUNNING", "RESUMING"))
    >>> svg = render(picture, "svg")

`machine_graph` and `trace_graphs` make a neutral `Graph`, `change_graph` one of what two machines
have otherwise, `migration_view` a neutral `PlanView` of what each device of a group does in a
migration, `run_view` one of what several devices do in a run; `render` turns either into a file of
any of `FORMATS`, for a `Page` of any width, `caption` and `alternative` into words, `to_text` a
plan into text for a terminal, `text_lines` a graph into text of boxes and arrows, `to_dot`,
`to_mermaid` and `to_json` a graph into text for programs; `tables` writes a whole table out for a
manual. Pictures in SVG, PNG, PDF and DOT need the extra "diagrams", which is imported only when one
is drawn; without it they raise `MissingExtraError`. JSON, Mermaid, text, plain DOT and tables need
nothing.

`vfio-migration publish` keeps the pictures and tables that a tree embeds up to date.
"""

from vfio_migration.diagrams.comment import COMMENTS, Comment
from vfio_migration.diagrams.drawing.page import Page, TooNarrowError
from vfio_migration.diagrams.drawing.palette import Theme
from vfio_migration.diagrams.machine.changes import change_graph
from vfio_migration.diagrams.machine.dot import to_dot
from vfio_migration.diagrams.machine.extract import machine_graph, trace_graphs
from vfio_migration.diagrams.machine.graph import Edge, Graph, Heading, LegendEntry, Mark, Node
from vfio_migration.diagrams.machine.text import text_lines
from vfio_migration.diagrams.plain import to_json, to_mermaid
from vfio_migration.diagrams.plan.extract import Pair, PlanError, migration_view
from vfio_migration.diagrams.plan.run import run_view
from vfio_migration.diagrams.plan.text import render as to_text
from vfio_migration.diagrams.plan.view import PlanView
from vfio_migration.diagrams.render import FORMATS, Format, render
from vfio_migration.diagrams.tables import TABLE_FORMATS, TableFormat, tables
from vfio_migration.diagrams.words import alternative, caption

__all__ = [
    "COMMENTS",
    "FORMATS",
    "TABLE_FORMATS",
    "Comment",
    "Edge",
    "Format",
    "Graph",
    "Heading",
    "LegendEntry",
    "Mark",
    "Node",
    "Page",
    "Pair",
    "PlanError",
    "PlanView",
    "TableFormat",
    "Theme",
    "TooNarrowError",
    "alternative",
    "caption",
    "change_graph",
    "machine_graph",
    "migration_view",
    "render",
    "run_view",
    "tables",
    "text_lines",
    "to_dot",
    "to_json",
    "to_mermaid",
    "to_text",
    "trace_graphs",
]
