"""What the site is built of, and how its links are followed; Sphinx is not needed for either."""

from __future__ import annotations

import re
from pathlib import Path

import manual_site
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT, pyproject

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "source"
    manual_site.make_source(folder)
    return folder


def listed(page: Path) -> set[Path]:
    """Return what the tables of contents of a page name, and what those pages name."""
    found: set[Path] = set()
    for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        for line in tree.splitlines():
            if line and not line.startswith(":"):
                target = (page.parent / line).resolve()
                found |= {target, *(listed(target) if target.stem == "README" else ())}
    return found


def test_every_page_is_in_the_table_of_contents(source: Path) -> None:
    pages = {path for path in source.rglob("*") if path.suffix in (".md", ".rst")}
    pages -= {path for path in pages if path.is_relative_to(source / "files")}
    found = listed(source / "index.md")
    assert {path for path in found if path.parent.name != "reference"} == pages - {
        source / "index.md"
    }
    assert len(found) == len(pages) - 1 + len(manual_site.REFERENCE)


def test_every_link_leads_to_a_file_of_the_source(source: Path) -> None:
    for page in source.rglob("*.md"):
        text = manual_site._FENCED.sub("", page.read_text("utf-8"))
        for _, _, link in manual_site._LINK.findall(text):
            place = link.partition("#")[0]
            if place and not re.match(r"[a-z]+:", link):
                assert (page.parent / place).is_file(), (page.name, link)


def test_pages_for_a_forge_have_nothing_that_only_sphinx_reads() -> None:
    for page in DOCS.rglob("*.md"):
        text = page.read_text("utf-8")
        assert not re.search(r"^(```|:::)\{|\{(doc|ref|py:\w+)\}`", text, re.MULTILINE), page.name


def test_a_broken_link_of_the_site_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a id="x" href="b.html#y"></a><a href="#x"></a><img src="no.svg">'
        '<a href="b.html#z"></a><a href="https://example.org/no"></a>',
        "utf-8",
    )
    (tmp_path / "b.html").write_text('<p id="y"><a href="a.html">a</a>', "utf-8")
    assert sorted(manual_site.broken_links(tmp_path)) == [
        "a.html: b.html#z: there is no such anchor",
        "a.html: no.svg leads nowhere",
    ]


def test_what_the_site_needs_is_pinned_with_digests() -> None:
    text = (ROOT / "requirements" / "site.txt").read_text("utf-8")
    row = r"^([\w.-]+)==(\S+).*\\\n(?:    --hash=sha256:[0-9a-f]{64}.*\n)+"
    pins = re.findall(row, text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE))
    for line in pyproject()["project"]["optional-dependencies"]["site"]:
        requirement = Requirement(line)
        wanted = canonicalize_name(requirement.name)
        versions = [version for name, version in pins if name == wanted]
        assert versions, f"make lock: {wanted} is not pinned"
        assert all(requirement.specifier.contains(version) for version in versions)
