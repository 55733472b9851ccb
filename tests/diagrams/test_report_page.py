"""The page of a report, without a browser: what is in it, and that nothing in it is taken amiss."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from support import odd_tables
from support.samples import sample_where
from support.table_edits import spec_of, table_data
from vfio_migration.diagrams.page import elements
from vfio_migration.diagrams.page.view import (
    Against,
    ChangedFact,
    Counterexample,
    Finding,
    ReportView,
)
from vfio_migration.diagrams.page.write import MAX_PAGE_BYTES, write_page
from vfio_migration.model import Spec, SpecError, Step, Trace

VOID = {"meta", "link", "br", "img", "input", "hr"}
TABLES = sample_where(odd_tables.TABLES, lambda name: name in ("vfio-v2", "ninth-capability"))


class Page(HTMLParser):
    """A page, read by the parser of the standard library."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self.comments: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self.open, f"{self.open} are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.inside.setdefault(self.open[-1], []).append(data)
        else:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.inside["script"][0])
        return found


def view_of(spec: Spec, *findings: Finding, **more: Any) -> ReportView:
    return ReportView(name="table.toml", spec=spec, summary="a summary", findings=findings, **more)


def violated(trace: Trace | None, number: str = "D4") -> Finding:
    return Finding(
        id=number,
        title="Nothing happens",
        statement="Nothing of the kind happens.",
        outcome="violated",
        method="induction",
        why="It matters.",
        counterexample=Counterexample(text="It happened.", trace=trace, row="arcs[3]"),
    )


@pytest.mark.parametrize("table", TABLES)
def test_every_route_of_the_page_is_the_routers(table: str) -> None:
    spec = odd_tables.TABLES[table]()
    page = Page(write_page(view_of(spec)))
    names = page.data["states"]
    cells = 0
    for drawn in page.data["sets"]:
        machine = spec.machine(drawn["name"].replace(" ", ""))
        assert {names[int(at)] for at in drawn["routes"]} == {row.name for row in machine.states}
        for at, row in drawn["routes"].items():
            for target, cell in zip(spec.states, row, strict=True):
                route = machine.route(names[int(at)], target.name)
                if isinstance(cell, dict):
                    assert route.refused is not None
                    shown = page.data["refusals"][cell["refused"]]
                    assert route.refused.errno in shown["text"]
                    assert shown["text"].endswith(route.refused.reason)
                    assert shown["source"] == route.refused.source
                else:
                    assert route.refused is None
                    taken = [drawn["edges"][edge] for edge in cell]
                    ends = [(names[edge["from"]], names[edge["to"]]) for edge in taken]
                    assert ends == [(arc.from_, arc.to) for arc in route.arcs]
                cells += 1
    assert cells >= len(spec.states) ** 2


@pytest.mark.parametrize("table", [*TABLES, "markup"])
def test_a_page_is_well_formed_and_loads_nothing(table: str, run: Trace) -> None:
    spec = odd_tables.markup() if table == "markup" else odd_tables.TABLES[table]()
    against = Against(
        name="<i>old</i>", spec=spec, facts=(ChangedFact(what="arc", kind="added", name="<b>"),)
    )
    made = write_page(view_of(spec, violated(run), against=against))
    page = Page(made)
    assert len(made) < MAX_PAGE_BYTES
    counted = Counter(one["id"] for _, one in page.tags if "id" in one)
    assert [name for name, count in counted.items() if count > 1] == []
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("style", "src"), (tag, name)
            if name == "href":
                assert str(value).removeprefix("#") in counted
            if name in ("aria-labelledby", "aria-describedby"):
                assert value in counted
    assert [name for name, _ in page.tags].count("script") == 2
    assert [name for name, _ in page.tags].count("style") == 1


