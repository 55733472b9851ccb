"""`publish` writes what a manifest lists, all or nothing; `--check` finds each kind of drift."""

from __future__ import annotations

import argparse
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfio_migration.cli.arguments import Output
from vfio_migration.cli.main import main, parser
from vfio_migration.cli.publishing.making import COMMANDS
from vfio_migration.cli.publishing.marked import MarkerError, exchanged
from vfio_migration.runtime.files.atomic_file import AtomicFile, CannotWriteError

NINTH = Path(__file__).parents[1] / "data/ninth_state.toml"
PAGE = "Before.\n\n.. vfio-figure: begin arcs\n.. vfio-figure: end arcs\n\nAfter."
"""A page without a newline at its end."""
PART = '{ make = "tables --only arcs --format rst --level 0", into = "page.rst", marker = "arcs" }'
GRID = '{ make = "diagram --format ascii", into = "grid.txt" }'
PICTURE = '{ make = "diagram --format mmd -o pictures/machine.mmd" }'
UTF_16 = "utf-16"


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree, in which the tests are."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifest(*figures: str, more: str = "") -> None:
    Path("vfio-figures.toml").write_text(f"{more}\nfigures = [\n{','.join(figures)}\n]\n", "utf-8")


@pytest.fixture
def published(tree: Path, capsys) -> Path:
    """A tree with figures of each kind that are up to date."""
    manifest(PART, GRID, PICTURE, more='folders = ["pictures"]')
    Path("page.rst").write_text(PAGE, "utf-8")
    assert main(["publish"]) == 0
    assert capsys.readouterr().out == (
        "page.rst: written\ngrid.txt: written\npictures/machine.mmd: written\n"
        "3 of 3 files with figures written\n"
    )
    return tree


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys) -> str:
    """What is wrong; and nothing was written."""
    before = contents(Path())
    assert main(["publish"]) == 2
    assert contents(Path()) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# --- what is written ---


def test_what_is_written_is_what_the_command_writes(published: Path, capsys) -> None:
    for command, path in (
        (["diagram", "--format", "ascii"], "grid.txt"),
        (["diagram", "--format", "mmd"], "pictures/machine.mmd"),
    ):
        assert main(command) == 0
        assert capsys.readouterr().out == Path(path).read_text("utf-8")


def test_around_the_markers_every_byte_is_kept(published: Path, capsys) -> None:
    main(["tables", "--only", "arcs", "--format", "rst", "--level", "0"])
    made = capsys.readouterr().out
    text = Path("page.rst").read_text("utf-8")
    assert text == PAGE.replace("arcs\n..", f"arcs\n\n{made}\n..", 1)


