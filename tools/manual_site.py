"""Builds the manual into out/site: the pages of docs, and the reference from the docstrings.

    make site

The pages are plain Markdown that a forge shows as it is. So that Sphinx can take them, they are
copied into build/site/source with the links that lead out of docs changed, and the lists of
docs/index.md become the table of contents. Every warning is an error, each `>>>` of a docstring is
run, and each link that stays inside is followed. With --links those that lead outside are, too.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
BUILD: Final = ROOT / "build" / "site"
OUT: Final = ROOT / "out" / "site"
LEFT_OUT: Final = {"tables.rst"}
"""What docs has twice: the tables are there as Markdown, too."""
REFERENCE: Final = {
    "": "The first names",
    "model": "Tables and machines",
    "runtime": "The engine",
    "runtime.kit": "Devices",
    "runtime.server": "Servers",
    "runtime.client": "Clients",
    "runtime.coordinator": "The coordinator",
    "runtime.testing": "Tests of a device",
    "verifier": "The prover",
    "diagrams": "Pictures and tables",
    "diagrams.sphinx_directive": "Pictures in a Sphinx manual",
    "generators": "Engines as source",
}
"""What each module of the reference is about."""
_SAMPLES: Final = {
    "diagrams.sphinx_directive": [
        "",
        "So it looks:",
        "",
        ".. vfio-figure::",
        "   :route: PRE_COPY STOP_COPY",
        "   :no-title:",
        "",
        "   What a request for STOP_COPY leads to in PRE_COPY.",
    ]
}
_FENCED: Final = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def main() -> int:
    """Build it; 0 if there is nothing to complain of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", action="store_true", help="follow links that lead outside, too")
    arguments = parser.parse_args()
    source = BUILD / "source"
    for folder in (source, BUILD / "doctrees", OUT):
        shutil.rmtree(folder, ignore_errors=True)
    make_source(source)
    make_reference(source / "reference")
    builders = [("html", OUT), ("doctest", BUILD / "doctest")]
    builders += [("linkcheck", BUILD / "links")] if arguments.links else []
    for builder, out in builders:
        if status := build(source, builder, out):
            return status
    broken = sorted(broken_links(OUT))
    print("\n".join(broken) if broken else f"{OUT.relative_to(ROOT)}/index.html")
    return 1 if broken else 0


def build(source: Path, builder: str, out: Path) -> int:
    """Have Sphinx build something; return its exit status."""
    from sphinx.cmd.build import main as sphinx

    words = ["-q", "-W", "--keep-going", "-b", builder, "-c", DOCS, "-d", BUILD / "doctrees"]
    return int(sphinx([str(word) for word in (*words, source, out)]))


# --- the source folder ---


def make_source(source: Path) -> None:
    """Write what Sphinx reads: the pages, and what they link."""
    pages = [*DOCS.rglob("*.md"), *(ROOT / f"{name}.md" for name in ROOT_PAGES)]
    linked: set[Path] = set()
    for page in sorted(pages):
        place = source / moved(page)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = _relinked(page, linked)
        if page.stem in ("index", "README"):
            text += "".join(_contents(text, page.stem == "index"))
        place.write_text(text, "utf-8")
    for file in sorted(linked):
        place = source / moved(file)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


ROOT_PAGES: Final = ("CHANGELOG", "CONTRIBUTING", "SECURITY")


def moved(file: Path) -> Path:
    """Return where a file of the repository is in the source folder."""
    inside = file.relative_to(ROOT)
    if inside.parts[0] == "docs":
        return Path(*inside.parts[1:])
    return inside if inside.suffix == ".md" and len(inside.parts) == 1 else Path("files") / inside


def _relinked(page: Path, linked: set[Path]) -> str:
    """Return the text of a page with its links as they are in the source folder."""
    parts = _FENCED.split(page.read_text("utf-8"))  # every second one is code
    parts[::2] = [_LINK.sub(lambda link: _link(page, link, linked), part) for part in parts[::2]]
    return "".join(parts)


def _link(page: Path, link: re.Match[str], linked: set[Path]) -> str:
    """Return a link as it is in the source folder; a folder cannot be linked."""
    mark, text, whole = link.groups()
    place, hash_, anchor = whole.partition("#")
    if re.match(r"[a-z]+:", whole) or not place:
        return link[0]
    target = (page.parent / place).resolve()
    if target.is_dir() or target == ROOT / "README.md":
        return text
    if target.suffix != ".md":
        linked.add(target)
    there = os.path.relpath(moved(target), moved(page).parent)
    return f"{mark}[{text}]({there}{hash_}{anchor})"


def _contents(text: str, is_root: bool) -> Iterator[str]:
    """Yield a table of contents for each section of a page of links."""
    found: dict[str, None] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        links = (link[3].partition("#")[0] for link in _LINK.finditer(section))
        pages = [link for link in links if link.endswith(".md") and link not in found]
        found |= dict.fromkeys(pages)
        yield from _tree(section.partition("\n")[0] if is_root else "", pages)
    if is_root:
        yield from _tree("Reference", [f"reference/{_file(name)}" for name in REFERENCE])


def _tree(caption: str, pages: list[str]) -> Iterator[str]:
    if pages:
        options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
        yield "\n".join(["", "```{toctree}", *options, "", *pages, "```", ""])


def _file(module: str) -> str:
    return f"{module or 'vfio_migration'}.rst"


def make_reference(folder: Path) -> None:
    """Write a page for each package; what several of them export is on the first one's."""
    folder.mkdir(parents=True)
    known: set[int] = set()
    for module, title in REFERENCE.items():
        name = f"vfio_migration.{module}".rstrip(".")
        lines = [title, "=" * len(title), "", f".. automodule:: {name}"]
        # What the first names are is on the pages of their packages; a directive is its options.
        if module not in ("", "diagrams.sphinx_directive"):
            package = importlib.import_module(name)
            exported = {one: id(getattr(package, one)) for one in package.__all__}
            again = [one for one, identity in exported.items() if identity in known]
            lines += ["   :members:"]
            lines += [f"   :exclude-members: {', '.join(again)}"] if again else []
            known.update(exported.values())
        lines += _SAMPLES.get(module, ())
        (folder / _file(module)).write_text("\n".join([*lines, ""]), "utf-8")


# --- the links of what was built ---


class _Page(HTMLParser):
    """What a page has: its anchors, and what it links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an anchor or a link."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken_links(folder: Path) -> Iterator[str]:
    """Yield each link of a site that leads to no file of it, or to no anchor there."""
    pages = {path: _Page(path.read_text("utf-8")) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file():
                yield f"{path.relative_to(folder)}: {link} leads nowhere"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path.relative_to(folder)}: {link}: there is no such anchor"


if __name__ == "__main__":
    sys.exit(main())
