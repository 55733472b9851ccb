"""A report in a Chromium: clicked, typed at, narrow, dark, printed, hostile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from chromium import Chromium, Tab

from support import odd_tables
from support.table_edits import BROKEN, broken, spec_of
from vfio_migration.diagrams.page.view import Counterexample, Finding, ReportView
from vfio_migration.diagrams.page.write import write_page
from vfio_migration.model import Spec, Step, Trace, load
from vfio_migration.verifier import Verdict, verify

SHOTS = os.environ.get("VFIO_MIGRATION_SHOTS")
WIDTHS = (1280, 736, 360)
SHOWN = "figure[data-set]:not([hidden])"

Open = Callable[..., Tab]


def page_of(spec: Spec, verdicts: Sequence[Verdict] = ()) -> bytes:
    findings = [
        Finding(
            id=one.id,
            title=one.title,
            statement=one.statement,
            outcome=one.outcome,
            method=one.method,
            why="It matters.",
            counterexample=None
            if one.example is None
            else Counterexample(text=one.example.text, trace=one.example.trace),
        )
        for one in verdicts
    ]
    return write_page(
        ReportView(name="table.toml", spec=spec, summary="a summary", findings=tuple(findings))
    )


@pytest.fixture(scope="session")
def quiesced() -> Spec:
    return spec_of(broken(BROKEN / "d4-peers-while-quiesced.toml")[1])


@pytest.fixture(scope="session")
def verdicts(quiesced: Spec) -> Sequence[Verdict]:
    return verify(quiesced, only=["D4", "G1", "D8"]).verdicts


@pytest.fixture(scope="session")
def traces(verdicts: Sequence[Verdict]) -> dict[str, Trace]:
    """A run of one device (D4), and one of several (G1)."""
    return {
        one.id: one.example.trace
        for one in verdicts
        if one.example is not None and one.example.trace is not None
    }


@pytest.fixture(scope="session")
def report(
    tmp_path_factory: pytest.TempPathFactory, quiesced: Spec, verdicts: Sequence[Verdict]
) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(page_of(quiesced, verdicts))
    return path


@pytest.fixture
def open_page(chromium: Chromium, report: Path) -> Iterator[Open]:
    """Open a page; at the end, the browser must have had nothing to complain of."""
    tabs: list[Tab] = []

    def open_page(path: Path = report, **options: object) -> Tab:
        tab = Tab(chromium, **options)  # type: ignore[arg-type]
        tabs.append(tab)
        tab.open(path)
        return tab

    yield open_page
    for tab in tabs:
        assert tab.complaints() == []
        tab.close()


def shoot(tab: Tab, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(exist_ok=True)
        tab.screenshot(Path(SHOTS) / f"{name}.png", whole=False)


def number(spec: Spec, name: str) -> str:
    """Return the number of a state, as the page has it."""
    return str([row.name for row in spec.states].index(name))


def state(spec: Spec, name: str) -> str:
    """Return the selector of a state in the picture that is shown."""
    return f'{SHOWN} [data-index="{number(spec, name)}"]'


def marked(tab: Tab, spec: Spec, name: str) -> set[str]:
    """Return the states of the shown pictures that have a class."""
    found = tab.eval(
        f"[...document.querySelectorAll('{SHOWN} [data-index].{name}')]"
        ".map(one => Number(one.dataset.index))"
    )
    return {spec.states[index].name for index in found}


def focused(tab: Tab) -> str:
    """Return what has the focus: its label, or its text."""
    return str(
        tab.eval(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
        )
    )


# --- states and routes ---


def test_a_click_on_a_state_shows_its_row_and_what_can_be_asked_for(open_page, quiesced) -> None:
    tab = open_page()
    row = f'article[data-state="{number(quiesced, "STOP_COPY")}"]'
    assert not tab.is_seen(row)
    tab.click(state(quiesced, "STOP_COPY"))
    assert tab.is_seen(row)
    assert quiesced.state("STOP_COPY").source in tab.text(row)
    rows = tab.text("#routes")
    for route in quiesced.machine().options("STOP_COPY"):
        wanted = route.refused.reason if route.refused else " → ".join(route.path)
        assert wanted in rows
    shoot(tab, "state")


def test_a_second_click_shows_the_path_step_by_step(open_page, quiesced) -> None:
    tab = open_page()
    tab.click(state(quiesced, "RUNNING"))
    tab.click(state(quiesced, "RESUMING"))
    route = quiesced.machine().route("RUNNING", "RESUMING")
    answer = tab.text("#answer")
    for arc in route.arcs:
        assert f"{arc.from_} → {arc.to}: {arc.summary}" in answer
    assert marked(tab, quiesced, "on") == set(route.path)
    numbers = tab.eval(f"[...document.querySelectorAll('{SHOWN} .mark')].map(m => m.textContent)")
    assert numbers == [str(number) for number in range(1, len(route.arcs) + 1)]
    shoot(tab, "path")
    tab.click("#clear")
    assert marked(tab, quiesced, "on") == set()
    assert tab.eval(f"document.querySelectorAll('{SHOWN} .mark').length") == 0


def test_a_refused_pair_shows_why(open_page, quiesced) -> None:
    tab = open_page()
    tab.click(state(quiesced, "STOP_COPY"))
    tab.click(state(quiesced, "PRE_COPY"))
    refused = quiesced.machine().route("STOP_COPY", "PRE_COPY").refused
    assert f"refused ({refused.errno}): {refused.reason}" in tab.text("#answer")
    assert refused.source in tab.text("#answer")
    assert tab.eval(f"document.querySelectorAll('{SHOWN} .edge.refused.failed').length") == 1
    shoot(tab, "refused")


def test_another_capability_set_has_its_own_picture_and_paths(open_page, quiesced) -> None:
    tab = open_page()
    names = tab.eval("[...document.querySelectorAll('#choose-set option')].map(o => o.text)")
    tab.choose("#choose-set", str(names.index("STOP_COPY")))
    assert tab.eval(f"document.querySelectorAll('{SHOWN}').length") == 1
    tab.choose("#choose-from", number(quiesced, "RUNNING"))
    tab.choose("#choose-to", number(quiesced, "STOP_COPY"))
    [*arcs] = quiesced.machine("STOP_COPY").route("RUNNING", "STOP_COPY").arcs
    steps = tab.eval("[...document.querySelectorAll('#answer li b')].map(one => one.innerText)")
    assert steps == [f"{arc.from_} → {arc.to}" for arc in arcs]
    tab.choose("#choose-from", number(quiesced, "RUNNING_P2P"))
    assert "is never in RUNNING_P2P" in tab.text("#answer")


# --- steps ---


@pytest.mark.parametrize("of", ["D4", "G1"])
def test_a_counterexample_is_stepped_forwards_and_backwards(
    open_page, quiesced, traces, of
) -> None:
    trace = traces[of]
    tab = open_page()
    tab.click(f'[data-run="{of}"]')
    now = list(trace.start)
    seen = [set(now)]
    for count, (step, changes) in enumerate(trace.changes(), 1):
        tab.click("#run-forward")
        text = tab.text("#run-now")
        assert f"Step {count} of {len(trace.steps)}" in text
        assert trace.describe(step).replace("->", "→") in text
        assert all(change.replace("=>", "→") in text for change in changes)
        now[step.device] = step.state
        seen.append(set(now))
        assert marked(tab, quiesced, "now") == seen[-1]
        assert tab.eval("document.querySelectorAll('[aria-current=step]').length") == 1
    assert tab.eval("document.querySelector('#run-forward').disabled")
    shoot(tab, f"run-{of}")
    for before in reversed(seen[:-1]):
        tab.click("#run-back")
        assert marked(tab, quiesced, "now") == before
    tab.click("#run-close")
    assert not tab.is_seen("#run")
    assert tab.eval("document.activeElement.dataset.run") == of


def test_a_step_that_no_line_of_the_picture_is_for_is_drawn_all_the_same(
    open_page, quiesced, tmp_path
) -> None:
    trace = Trace(
        spec=quiesced.name,
        capabilities=(quiesced.machine().names,),
        start=("PRE_COPY",),
        steps=(
            Step(kind="reset", state="RUNNING"),
            Step(kind="refused", to=99, state="RUNNING", errno="EINVAL"),
        ),
    )
    finding = Finding(
        id="D12",
        title="A reset",
        statement="A reset leads there.",
        outcome="violated",
        method="induction",
        why="It matters.",
        counterexample=Counterexample(trace=trace),
    )
    view = ReportView(name="t.toml", spec=quiesced, summary="a summary", findings=(finding,))
    (tmp_path / "reset.html").write_bytes(write_page(view))
    tab = open_page(tmp_path / "reset.html")
    tab.click("[data-run]")
    tab.press("ArrowRight")
    assert tab.eval(f"document.querySelectorAll('{SHOWN} .jump.on').length") == 1
    assert marked(tab, quiesced, "was") == {"PRE_COPY"}
    shoot(tab, "reset")
    tab.press("ArrowRight")
    assert tab.eval(f"document.querySelectorAll('{SHOWN} .jump').length") == 0
    marks = f"[...document.querySelectorAll('{SHOWN} .mark.failed')].map(one => one.textContent)"
    assert tab.eval(marks) == ["2"]


# --- the keyboard alone ---


def test_everything_can_be_done_with_the_keyboard_alone(open_page, quiesced) -> None:
    tab = open_page()

    def go_to(label: str) -> None:
        for _ in range(200):
            if focused(tab).startswith(label):
                return
            tab.press("Tab")
        raise AssertionError(f"Tab never leads to {label}")

    go_to("RUNNING, value 2")
    shoot(tab, "focus")
    tab.press("Enter")
    assert marked(tab, quiesced, "from") == {"RUNNING"}
    tab.press("ArrowRight", "ArrowRight")
    assert focused(tab).startswith("STOP, value 1")
    tab.press(" ")
    assert "RUNNING → STOP" in tab.text("#answer")
    tab.press("Escape")
    assert "Nothing is chosen" in tab.text("#answer")
    go_to("Step through it in the picture")
    tab.press("Enter")
    assert focused(tab) == "Forward"
    tab.press("Enter")
    assert "Step 1 of" in tab.text("#run-now")
    tab.press("ArrowRight", "ArrowLeft", "ArrowLeft")
    assert "Step 0 of" in tab.text("#run-now")
    tab.press("Escape")
    assert focused(tab) == "Step through it in the picture"


def test_a_screen_reader_is_given_names_and_news(open_page, quiesced) -> None:
    tab = open_page()
    tree = tab._call("Accessibility.getFullAXTree")["nodes"]
    buttons = {
        node["name"]["value"]
        for node in tree
        if node.get("role", {}).get("value") == "button" and not node["ignored"]
    }
    for row in quiesced.states:
        assert any(name.startswith(f"{row.name}, value {row.value}") for name in buttons)
    unnamed = [
        node["role"]["value"]
        for node in tree
        if not node["ignored"]
        and node["role"]["value"] in ("button", "link", "combobox", "region")
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []
    for place in ("#answer", "#run-now"):
        assert tab.eval(f"document.querySelector('{place}').getAttribute('aria-live')") == "polite"


# --- every screen, and paper ---


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_screen(open_page, quiesced, width, dark) -> None:
    tab = open_page(width=width, dark=dark)
    tab.click(state(quiesced, "RUNNING"))
    tab.click(state(quiesced, "STOP_COPY"))
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not tab.eval(wide)
    shoot(tab, f"page-{width}-{'dark' if dark else 'light'}")
    tab.click('[data-run="G1"]')
    assert not tab.eval(wide)
    tab.press("ArrowRight")
    shoot(tab, f"run-{width}-{'dark' if dark else 'light'}")
    background = tab.eval("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_on_a_narrow_screen_what_a_step_is_about_is_in_sight(open_page, traces) -> None:
    tab = open_page(width=360)
    tab.click('[data-run="D4"]')
    for _ in range(len(traces["D4"].steps)):
        tab.press("ArrowRight")
        places = tab.eval(
            f"['{SHOWN} .now', '#run-now'].map(one => {{ const box ="
            "document.querySelector(one).getBoundingClientRect();"
            "return [box.left, box.right, box.top, box.bottom]; })"
        )
        for left, right, top, bottom in places:
            assert left >= 0
            assert right <= 360
            assert top >= 0
            assert bottom <= 900


def test_print_shows_the_steps_and_no_buttons(open_page, tmp_path) -> None:
    tab = open_page()
    tab._call("Emulation.setEmulatedMedia", media="print")
    assert not tab.is_seen(".controls")
    assert not tab.is_seen("[data-run]")
    assert tab.is_seen(".steps li")
    tab.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_without_javascript_the_page_is_there_and_states_what_is_missing(
    chromium, report, quiesced
) -> None:
    tab = Tab(chromium)
    tab.javascript_off()
    tab.open(report)
    tab._call("Emulation.setScriptExecutionDisabled", value=False)
    assert not tab.is_seen(".controls")
    assert tab.is_seen(".steps li")
    assert tab.is_seen("article.state")
    assert "Without JavaScript" in tab.text("noscript")
    tab.close()


# --- tables of strangers ---


def test_markup_in_a_table_does_nothing(open_page, tmp_path) -> None:
    spec = odd_tables.markup()
    (tmp_path / "markup.html").write_bytes(page_of(spec))
    tab = open_page(tmp_path / "markup.html")
    for at in range(len(spec.states)):
        tab.choose("#choose-from", str(at))
        tab.choose("#choose-to", str((at + 3) % len(spec.states)))
        assert spec.states[at].name in tab.text("#answer")
    assert tab.eval("document.querySelectorAll('img, b[onclick], svg[onload]').length") == 0
    shoot(tab, "markup")


@pytest.mark.parametrize("table", ["ninth-state", "many-states", "strange-names"])
def test_a_table_of_any_size_is_clicked_alike(open_page, tmp_path, table) -> None:
    spec = odd_tables.TABLES[table]()
    (tmp_path / "odd.html").write_bytes(page_of(spec))
    tab = open_page(tmp_path / "odd.html")
    shown = [row.name for row in spec.machine().states]
    for name in shown[:: max(1, len(shown) // 8)]:
        tab.click(state(spec, name))
        assert marked(tab, spec, "from") == {name}
        tab.click(state(spec, name))
    shoot(tab, table)


def test_the_table_of_the_package_has_a_page_without_counterexamples(open_page, tmp_path) -> None:
    (tmp_path / "whole.html").write_bytes(page_of(load(), verify(load(), only=["T1"]).verdicts))
    tab = open_page(tmp_path / "whole.html")
    assert not tab.eval("document.querySelectorAll('[data-run]').length")
    assert "proved" in tab.text("#verdicts")