def test_what_is_up_to_date_passes_the_check_and_is_not_written_again(published, capsys) -> None:
    inode = Path("grid.txt").stat().st_ino
    assert main(["publish", "--check"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["publish"]) == 0
    assert capsys.readouterr().out == "0 of 3 files with figures written\n"
    assert Path("grid.txt").stat().st_ino == inode


def test_a_manifest_elsewhere_is_about_the_tree_it_is_in(published, capsys, monkeypatch) -> None:
    (published / "inner").mkdir()
    monkeypatch.chdir(published / "inner")
    Path(published / "grid.txt").write_text("changed")
    assert main(["publish", "../vfio-figures.toml", "--check"]) == 1
    assert "write with: vfio-migration publish ../vfio-figures.toml" in capsys.readouterr().out
    assert main(["publish", "../vfio-figures.toml"]) == 0
    assert list(Path().iterdir()) == []
    assert Path.cwd() == published / "inner"


def test_a_table_of_their_own_is_what_figures_are_made_of(tree: Path, capsys) -> None:
    Path("mine.toml").write_bytes(NINTH.read_bytes())
    own = '{ make = "route STOP STOP_P2P", into = "route.txt" }'
    other = '{ make = "diagram builtin --format ascii", into = "builtin.txt" }'
    manifest(GRID, own, other, more='table = "mine.toml"')
    assert main(["publish"]) == 0
    assert "STOP_P2P" in Path("grid.txt").read_text()
    assert "STOP_P2P" in Path("route.txt").read_text()
    assert "STOP_P2P" not in Path("builtin.txt").read_text()


def test_code_is_published_too(tree: Path) -> None:
    manifest('{ make = "generate python -o engine/python --evidence engine/evidence" }')
    assert main(["publish"]) == 0
    assert {path.parent.name for path in Path("engine").rglob("*.py")} == {"python", "evidence"}
    assert main(["publish", "--check"]) == 0


def test_in_a_comment_of_c_each_line_begins_as_the_marker_does(tree: Path) -> None:
    before = "/*\r\n * Before.\r\n\t * vfio-figure: begin grid\r\n"
    after = "\t * vfio-figure: end grid\r\n */\r\n"
    Path("machine.h").write_bytes((before + after).encode())
    manifest('{ make = "diagram --format ascii --flags 1", into = "machine.h", marker = "grid" }')
    assert main(["publish"]) == 0
    content = Path("machine.h").read_bytes().decode()
    assert content.startswith(before)
    assert content.endswith(after)
    lines = content.removeprefix(before).removesuffix(after).split("\r\n")
    assert lines.pop() == ""
    assert "\n" not in "".join(lines)
    assert all(line.startswith("\t * ") or line == "\t *" for line in lines)
    assert main(["publish", "--check"]) == 0


def test_several_parts_of_one_file_are_moved_in_as_their_markers_are(tree: Path) -> None:
    other = PART.replace("arcs", "refusals")
    Path("page.rst").write_text(
        "* item\n\n  .. vfio-figure: begin arcs\n  old\n  .. vfio-figure: end arcs\n\n"
        ".. vfio-figure: begin refusals\n.. vfio-figure: end refusals\n"
    )
    manifest(other, PART)
    assert main(["publish"]) == 0
    text = Path("page.rst").read_text("utf-8")
    assert "\n  .. list-table:: Arcs\n" in text
    assert "\n.. list-table:: Pairs refused by name\n" in text
    assert "old" not in text
    assert main(["publish", "--check"]) == 0


def test_a_file_keeps_its_permissions(published: Path) -> None:
    Path("page.rst").write_text(PAGE)
    Path("page.rst").chmod(0o640)
    assert main(["publish"]) == 0
    assert Path("page.rst").stat().st_mode & 0o777 == 0o640


# --- what the check finds ---


def drift(capsys) -> str:
    """What the check finds; it writes nothing."""
    before = contents(Path())
    assert main(["publish", "--check"]) == 1
    assert contents(Path()) == before
    printed = capsys.readouterr().out
    assert re.search(r"\d files? differs?(; write with: vfio-migration publish)?\n$", printed)
    return printed


@pytest.mark.parametrize("path", ["grid.txt", "page.rst", "pictures/machine.mmd"])
def test_check_fails_on_a_byte_and_shows_it(published: Path, capsys, path: str) -> None:
    content = Path(path).read_bytes()
    place = content.index(b"RUNNING_P2P")
    Path(path).write_bytes(content[:place] + b"W" + content[place + 1 :])
    printed = drift(capsys)
    assert f"--- {path} (as it is)\n+++ {path} (as it should be)\n" in printed
    assert re.search(r"^-.*WUNNING_P2P", printed, re.MULTILINE)
    assert main(["publish"]) == 0
    assert Path(path).read_bytes() == content


def test_check_fails_on_a_cut_file_a_carriage_return_and_what_is_not_text(
    published, capsys
) -> None:
    content = Path("grid.txt").read_bytes()
    for wrong in (b"", content[:-1], content.replace(b"\n", b"\r\n", 1), content + b"\xff\x00"):
        Path("grid.txt").write_bytes(wrong)
        assert "grid.txt" in drift(capsys)


def test_check_fails_on_a_missing_file(published: Path, capsys) -> None:
    Path("pictures/machine.mmd").unlink()
    assert drift(capsys).startswith("pictures/machine.mmd: is missing\n")
    Path("page.rst").unlink()
    assert "page.rst: is missing; make it, with the two lines for each marker\n" in drift(capsys)


@pytest.mark.parametrize("name", ["deeper/old.dot", ".hidden"])
def test_check_fails_on_a_stray_file_and_nobody_removes_it(published, capsys, name: str) -> None:
    path = Path("pictures") / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("left over")
    assert f"{path}: is not a figure, and in a folder of figures\n" in drift(capsys)
    assert f"{path}: is not a figure; remove it, or list what makes it" in refusal(capsys)


WRONG_MARKERS = [
    ("nothing\n", "page.rst: has no line with `vfio-figure: begin arcs`; add two lines around"),
    (PAGE.replace("begin arcs", "begin arc"), "page.rst:4: ends arcs, which has not begun"),
    (PAGE.replace(": end arcs", ""), "page.rst:3: begins arcs, which does not end; add"),
    (
        PAGE.replace("begin", "b").replace("end", "begin").replace("b ", "end "),
        "page.rst:3: ends",
    ),
    (PAGE + "\n" + PAGE, "page.rst:9: begins arcs again, which begins in line 3 too; give one"),
    (
        PAGE.replace(".. vfio-figure: end", ".. vfio-figure: begin x\n.. vfio-figure: end"),
        "page.rst:4: begins x inside arcs, which begins in line 3; add `vfio-figure: end arcs`",
    ),
    (
        PAGE + "\n.. vfio-figure: begin x\n.. vfio-figure: end x\n",
        "page.rst:7: has a marker of no figure, `vfio-figure: begin x`; remove it, or add",
    ),
    (
        "vfio-figure: begin arcs vfio-figure: end arcs",
        "page.rst:1: has two markers in one line",
    ),
]


def test_a_wrong_marker_is_named_with_its_line_and_nothing_is_written(published, capsys) -> None:
    Path("grid.txt").unlink()
    for page, message in WRONG_MARKERS:
        Path("page.rst").write_text(page)
        assert message in drift(capsys)
        assert message in refusal(capsys)


# --- files of every kind ---


def test_a_page_in_another_encoding_takes_ascii_alone_and_keeps_its_bytes(tree, capsys) -> None:
    page = "Wörter\n<!-- vfio-figure: begin grid -->\n<!-- vfio-figure: end grid -->\n"
    Path("page.md").write_bytes(page.encode("latin-1"))
    figure = '{{ make = "diagram --format {}", into = "page.md", marker = "grid" }}'
    manifest(figure.format("text"))
    assert "page.md: is not UTF-8, and the figure has more than ASCII; write it" in refusal(capsys)
    manifest(figure.format("ascii"))
    assert main(["publish"]) == 0
    assert Path("page.md").read_bytes().startswith("Wörter\n<!--".encode("latin-1"))
    capsys.readouterr()
    Path("page.md").write_bytes(page.encode(UTF_16))
    assert "page.md: has no line with `vfio-figure: begin grid`" in refusal(capsys)


def test_a_figure_that_is_not_text_is_not_put_into_a_page(tree: Path, capsys) -> None:
    Path("page.md").write_text("vfio-figure: begin x\nvfio-figure: end x\n")
    manifest('{ make = "diagram --format png", into = "page.md", marker = "x" }')
    assert "is not text; give it a file of its own, with -o" in refusal(capsys)


def test_a_comment_is_not_ended_by_a_figure() -> None:
    content = b"/*\n * vfio-figure: begin x\n * vfio-figure: end x\n */\n"
    with pytest.raises(MarkerError, match="is a comment that `\\*/` would end"):
        exchanged("a.c", content, {"x": "a */ b\n"})


def test_a_comment_put_into_a_comment_is_one_comment(tree: Path) -> None:
    Path("a.h").write_text("/*\n * Before.\n * vfio-figure: begin x\n * vfio-figure: end x\n */\n")
    manifest(
        '{ make = "diagram --format ascii --comment c", into = "a.h", marker = "x" }',
        '{ make = "diagram --format ascii --comment c", into = "b.h" }',
    )
    assert main(["publish"]) == 0
    inside = Path("a.h").read_text().split("\n")
    alone = Path("b.h").read_text().split("\n")
    assert inside[3:-3] == alone[1:-2]
    assert (alone[0], alone[-2]) == ("/*", " */")


@pytest.mark.parametrize("path", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", ""])
def test_a_path_that_leaves_the_tree_is_refused(tree: Path, capsys, path: str) -> None:
    manifest(f'{{ make = "diagram --format text", into = "{path}" }}')
    assert "figures[0].into" in refusal(capsys)
    manifest(f"{{ make = \"diagram --format text -o '{path}'\" }}")
    assert "figures[0].make" in refusal(capsys)
    manifest(GRID, more=f'folders = ["{path}"]')
    assert "folders[0]" in refusal(capsys)


def test_a_link_is_followed_inside_the_tree_and_no_further(tree, capsys, tmp_path_factory) -> None:
    manifest(GRID)
    Path("real.txt").write_text("old")
    Path("grid.txt").symlink_to("real.txt")
    assert main(["publish"]) == 0
    assert Path("grid.txt").is_symlink()
    assert "RESUMING" in Path("real.txt").read_text()
    capsys.readouterr()
    outside = tmp_path_factory.mktemp("outside") / "theirs"
    outside.write_text("theirs")
    Path("grid.txt").unlink()
    Path("grid.txt").symlink_to(outside)
    assert "grid.txt: leads out of the folder of the manifest" in drift(capsys)
    assert "grid.txt: leads out of the folder of the manifest" in refusal(capsys)
    assert outside.read_text() == "theirs"
    Path("grid.txt").unlink()
    manifest(GRID.replace("grid.txt", "linked/grid.txt"))
    Path("linked").symlink_to(outside.parent)
    assert "linked/grid.txt: leads out of the folder" in refusal(capsys)
    assert list(outside.parent.iterdir()) == [outside]


def test_what_is_not_a_file_is_named_and_not_waited_for(tree: Path, capsys) -> None:
    manifest(GRID)
    os.mkfifo("grid.txt")
    assert main(["publish"]) == 2
    assert "grid.txt: is a pipe; name a file" in capsys.readouterr().err
    Path("grid.txt").unlink()
    Path("grid.txt").mkdir()
    assert "grid.txt: is a folder; name a file" in refusal(capsys)


def test_a_read_only_file_is_left_and_so_are_the_others(published: Path, capsys) -> None:
    Path("page.rst").write_text(PAGE)
    Path("grid.txt").write_text("old")
    Path("grid.txt").chmod(0o444)
    assert "grid.txt is read-only; make it writable" in refusal(capsys)


def test_where_no_folder_can_be_made_nothing_is_written(published: Path, capsys) -> None:
    manifest(PART, GRID.replace("grid.txt", "page.rst/grid.txt"))
    Path("page.rst").write_text(PAGE)
    assert "page.rst/grid.txt" in refusal(capsys)


def test_if_the_last_file_cannot_be_written_the_first_is_put_back(
    published: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("page.rst").write_text(PAGE)
    Path("grid.txt").unlink()
    Path("pictures/machine.mmd").write_text("old")
    commit = AtomicFile.commit

    def fail(file: AtomicFile) -> None:
        if file.path == Path("pictures/machine.mmd").resolve():
            raise CannotWriteError(file.path, "cannot be written: no", "make room")
        commit(file)

    monkeypatch.setattr(AtomicFile, "commit", fail)
    assert "pictures/machine.mmd cannot be written: no; make room" in refusal(capsys)
    assert not list(Path().rglob("*.part"))


def test_an_interrupt_comes_when_every_file_has_its_name(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = ("grid.txt", "pictures/machine.mmd")
    before = contents(Path())
    for name in stale:
        Path(name).write_text("old", "utf-8")
    commit = AtomicFile.commit

    def interrupted(file: AtomicFile) -> None:
        if file.path.is_relative_to(Path.cwd()):  # and not where the figures are made
            signal.raise_signal(signal.SIGINT)
        commit(file)

    monkeypatch.setattr(AtomicFile, "commit", interrupted)
    arguments = parser().parse_args(["publish"])
    with pytest.raises(KeyboardInterrupt):
        arguments.run(arguments)
    assert contents(Path()) == before


def test_a_file_with_markers_is_not_replaced_as_a_whole(tree: Path, capsys) -> None:
    """Somebody has forgotten to name the marker; what stands around it is theirs."""
    Path("page.rst").write_text(PAGE, "utf-8")
    manifest('{ make = "tables --only arcs --format rst", into = "page.rst" }')
    assert "page.rst:3: has markers, and a figure is to be all of the file" in refusal(capsys)
    assert main(["publish", "--check"]) == 1
    assert "write with" not in capsys.readouterr().out  # it would not be written


def test_what_is_gits_own_is_left_alone(tree: Path, capsys) -> None:
    Path(".git").mkdir()
    Path(".git/config").write_text("[core]\n", "utf-8")
    manifest('{ make = "diagram --format ascii", into = ".git/config" }')
    assert ".git/config: is git's own" in refusal(capsys)


# --- manifests ---


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (
            '{ make = "serve x" }',
            'figures[0].make: "serve x": is not the command of a figure; begin',
        ),
        ('{ make = "" }', "begin it with one of diagram, tables, table, route, generate"),
        ('{ make = "vfio-migration diagram" }', "leave that word out"),
        ('{ make = "diagram \'x" }', "is not a command line: No closing quotation"),
        ('{ make = "diagram --colour red -o x.dot" }', "unrecognized arguments: --colour"),
        ('{ make = "diagram --theme red -o x.dot" }', "argument --theme: invalid choice: 'red'"),
        ('{ make = "diagram --flags 99 -o x.dot" }', "99"),
        ('{ make = "diagram nowhere.toml -o x.dot" }', "nowhere.toml"),
        ('{ make = "diagram" }', "is put nowhere; add -o FILE to it, or a key into = its file"),
        ('{ make = "diagram -o x.dot", into = "x.txt" }', "leave out one of them"),
        ('{ make = "route RUNNING STOP", marker = "x" }', "figures[0].marker"),
        (
            '{ make = "route STOP STOP", into = "x", marker = "a b" }',
            "cannot be the name of a marker",
        ),
        ('{ make = "diagram --help" }', "prints how a command is used, and makes nothing"),
        ('{ make = "generate python -o x --check" }', "ends with the exit status 1"),
        ('{ mkae = "diagram" }', 'did you mean "make"?'),
        ("{ make = 1 }", "is a whole number where a string is expected"),
    ],
)
def test_what_is_wrong_with_a_figure_is_stated_with_its_place(
    tree, capsys, figure, message
) -> None:
    manifest(figure)
    assert message in refusal(capsys)


def test_every_wrong_figure_is_named_at_once(tree: Path, capsys) -> None:
    manifest('{ make = "serve" }', GRID, '{ make = "diagram" }')
    message = refusal(capsys)
    assert "vfio-figures.toml: 2 mistakes" in message
    assert "figures[0].make" in message
    assert "figures[2].make" in message


def test_two_figures_do_not_write_one_file(tree: Path, capsys) -> None:
    manifest(GRID, GRID)
    assert 'figures[1]: "grid.txt": is written by a figure before it too' in refusal(capsys)
    Path("page.rst").write_text(PAGE)
    manifest(PART, PART)
    assert 'figures[1]: "page.rst: arcs": is written by a figure before it too' in refusal(capsys)


def test_what_is_read_is_not_written(tree: Path, capsys) -> None:
    Path("mine.toml").write_bytes(NINTH.read_bytes())
    manifest('{ make = "table --spec mine.toml", into = "mine.toml" }')
    err = refusal(capsys)
    assert "mine.toml" in err
    manifest('{ make = "route STOP RUNNING", into = "vfio-figures.toml" }')
    assert "vfio-figures.toml: is written, and is the manifest" in refusal(capsys)


def test_a_manifest_that_cannot_be_read_is_named(tree: Path, capsys) -> None:
    assert 'MANIFEST: "vfio-figures.toml": does not exist; write one, as' in refusal(capsys)
    Path("vfio-figures.toml").write_text("figures = [")
    assert "is not valid TOML" in refusal(capsys)


def options() -> Iterator[tuple[str, argparse.Action]]:
    (commands,) = (
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    for name in COMMANDS:
        yield from _options(name, commands.choices[name])


def _options(name: str, command: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner, choice in action.choices.items():
                yield from _options(f"{name} {inner}", choice)
        else:
            yield name, action


def test_whatever_a_command_writes_is_known_to_publish() -> None:
    """An option that writes and is not marked would be written into the tree by a check."""
    for name, action in options():
        words = re.match(r"where to write|write (?!down)", action.help or "")
        writes = words is not None and action.metavar is not None
        assert writes == (action.type is Output), f"{name} {action.option_strings}"