def test_only_the_pages_own_script_and_style_may_run(spec: Spec) -> None:
    page = Page(write_page(view_of(spec)))
    [policy] = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for kind, text in (("script", page.inside["script"][1]), ("style", page.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_markup_in_a_table_is_shown_as_it_is_written() -> None:
    spec = odd_tables.markup()
    page = Page(write_page(view_of(spec)))
    assert {name for name, _ in page.tags}.isdisjoint({"img", "link", "iframe"})
    assert not any("alert" in text for text in page.inside["style"])
    assert not any("alert" in text for text in page.inside["script"][1:])
    assert not any("alert" in name for _, one in page.tags for name in one)
    assert page.data["states"] == [row.name for row in spec.states]
    assert any(spec.states[0].name in text for text in page.texts)


def test_data_for_a_script_cannot_end_it() -> None:
    hostile = {"</script>": ["<!--<script>", "\u2028", "\x1b[31m\u202e"]}
    text = elements.document(elements.data_block("data", hostile))
    assert text.count("<") == text.count("<!DOCTYPE") + text.count("<script") + text.count("</s")
    assert text.count("</script>") == 1
    inside = text.partition(">\n")[2].partition(">")[2].rpartition("</script>")[0]
    assert json.loads(inside) == {"</script>": ["<!--<script>", "\u2028", "\\x1b[31m\\u202e"]}


def test_a_style_sheet_with_its_own_end_in_it_is_not_written() -> None:
    with pytest.raises(ValueError, match="its end in it"):
        elements.raw("style", "a{} </style>")


# --- runs ---


def test_a_run_is_where_its_steps_are_and_on_the_edges_they_took(spec: Spec, run: Trace) -> None:
    page = Page(write_page(view_of(spec, violated(run))))
    shown, names = page.data["runs"]["D4"], page.data["states"]
    assert [names[step["at"][0]] for step in shown["steps"]] == [
        *run.start,
        *(step.state for step in run.steps),
    ]
    assert [step["sessions"][0] for step in shown["steps"][1:]] == [s.session for s in run.steps]
    edges = page.data["sets"][shown["devices"][0]["set"]]["edges"]
    for step, drawn in zip(run.steps, shown["steps"][1:], strict=True):
        assert drawn["failed"] == (step.kind in ("refused", "arc_failed", "arc_failed_for_good"))
        if step.kind == "arc":
            edge = edges[drawn["edge"]]
            assert (names[edge["from"]], names[edge["to"]]) == (step.from_, step.to)
    listed = [text.strip() for text in page.texts if text.strip()]
    for step, changes in run.changes():
        assert run.describe(step).replace("->", "→") in listed
        assert all(change.replace("=>", "→") in "; ".join(listed) for change in changes)


def test_devices_of_a_run_are_in_the_pictures_of_their_capabilities(spec: Spec) -> None:
    trace = Trace(
        spec=spec.name,
        capabilities=(("STOP_COPY",), ("STOP_COPY", "P2P")),
        start=("RUNNING", "RUNNING"),
        steps=(
            Step(kind="arc", device=0, from_="RUNNING", to="STOP", state="STOP"),
            Step(kind="arc", device=1, from_="RUNNING", to="RUNNING_P2P", state="RUNNING_P2P"),
        ),
        names=("one", "two"),
    )
    page = Page(write_page(view_of(spec, violated(trace), flags="STOP_COPY,PRE_COPY")))
    sets = [one["name"] for one in page.data["sets"]]
    assert sets == ["STOP_COPY, PRE_COPY", "STOP_COPY", "STOP_COPY, P2P"]
    shown = page.data["runs"]["D4"]
    assert shown["devices"] == [{"name": "one", "set": 1}, {"name": "two", "set": 2}]
    for step in shown["steps"][1:]:
        edge = page.data["sets"][shown["devices"][step["device"]]["set"]]["edges"][step["edge"]]
        assert edge["to"] == step["at"][step["device"]]


def test_a_run_that_no_picture_can_show_is_words_alone(spec: Spec, run: Trace) -> None:
    elsewhere = Trace(
        spec="other", capabilities=(("STOP_COPY",),), start=("NOWHERE",), steps=run.steps[:1]
    )
    page = Page(write_page(view_of(spec, violated(elsewhere), violated(None, "T1"))))
    assert page.data["runs"] == {"D4": None}
    assert any("NOWHERE" in text for text in page.texts)


# --- bounds ---


def capable(count: int) -> Spec:
    """Return a table with many capabilities, all in one profile."""
    data = table_data()
    for number in range(count):
        row = {"name": f"MORE_{number}", "value": 8 << number, "summary": "x", "source": "test"}
        data["capabilities"].append(row)
        data["profiles"][0]["universe"].append(row["name"])
    return spec_of(data)


def test_capability_sets_that_do_not_fit_are_named_with_the_way_to_see_them() -> None:
    spec = capable(5)
    made = write_page(view_of(spec))
    page = Page(made)
    assert len(made) < MAX_PAGE_BYTES
    drawn = len(page.data["sets"])
    whole = len(spec.capability_sets())
    assert 4 < drawn < whole
    assert any(f"of {whole - drawn} more capability sets" in text for text in page.texts)
    assert any("--flags" in text for text in page.texts)


def test_a_table_too_large_for_a_page_is_refused() -> None:
    data = table_data()
    data["states"][0]["summary"] = "long " * 200_000
    with pytest.raises(SpecError, match="is too large for a page of 1000000 bytes"):
        write_page(view_of(spec_of(data)))


def test_two_pages_of_one_table_are_the_same(spec: Spec, run: Trace) -> None:
    view = view_of(spec, violated(run))
    assert write_page(view) == write_page(view)
