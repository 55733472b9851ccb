"""The list of code mutants and its page; the mutants themselves are `make mutate-code`."""

from __future__ import annotations

import json
import textwrap

import mutate_code
import pytest
from repository import ROOT

FOUND = json.loads(mutate_code.FOUND.read_text("utf-8"))
MODULES = {module.file: module for module in mutate_code.modules()}
TEXT = textwrap.dedent(
    """
    def give(self, one: int | None) -> int:
        if one and self.ready:
            self.last = one
            self.count += 1
        return 0
    """
)


def test_the_page_is_what_was_found() -> None:
    """Made anew by `make mutate-code`."""
    assert mutate_code.main(["--check"]) == 0


def test_the_modules_and_their_tests_are_there() -> None:
    for module in MODULES.values():
        assert (ROOT / module.file).is_file()
        assert module.tests
        assert all((ROOT / name).exists() for name in module.tests)
    assert FOUND.keys() <= MODULES.keys()


def test_what_is_argued_to_be_equivalent_was_tried_and_survived() -> None:
    for name, row in FOUND.items():
        survived = {(before, after) for before, after in row["survived"]}
        assert MODULES[name].equivalent.keys() <= survived


def test_statements_are_left_out_and_conditions_decided() -> None:
    found = {one.after for one in mutate_code.mutants(TEXT, _edits(TEXT))}
    assert found == {"if True:", "if False:", "pass"}


def _edits(text: str) -> list[tuple[int, mutate_code.Edit]]:
    return [(line, edit) for line, _, edit in mutate_code._without_statements(text)]


def test_an_edit_that_changes_nothing_is_no_mutant() -> None:
    assert mutate_code.mutants(TEXT, [(1, lambda: TEXT + "# a comment\n")]) == []


def test_a_sample_has_the_whole_length_and_is_the_same_each_time() -> None:
    assert mutate_code.sampled(range(10), 3) == [0, 3, 6]
    assert mutate_code.sampled(range(2), 3) == [0, 1]


def test_a_survivor_that_nobody_argued_about_lowers_the_figure() -> None:
    name = next(iter(MODULES))
    survived = [["a", "b"]]
    row = {"made": 20, "tried": 10, "survived": survived}
    lines = mutate_code.page({name: row}).splitlines()
    assert f"| `{name}` | 20 | 10 | 9 | 0 | 1 | 90.0 % |" in lines
    assert "- `` a `` → `` b ``" in lines


def test_a_module_that_is_not_listed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mutate_code.main(["runtime/nothing.py"])
    assert ended.value.code == 2
    assert "runtime/nothing.py: is not in code_mutants.toml" in capsys.readouterr().err
