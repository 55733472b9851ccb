"""What is stated in several places is stated alike: versions, Pythons, licence, dependencies."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT, pyproject

PROJECT = pyproject()["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def pythons() -> list[str]:
    found = (re.fullmatch(r".*Python :: (3\.\d+)", line) for line in PROJECT["classifiers"])
    return [match[1] for match in found if match]


def required(extra: str) -> list[Requirement]:
    """Return what an extra requires, the extras it names resolved, and the core."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            found += [inner for name in requirement.extras for inner in required(name)]
        else:
            found.append(requirement)
    return found


def pins() -> list[Requirement]:
    return [Requirement(pin) for pin, _ in pins_with_hashes()]


def pins_with_hashes() -> list[tuple[str, list[str]]]:
    """Return each pin of the development environment with the digests it may have."""
    lines = (line.partition("#")[0].strip() for line in text("requirements/dev.txt").splitlines())
    rows = " ".join(line if line.endswith("\\") else f"{line}\n" for line in lines if line)
    found = []
    for row in rows.splitlines():
        pin, *hashes = (word.strip() for word in row.split("\\"))
        found.append((pin, [word.removeprefix("--hash=") for word in hashes]))
    return found


def pins_for(python: str) -> dict[str, str]:
    """Return the pinned version of every package that a Python on Linux gets."""
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
    }
    found: dict[str, str] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate(dict(environment)):
            assert pin.name not in found, f"{pin.name} is pinned twice"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            found[canonicalize_name(pin.name)] = specifier.version
    return found


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## \[(.+?)\] - (unreleased|\d{4}-\d\d-\d\d)$", text("CHANGELOG.md"), re.M)
    assert newest is not None
    assert newest[1] == PROJECT["version"]


def test_this_version_is_what_is_installed() -> None:
    assert installed_version(PROJECT["name"]) == PROJECT["version"]


def test_the_licence_is_bsd_3_clause() -> None:
    assert PROJECT["license"] == "BSD-3-Clause"
    licence = " ".join(text("LICENSE").split())
    assert licence.startswith("BSD 3-Clause License")
    assert re.findall(r"(\d)\. (?:Redistributions|Neither)", licence) == ["1", "2", "3"]
    assert "BSD-3-Clause" in text("README.md")


def test_the_list_of_pythons_is_one_list() -> None:
    versions = pythons()
    assert versions
    oldest = versions[0]
    assert PROJECT["requires-python"] == f">={oldest}"
    makefile, finder = text("Makefile"), text("requirements/find-python")
    assert f"PYTHONS := {' '.join(versions)}\n" in makefile
    assert f"--python-version {oldest} " in makefile
    assert f'TESTED="{" ".join(reversed(versions))}"\n' in finder
    assert f"OLDEST={oldest}\n" in finder
    sentence = f"{', '.join(versions[:-1])} {{}} {versions[-1]}"
    assert sentence.format("or") in " ".join(text("README.md").split())
    assert sentence.format("and") in " ".join(text("CONTRIBUTING.md").split())
    assert pyproject()["tool"]["mypy"]["python_version"] == oldest
    assert pyproject()["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_ci_runs_what_a_contributor_runs() -> None:
    run = ROOT / ".ci" / "run"
    lines = run.read_text("utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == ["make test", "make exhaustive"]
    assert run.stat().st_mode & 0o111


def test_what_make_test_leaves_out_make_exhaustive_runs() -> None:
    options = pyproject()["tool"]["pytest"]["ini_options"]
    chosen = options["addopts"].index("-m")
    assert options["addopts"][chosen + 1] == "not exhaustive"
    marks = [re.split(r"[(:]", line)[0] for line in options["markers"]]
    assert marks == ["exhaustive", "sampled"]  # of the latter some get the former
    recipes = dict(re.findall(r"^([a-z]+):[^\n]*\n((?:\t.*\n)+)", text("Makefile"), re.M))
    assert " -m 'exhaustive or hypothesis' " in recipes["exhaustive"].replace("\t", " ")
    assert " -m " not in recipes["pytest"].replace("python -m pytest", "")
    assert " pytest exhaustive " in recipes["matrix"]


@pytest.mark.parametrize("python", pythons())
def test_every_requirement_is_pinned_within_its_range(python: str) -> None:
    pinned = pins_for(python)
    for requirement in required("dev"):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"make lock: {name} is not pinned"
        assert requirement.specifier.contains(pinned[name]), f"make lock: {name}"


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = pins_for(default_environment()["python_version"])
    installed = {name: installed_version(name) for name in pinned}
    assert installed == pinned, "make setup"


def test_what_is_pinned_is_complete() -> None:
    """Whatever a pinned package requires on this Python is pinned too."""
    from importlib.metadata import requires

    pinned = pins_for(default_environment()["python_version"])
    missing = {
        f"{name} requires {requirement.name}"
        for name in pinned
        for requirement in map(Requirement, requires(name) or [])
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        and canonicalize_name(requirement.name) not in pinned
    }
    assert missing == set()


def test_every_development_tool_is_held_to_the_digests_of_its_files() -> None:
    assert {pin.name for pin in pins()} >= {"pip", "setuptools", "pytest", "z3-solver"}
    for pin, hashes in pins_with_hashes():
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), pin
    assert "--require-hashes" in text("Makefile")


def test_requirements_name_no_place_to_fetch_from() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert "://" not in path.read_text("utf-8"), path
    assert not any(line.startswith("-") for line in text("requirements/dev.txt").splitlines())


def test_published_ranges_stay_open() -> None:
    for requirement in required("all"):
        assert {specifier.operator for specifier in requirement.specifier} <= {">="}, requirement


def test_the_extras_are_those_the_readme_lists() -> None:
    listed = re.findall(r"^\| `(\w+)` +\|", text("README.md"), re.M)
    assert listed == list(PROJECT["optional-dependencies"])
    everything = {inner.name for inner in required("all")}
    # Whoever builds a manual has Sphinx, and nobody else needs it.
    for extra in set(listed) - {"dev", "sphinx", "site"}:
        assert {inner.name for inner in required(extra)} <= everything
