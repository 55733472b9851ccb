"""The tables for manuals say all that the table specifies, in markup that is valid."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from vfio_migration.diagrams import tables
from vfio_migration.diagrams.markup import RST_UNDERLINES, Document, markdown, restructured_text
from vfio_migration.diagrams.tables import Section, sections
from vfio_migration.generators import next_steps_array, next_steps_comment
from vfio_migration.model import SpecError

MAX_COLUMNS = 78


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
    text = markdown(Document(title="T", sections=(section,)))
    assert "| `a\\|b` | - no list |" in text
    assert "\\*not\\* bold, \\<not> markup, `code`" in text
    assert "| trailing\\_ word\\_ | 1. no list |" in text
    assert "| back\\\\slash | two lines |" in text
    text = restructured_text(Document(title="T", sections=(section,)))
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
        ValueError,
        match="'tex' is not a format of a document: it is one of md, rst, html, csv, json",
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


# --- in pieces ---


def test_a_piece_is_the_tables_that_were_asked_for_and_no_title(spec):
    found = markdown_tables(tables(spec, only=["arcs", "refusals"]))
    whole = markdown_tables(tables(spec))
    assert found == {name: whole[name] for name in ("Arcs", "Pairs refused by name")}
    text = tables(spec, only=["arcs"])
    assert spec.title not in text
    assert "\n## Arcs\n" in text


def test_of_the_next_steps_one_capability_set_can_be_chosen(spec):
    found = markdown_tables(tables(spec, only=["next-steps"], flags="STOP_COPY,P2P"))
    assert list(found) == ["Next steps with `STOP_COPY`, `P2P`"]
    with pytest.raises(SpecError):
        tables(spec, only=["next-steps"], flags="P2P")


def test_a_kind_that_there_is_not_is_refused(spec):
    with pytest.raises(ValueError, match="'arc' is not a kind of table: there are"):
        tables(spec, only=["arc"])


@pytest.mark.parametrize("level", range(1, 6))
def test_headings_have_the_level_that_was_asked_for(spec, level):
    text = tables(spec, only=["states", "next-steps"], level=level)
    headings = {line.split(" ")[0] for line in text.splitlines() if line.startswith("#")}
    assert headings == {"#" * level}
    html = tables(spec, "html", only=["states", "next-steps"], level=level)
    assert set(re.findall(r"<(h\d)>", html)) == {f"h{level}"}
    rst = tables(spec, "rst", only=["states", "next-steps"], level=level)
    underlines = {line[0] for line in rst.splitlines() if re.fullmatch(r"([=\-~^\"])\1+", line)}
    assert underlines == {RST_UNDERLINES[level - 1]}


@pytest.mark.parametrize("level", [0, 2])
def test_every_label_of_a_manual_can_be_referred_to(spec, level):
    """Read by docutils: each label names a section, or without headings a table."""
    core = pytest.importorskip("docutils.core")
    labels = [section.label for section in sections(spec) if section.header]
    assert len(set(labels)) == len(labels)
    wanted = ["states", "refusals", "next-steps"]
    labels = [section.label for section in sections(spec) if section.key in wanted]
    text = tables(spec, "rst", only=wanted, level=level)
    tree = core.publish_doctree(
        text + "".join(f"\n{label}_\n" for label in labels),
        settings_overrides={"halt_level": 2, "report_level": 2},
    )
    named = {
        name: node.tagname
        for node in tree.findall(lambda node: hasattr(node, "attributes"))
        for name in node.attributes.get("names", ())
    }
    assert {named[label] for label in labels} == {"section" if level else "table"}
    html = tables(spec, "html", only=wanted, level=level)
    assert re.findall(r'id="([^"]+)"', html) == labels
    markdown = tables(spec, only=wanted, level=level)
    assert re.findall(r'id="([^"]+)"', markdown) == labels


def test_html_is_whole_and_states_the_same(spec):
    root = ET.fromstring(f"<div>{tables(spec, 'html').partition('-->')[2]}</div>")
    found = {
        "".join(section[0].itertext()): [
            ["".join(cell.itertext()) for cell in row] for row in section.iter("tr")
        ]
        for section in root.iter("section")
        if section.find("table") is not None
    }
    wanted = {
        bare(section.title): [
            [bare(cell) for cell in row] for row in (section.header, *section.rows)
        ]
        for section in sections(spec)
        if section.header
    }
    assert found == wanted


def bare(text: str) -> str:
    return " ".join(text.split()).replace("`", "")


def test_csv_and_json_state_the_same(spec):
    for section in sections(spec):
        if section.depth > 1 or not section.header:
            continue
        rows = list(csv.reader(io.StringIO(tables(spec, "csv", only=[section.key]))))
        (table,) = json.loads(tables(spec, "json", only=[section.key]))["tables"]
        assert (table["key"], table["label"]) == (section.key, section.label)
        assert table["rows"] == [[bare(cell) for cell in row] for row in section.rows]
        cells = [["" if cell == "—" else cell for cell in row] for row in table["rows"]]
        assert rows == [table["header"], *cells]


def test_several_tables_are_not_one_file_of_csv(spec):
    with pytest.raises(ValueError, match="a file of CSV is one table, and these are 4"):
        tables(spec, "csv", only=["next-steps"])


# --- as Linux has them ---


def ways_of(comment: str, states: list[str]) -> list[list[str]]:
    """The lists of states in a comment, with "any" spelled out."""
    found = []
    for line in re.findall(r"^ \* {9}(.*)$", comment, re.MULTILINE):
        way = line.split(" -> ")
        if way[0] == "any state":
            found += [[state, way[1]] for state in states]
        elif way[1] == "any other state":
            found += [[way[0], state] for state in states if state != way[0]]
        else:
            found.append(way)
    return found


def test_what_is_written_as_linux_has_it_is_read_back(spec, ninth_state):
    cell = re.compile(r"^\t\t\[VFIO_DEVICE_STATE_(\w+)\] = VFIO_DEVICE_STATE_(\w+),$", re.MULTILINE)
    for table in (spec, ninth_state):
        for capabilities in table.capability_sets():
            machine = table.machine(capabilities)
            states = [row.name for row in machine.states]
            routes = [machine.route(start, to) for start in states for to in states]
            comment = next_steps_comment(machine)
            assert max(map(len, comment.splitlines())) <= MAX_COLUMNS
            arcs = [[arc.from_, arc.to] for arc in machine.arcs]
            longer = [[route.from_, *route.path] for route in routes if len(route.arcs) > 1]
            refused = [[route.from_, route.to] for route in routes if route.refused is not None]
            assert sorted(ways_of(comment, states)) == sorted(arcs + longer + refused)
            assert cell.findall(next_steps_array(machine)) == [
                (route.to, "ERROR" if route.refused else next(iter(route.path), route.from_))
                for route in routes
            ]
