"""Pictures in a manual that Sphinx builds: drawn from the table whenever the manual is.

In its `conf.py`:

.. code-block:: python

   extensions = ["vfio_migration.diagrams.sphinx_directive"]

and on a page:

.. code-block:: rst

   .. vfio-figure:: my_table.toml
      :route: RUNNING STOP_COPY
      :flags: STOP_COPY,P2P

      From running to what is streamed.

The argument is a table, as a path from the folder of the page; without it, the table of this
package is drawn. `route` is one request, `migration` the name of a plan (`live`), `flags` the
capabilities; `no-title`, `no-legend` and `no-steps` leave out what the page has already, and
`width` is how wide it is shown. What is indented is the caption. The alternative text is the
picture in words, unless `alt` has another one. HTML gets an SVG, LaTeX a PDF.

A manual that cannot load extensions takes files: `vfio-migration diagram -o` writes them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar, Final

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from vfio_migration.diagrams.drawing.page import Page
from vfio_migration.diagrams.machine.extract import machine_graph
from vfio_migration.diagrams.machine.graph import Graph
from vfio_migration.diagrams.plan.extract import PlanError, migration_view, unnamed
from vfio_migration.diagrams.plan.text import render as to_text
from vfio_migration.diagrams.plan.view import PlanView
from vfio_migration.diagrams.render import Format, render
from vfio_migration.model import SpecError, load

_FORMATS: Final[tuple[Format, ...]] = ("svg", "pdf", "png")
"""A builder takes the first of these that it can show."""


class VfioFigure(SphinxDirective):
    """`.. vfio-figure:: [TABLE]`: a machine, a route through it, or a migration."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "flags": directives.unchanged_required,
        "route": directives.unchanged_required,
        "migration": directives.unchanged_required,
        "alt": directives.unchanged,
        "name": directives.unchanged,
        "width": directives.length_or_percentage_or_unitless,
        "no-title": directives.flag,
        "no-legend": directives.flag,
        "no-steps": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return the figure."""
        try:
            picture = self._picture()
        except (SpecError, PlanError) as error:
            raise self.error(f"vfio-figure: {error}") from None
        image = nodes.image(uri=self._files(picture))
        image["alt"] = self.options.get("alt", _in_words(picture))
        if "width" in self.options:
            image["width"] = self.options["width"]
        figure = nodes.figure("", image)
        self.set_source_info(figure)
        if self.content:
            parsed = self.parse_content_to_nodes()
            figure += nodes.caption("", "", *parsed[0].children)
            figure += [nodes.legend("", *parsed[1:])] if parsed[1:] else []
        self.add_name(figure)
        return [figure]

    def _picture(self) -> Graph | PlanView:
        path: str | None = None
        if self.arguments:
            _, path = self.env.relfn2path(self.arguments[0])
            self.env.note_dependency(path)
        spec = load(path)
        flags = self.options.get("flags")
        if "migration" in self.options and "route" in self.options:
            raise self.error("vfio-figure: take `migration` or `route`, one of them")
        if "migration" in self.options:
            return migration_view(spec, unnamed([flags, flags]), self.options["migration"])
        machine = spec.machine(flags)
        if "route" not in self.options:
            return machine_graph(machine)
        ends = self.options["route"].split()
        if len(ends) != 2:
            raise self.error("vfio-figure: `route` takes two states: the present one and the next")
        return machine_graph(machine, machine.route(*ends))

    def _files(self, picture: Graph | PlanView) -> str:
        """Draw it in every format that a builder may take; return where, for all of them."""
        folder = Path(self.env.doctreedir) / "vfio-figures"
        folder.mkdir(parents=True, exist_ok=True)
        page = Page(
            title="no-title" not in self.options,
            legend="no-legend" not in self.options,
            steps="no-steps" not in self.options,
        )
        drawn = {name: render(picture, name, page=page) for name in _FORMATS}
        stem = f"vfio-{hashlib.sha256(drawn['svg']).hexdigest()[:16]}"
        for name, data in drawn.items():
            path = folder / f"{stem}.{name}"
            if not path.exists():
                path.write_bytes(data)
        beside = (Path(self.env.srcdir) / self.env.docname).parent
        return f"{os.path.relpath(folder, beside)}/{stem}.*"


def _in_words(picture: Graph | PlanView) -> str:
    return picture.description if isinstance(picture, Graph) else to_text(picture)


def setup(app: Any) -> dict[str, Any]:
    """Add the directive, as Sphinx asks of an extension."""
    app.add_directive("vfio-figure", VfioFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


__all__ = ["VfioFigure", "setup"]
