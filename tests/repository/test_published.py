"""The figures of this repository are up to date, and what other trees take for theirs works."""

from __future__ import annotations

import shlex
import tomllib

import pytest
import yaml
from repository import ROOT, pyproject

from vfio_migration.cli.main import main, parser
from vfio_migration.cli.publishing.manifest import NAME
from vfio_migration.model import load
from vfio_migration.model.edited import proposals
from vfio_migration.model.plan import load_plans


def test_the_figures_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """Written anew by `vfio-migration publish`."""
    status = main(["publish", "--check", str(ROOT / NAME)])
    assert (status, capsys.readouterr().out) == (0, "")


def test_there_is_a_picture_of_each_capability_set_migration_and_proposal() -> None:
    spec = load()
    names = ["-".join([spec.name, *spec.names(flags)]).lower() for flags in spec.capability_sets()]
    names += [f"migration-{row.name}" for row in load_plans(spec).migrations]
    wanted = {f"{name}.{ending}" for name in names for ending in ("svg", "mmd")}
    wanted |= {f"proposal-{edit.name}.svg" for edit in proposals()}
    assert {path.name for path in (ROOT / "docs/diagrams").iterdir()} == wanted


def test_the_manifest_that_the_page_shows_is_one() -> None:
    page = (ROOT / "docs/publishing.md").read_text("utf-8")
    shown = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])
    for figure in shown["figures"]:
        parser().parse_args(shlex.split(figure["make"]))


def test_the_hook_for_other_trees_runs_the_check_and_brings_what_draws() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    program, *words = shlex.split(hook["entry"])
    assert program in pyproject()["project"]["scripts"]
    assert parser().parse_args(words).check
    extra = pyproject()["project"]["optional-dependencies"]["diagrams"]
    assert hook["additional_dependencies"] == extra


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_a_job_for_a_ci_installs_what_draws_and_runs_the_check(name: str) -> None:
    job = yaml.safe_load((ROOT / "contrib/ci" / name).read_text("utf-8"))
    steps = str(job)
    assert "vfio-migration[diagrams] @ git+" in steps
    assert "vfio-migration publish --check" in steps
