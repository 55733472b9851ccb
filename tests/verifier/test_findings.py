"""The pages made from the verdicts: up to date, and resting on what is proved."""

from __future__ import annotations

import dataclasses

import findings_page as module
import pytest

from support.samples import sample
from support.table_edits import ROOT
from vfio_migration.model import SpecError, load
from vfio_migration.verifier import OBLIGATIONS, verify

NAMED = [
    name
    for name in (obligation.id for obligation in OBLIGATIONS)
    if any(name in finding.decided_by for finding in module.findings())
]

MAX_TITLE = 56
"""Characters: with identifier, outcome and time in front it is one line of a terminal."""


@pytest.fixture(scope="module", params=sample([NAMED, None], 2), ids=["named", "all"])
def report(request):
    """Verdicts on the obligations that decide a finding, and on all."""
    return verify(load(), only=request.param)


@pytest.mark.exhaustive
def test_the_findings_page_is_as_it_would_be_made(report):
    assert (ROOT / "docs/findings.md").read_text("utf-8") == module.findings_page(report)


def test_the_obligations_page_is_as_it_would_be_made():
    assert (ROOT / "docs/obligations.md").read_text("utf-8") == module.obligations_page()


def test_every_obligation_is_listed():
    page = module.obligations_page()
    for row in OBLIGATIONS:
        assert f"\n### {row.id}: {row.title}\n\n{row.statement}\n" in page


def test_of_every_obligation_it_is_stated_what_a_proof_does_not_show():
    page = module.obligations_page()
    assert len({row.title for row in OBLIGATIONS}) == len(OBLIGATIONS)
    for row in OBLIGATIONS:
        assert row.not_shown.endswith(".")
        assert f"\n*Not shown:* {row.not_shown}\n" in page


def test_a_title_fits_into_a_line():
    assert max(len(row.title) for row in OBLIGATIONS) <= MAX_TITLE


@pytest.mark.exhaustive
def test_a_finding_whose_obligation_is_not_proved_is_not_published(report):
    verdicts = tuple(
        dataclasses.replace(row, outcome="unknown") if row.id == "G3" else row
        for row in report.verdicts
    )
    with pytest.raises(SpecError, match="G3"):
        module.findings_page(dataclasses.replace(report, verdicts=verdicts))


@pytest.mark.exhaustive
def test_a_finding_whose_row_is_missing_is_not_published(report):
    routing = tuple(row for row in report.spec.routing if row.name != "whole-path")
    spec = dataclasses.replace(report.spec, routing=routing)
    with pytest.raises(SpecError, match="whole-path"):
        module.findings_page(dataclasses.replace(report, spec=spec))


def test_the_check_sees_a_difference(tmp_path, monkeypatch, capsys):
    pages = {"findings.md": "new\n"}
    monkeypatch.setattr(module, "pages", lambda _spec: pages)
    assert module.main(["--output", str(tmp_path)]) == 0
    assert module.main(["--check", "--output", str(tmp_path)]) == 0
    (tmp_path / "findings.md").write_text("old\n", "utf-8")
    assert module.main(["--check", "--output", str(tmp_path)]) == 1
    assert "-old" in capsys.readouterr().out
