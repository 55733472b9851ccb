"""README and the documentation: commands exist, outputs are real, links lead somewhere."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest
import shown
from repository import ROOT, files, script

from support.samples import sample_where
from vfio_migration.cli.main import parser

PAGES = [path for path in files() if path.suffix == ".md" and "tests" not in path.parts]
MAX_README_LINES = 150
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fenced(path: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(path.read_text("utf-8")) if kind == language]


def commands() -> list[tuple[str, str]]:
    """Every command shown on a page, with the page."""
    return [
        (name(path), line.removeprefix("$ "))
        for path in PAGES
        for text in fenced(path, "console")
        for line in text.splitlines()
        if line.startswith("$ ")
    ]


def targets() -> set[str]:
    """The targets that `make` lists."""
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))


def headings() -> list[str]:
    """The headings that `make test` prints, in order."""
    text = (ROOT / "Makefile").read_text("utf-8")
    gates = re.search(r"^test: (.*) ##.*\n\t@\$\(MAKE\) .* -j2 (.*)\n", text, re.MULTILINE)
    assert gates is not None
    found: list[str] = []
    for gate in [*gates[1].split(), *gates[2].split()]:
        rule = re.search(rf"^{gate}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
        assert rule is not None
        found += re.findall(r"@echo '(== .*)'", rule[1])
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_exists(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    match words:
        case ["make", target, *_]:
            assert target in targets()
        case ["vfio-migration", *arguments]:
            at = arguments.index(">") if ">" in arguments else None
            parser().parse_args(arguments[:at])
        case ["pip", "install", package]:
            assert re.fullmatch(r"vfio-migration(\[\w+\])?", package)
        case ["cp", source, _]:
            assert (ROOT / source).exists()
        case ["cd" | "git", *_]:
            pass  # of the reader's own tree
        case [program, *_]:
            assert script(program).exists(), f"{page}: {program} is not known here"


def test_the_two_front_doors_are_shown() -> None:
    front = [command for page, command in commands() if page == "README.md"]
    assert front[:2] == ["make demo", "make test"]


def output_blocks() -> list[shown.Block]:
    return [block for page in shown.PAGES for block in shown.blocks(page.read_text("utf-8"))]


@pytest.mark.parametrize(
    "block",
    # `make demo` proves and migrates all there is: the longest of them by far.
    sample_where(
        [block for block in output_blocks() if block.command not in shown.NOT_RUN],
        lambda block: block.command != "make demo",
    ),
    ids=lambda block: block.command,
)
def test_an_output_is_what_the_command_prints(block: shown.Block) -> None:
    real = shown.comparable(shown.real_output(block))
    assert shown.comparable(block.text) == real, "make docs writes it anew"


def test_every_marked_output_is_found() -> None:
    markers = sum(page.read_text("utf-8").count("<!-- output") for page in PAGES)
    assert len(output_blocks()) == markers > 2


@pytest.mark.parametrize("page", shown.PAGES, ids=name)
def test_a_program_is_shown_as_it_is(page: Path) -> None:
    text = page.read_text("utf-8")
    assert shown.with_files(text) == text, "make docs writes it anew"


def test_every_example_is_shown() -> None:
    listed = {path.name for path in (ROOT / "examples").glob("*.py")}
    text = (ROOT / "docs" / "examples.md").read_text("utf-8")
    of_the_demo = {"demo.py", "live_migration.py", "workload.py"}
    assert set(re.findall(r"<!-- file: examples/(\S+) -->", text)) == listed - of_the_demo
    assert all(f"../examples/{one}" in text for one in of_the_demo)


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= MAX_README_LINES


def test_the_output_of_make_test_has_its_headings() -> None:
    (block,) = (block for block in output_blocks() if block.command == "make test")
    assert [line for line in block.text.splitlines() if line.startswith("== ")] == headings()


def test_a_wrong_output_would_be_noticed() -> None:
    block = shown.Block("vfio-migration route RUNNING STOP", 0, "")
    real = shown.real_output(block)
    same = shown.comparable
    assert same(real) == same(real.rstrip() + "\n\n")
    assert same(real) != same(real.replace("STOP", "STOPPED"))
    assert same("proved in 0.43 s\n") == same("proved in 12.1 s\n")
    with pytest.raises(RuntimeError, match="exit status 0, not 1"):
        shown.real_output(shown.Block(block.command, 1, ""))


@pytest.mark.parametrize("page", [path for path in PAGES if fenced(path, "pycon")], ids=name)
def test_python_examples_do_what_they_show(page: Path) -> None:
    text = "\n".join(fenced(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(text, {}, name(page), name(page), 0)
    reported: list[str] = []
    result = doctest.DocTestRunner().run(test, out=reported.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(reported)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", path.read_text("utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    text = FENCE.sub("", page.read_text("utf-8"))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A, B\n[a](page.md#a-b) [b](#c) [c](d.md) [d](scheme://e) ![e](f.svg)\n")
    assert broken_links(page) == ["#c", "d.md", "f.svg"]
