"""`report`, as a user runs it: what is written, what is printed, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import Ran, complains

from support.table_edits import BROKEN, broken, to_toml
from vfio_migration.model.extras import install_command

Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quiesced(tmp_path: Path) -> str:
    """A table of which D4 does not hold."""
    _, data = broken(BROKEN / "d4-peers-while-quiesced.toml")
    (tmp_path / "mine.toml").write_text(to_toml(data), "utf-8")
    return "mine.toml"


def written(name: str = "report.html") -> str:
    return Path(name).read_text("utf-8")


def data_of(page: str) -> dict[str, Any]:
    [block] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    found: dict[str, Any] = json.loads(block)
    return found


def test_a_report_has_the_verdicts_and_prints_their_summary(cli: Cli) -> None:
    ran = cli("report", "--only", "T1", "D8", "-o", "report.html")
    line = "vfio_v2.toml: 2 proved (of 2 obligations)"
    assert (ran.status, ran.out, ran.err) == (0, f"report.html: {line}\n", "")
    assert line in written()
    assert "A refused request changes nothing at all." in written()


def test_a_counterexample_is_listed_step_by_step_and_can_be_stepped_through(
    cli: Cli, quiesced: str
) -> None:
    ran = cli("report", quiesced, "--only", "D4", "--against", "builtin", "-o", "report.html")
    assert ran.status == 0
    assert (
        ran.out == "report.html: mine.toml against builtin: 1 newly violated (of 1 obligations)\n"
    )
    cli("verify", quiesced, "--only", "D4", "--traces", "traces", "-q")
    trace = json.loads(Path("traces/D4.json").read_text("utf-8"))
    page = written()
    run = data_of(page)["runs"]["D4"]
    names = data_of(page)["states"]
    assert [names[step["at"][0]] for step in run["steps"]] == [
        *trace["start"],
        *(step["state"] for step in trace["steps"]),
    ]
    assert page.count('data-run="D4"') == 1
    assert "the live engine does the same" in page
    assert "vfio-migration replay DIR/D4.json --spec mine.toml" in page
    assert "operations[" in page


def test_what_changed_is_what_diff_lists(cli: Cli, quiesced: str) -> None:
    cli("report", quiesced, "--no-obligations", "--against", "builtin", "-o", "report.html")
    ran = cli("diff", "builtin", quiesced, "--no-obligations", "--json")
    compared = json.loads(ran.out)
    page = written()
    section = page[page.index('id="changes"') :]
    assert compared["changes"]
    for change in compared["changes"]:
        assert f"<td>{change['name']}</td><td>{change['kind']}</td>" in section
    assert "There are no verdicts: --no-obligations left them out." in page


def test_without_the_solver_a_report_has_pictures_and_the_way_to_get_verdicts(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "z3", None)
    for name in [name for name in sys.modules if name.startswith("vfio_migration.verifier")]:
        monkeypatch.delitem(sys.modules, name)
    ran = cli("report", "--against", "linux-6.1", "-o", "report.html")
    assert (ran.status, ran.err) == (0, "")
    assert "without verdicts" in ran.out
    assert install_command("verify") in written()
    assert len(data_of(written())["sets"]) == 4
    assert 'id="change-' in written()


def test_one_capability_set_is_drawn_if_it_is_asked_for(cli: Cli) -> None:
    cli("report", "--no-obligations", "--flags", "STOP_COPY,P2P", "-o", "report.html")
    assert [one["name"] for one in data_of(written())["sets"]] == ["STOP_COPY, P2P"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["no.toml"], '"no.toml": cannot be read'),
        (["--against", "builtinn"], "builtinn"),
        (["--flags", "PRECOPY"], 'did you mean "PRE_COPY"?'),
        (["--only", "T44"], "T44"),
        (["--plans", "no.toml"], "no.toml"),
        (["--wire", "no.toml"], "no.toml"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(
    cli: Cli, arguments: list[str], problem: str
) -> None:
    ran = cli("report", *arguments, "-o", "report.html")
    assert (ran.status, ran.out) == (2, "")
    assert problem in ran.err
    assert "Traceback" not in ran.err
    assert not Path("report.html").exists()


def test_a_table_that_fails_to_load_leaves_the_report_of_before(cli: Cli) -> None:
    Path("report.html").write_text("that of yesterday", "utf-8")
    Path("mine.toml").write_text("states = 1", "utf-8")
    assert cli("report", "mine.toml", "-o", "report.html").status == 2
    assert written() == "that of yesterday"


def test_where_nothing_can_be_written_nothing_is_proved(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfio_migration import verifier

    monkeypatch.setattr(verifier, "verify", None)
    complains(
        cli("report", "-o", "no/report.html"),
        2,
        '--output: "no/report.html": cannot be written: there is no folder no',
    )


def test_a_report_is_not_written_over_its_table(cli: Cli, quiesced: str) -> None:
    ran = cli("report", quiesced, "-o", quiesced)
    assert ran.status == 2
    assert "is the same file as SPEC" in ran.err
