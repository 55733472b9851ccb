"""Sphinx's settings for the manual, which `make site` builds with tools/manual_site.py."""

from importlib.metadata import version as _version

project = "vfio-migration"
release = version = _version("vfio-migration")
copyright = "the contributors"  # noqa: A001 - what Sphinx calls it
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "vfio_migration.diagrams.sphinx_directive",
]
root_doc = "index"

html_theme = "furo"
html_title = "vfio-migration"
html_copy_source = False
html_show_sphinx = False

# Anchors as forges make them, so that a link holds here and there.
myst_heading_anchors = 6

napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# In a docstring, `backquotes` are code, as on a forge.
default_role = "literal"
# A message on a terminal is in no language.
suppress_warnings = ["misc.highlighting_failure"]
