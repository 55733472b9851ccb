"""The tables for manuals say all that the table specifies, in markup that is valid."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

import pytest

from vfio_migration.diagrams import tables
from vfio_migration.diagrams.markup import markdown, restructured_text
from vfio_migration.diagrams.tables import Section, sections


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """Heading to rows of cells, header first, read as GitHub reads them."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.split("\n"):
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if set("".join(cells)) != {"-"}:
                found.setdefault(heading, []).append(cells)
    return found


def rst_tables(text: str) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    lines = text.split("\n")
    heading = ""
    for index, line in enumerate(lines):
        if re.fullmatch(r"(=+|-+|~+)", line):
            assert len(line) >= len(lines[index - 1]), "an underline shorter than its title"
            heading = lines[index - 1]
        elif line.startswith("   * - "):
            found.setdefault(heading, []).append([line[7:]])
        elif line.startswith("     - "):
            found[heading][-1].append(line[7:])
    return found


def unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text).replace("``", "`")


@pytest.mark.parametrize("format_", ["md", "rst"])
def test_every_word_of_the_table_is_there(spec, format_):
    """Each string of each row, whatever the row is of: names, reasons, summaries, sources."""
    text = unquoted(tables(spec, format_))
    for field in dataclasses.fields(spec):
        rows = getattr(spec, field.name)
        if isinstance(rows, tuple):
            for row in rows:
                for key, value in dataclasses.asdict(row).items():
                    # Those are spelled out in words.
                    spelled = key in ("when", "interior", "transfer") or value == "none"
                    if isinstance(value, str) and not spelled:
                        assert value in text, (field.name, key, value)


@pytest.mark.parametrize("format_", ["md", "rst"])
def test_one_row_for_each(spec, format_):
    read = markdown_tables if format_ == "md" else rst_tables
    found = {name: len(rows) - 1 for name, rows in read(tables(spec, format_)).items()}
    for name, rows in {
        "States": spec.states,
        "What a device may do": spec.operations,
        "Data sessions": spec.sessions,
        "Arcs": spec.arcs,
        "Pairs refused by name": spec.refusals,
        "How a request is decided": spec.requests,
        "Routing": spec.routing,
        "Events": spec.events,
        "Capabilities": spec.capabilities,
        "Profiles": spec.profiles,
    }.items():
        assert found[name] == len(rows), name


@pytest.mark.parametrize("format_", ["md", "rst"])
def test_tables_are_rectangular(spec, ninth_state, format_):
    read = markdown_tables if format_ == "md" else rst_tables
    for table in (spec, ninth_state):
        for name, rows in read(tables(table, format_)).items():
            assert len({len(row) for row in rows}) == 1, name


def test_both_formats_state_the_same(spec):
    one = markdown_tables(tables(spec, "md"))
    two = rst_tables(tables(spec, "rst"))
    plain = {
        unquoted(name): [[unquoted(cell) for cell in row] for row in rows]
        for name, rows in two.items()
    }
    assert plain == {
        unquoted(name): [[unquoted(cell) for cell in row] for row in rows]
        for name, rows in one.items()
    }


def test_next_steps_are_those_of_linux(spec, linux_paths):
    """Every cell of the four matrices against what the kernel answered."""
    found = markdown_tables(tables(spec))
    cells = 0
    for word, paths in linux_paths.items():
        names = ", ".join(f"`{name}`" for name in spec.machine(int(word)).names)
        header, *rows = found[f"Next steps with {names}"]
        for start, *steps in rows:
            for target, step in zip(header[1:], steps, strict=True):
                answer = paths[start.strip("`")][target.strip("`")]
                wanted = "—" if answer is None else f"`{answer[0]}`" if answer else "stays"
                if start == target and not answer and step == "—":
                    # ERROR to ERROR: Linux's function finds nothing to do, its caller refuses.
                    continue
                assert step == wanted, (word, start, target)
                cells += 1
    assert cells > 25 + 36 + 36 + 64 - 8


def test_markup_in_a_table_stays_text():
    section = Section(
        title="A | b_",
        text="*not* bold, <not> markup, `code`, a lone ` quote",
        header=("`a|b`", "- no list"),
        rows=(("trailing_ word_", "1. no list"), ("back\\slash", "two\nlines")),
    )
    text = markdown("T", [section])
    assert "| `a\\|b` | - no list |" in text
    assert "\\*not\\* bold, \\<not> markup, `code`" in text
    assert "| trailing\\_ word\\_ | 1. no list |" in text
    assert "| back\\\\slash | two lines |" in text
    text = restructured_text("T", [section])
    assert "   * - ``a|b``\n     - \\- no list\n" in text
    assert "   * - trailing\\_ word\\_\n     - \\1. no list\n" in text
    assert "\\*not\\* bold" in text
    assert "a lone \\` quote" in text


def test_rst_is_valid(spec, ninth_state):
    """Read by docutils itself, where it is installed."""
    core = pytest.importorskip("docutils.core")
    for table in (spec, ninth_state):
        core.publish_doctree(
            tables(table, "rst"), settings_overrides={"halt_level": 2, "report_level": 2}
        )


def test_an_unknown_format_is_refused(spec):
    with pytest.raises(
        ValueError, match="'tex' is not a format of a document: it is one of md, rst"
    ):
        tables(spec, "tex")


def test_ninth_state_is_in_the_tables(ninth_state):
    found = markdown_tables(tables(ninth_state))
    assert "`STOP_P2P`" in [row[0] for row in found["States"]]
    assert "`deep_stopped`" in [row[0] for row in found["What a device may do"]]
    header = found["Next steps with `STOP_COPY`"][0]
    assert "`STOP_P2P`" in header


def test_a_change_of_the_table_changes_its_section(spec):
    """The tables are read from the table, not remembered."""
    changed = replace(spec, refusals=spec.refusals[:1])
    before = {section.title: section for section in sections(spec)}
    after = {section.title: section for section in sections(changed)}
    assert len(after["Pairs refused by name"].rows) == 1
    assert before["Events"] == after["Events"]


@pytest.mark.parametrize("form", ["md", "rst"])
def test_a_newcomer_learns_what_it_is(spec, form):
    notice, _, rest = tables(spec, form).partition("\n\n")
    assert "Made by vfio-migration tables. Do not edit this: edit the table" in notice
    before, _, _ = rest.partition("States")
    assert f"This is the whole of the table {'`' * (1 if form == 'md' else 2)}vfio-v2" in before
    assert "for each set of them, which state comes next" in before
    # What the words speak of is there.
    assert "Source" in rest.partition("States")[2]
