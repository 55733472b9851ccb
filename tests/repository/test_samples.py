"""A case of a sampled test runs in `make test` or in `make exhaustive`, and none in neither."""

from __future__ import annotations

from typing import Any

import pytest

from support.samples import mark_the_rest, sample, sample_where, sampled


def only_in_exhaustive(parameters: list[Any]) -> list[bool]:
    return [[mark.name for mark in one.marks] == ["exhaustive"] for one in parameters]


def test_every_case_is_there_in_its_order() -> None:
    assert [one.values for one in sample("abcdef", apart=4)] == [(letter,) for letter in "abcdef"]
    assert [one.values for one in sample([(1, 2), (3, 4)], 2, spread=True)] == [(1, 2), (3, 4)]
    assert [one.values for one in sample([(1, 2)], 2)] == [((1, 2),)]


def test_the_first_case_and_every_so_many_after_it_are_the_sample() -> None:
    assert only_in_exhaustive(sample(range(5), apart=2)) == [False, True, False, True, False]


def test_the_cases_that_are_chosen_are_the_sample() -> None:
    assert only_in_exhaustive(sample_where(range(4), lambda n: n > 2)) == [True, True, True, False]


def test_a_sample_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 3 cases is in the sample"):
        sample_where(range(3), lambda n: n > 2)


def collected(test: str, cases: int, *marks: pytest.MarkDecorator) -> list[Any]:
    """What pytest would collect of a test, as far as `mark_the_rest` looks at it."""
    found = []
    for number in range(cases):
        item = Collected(f"test_x.py::{test}[{number}]")
        for mark in marks:
            item.add_marker(mark)
        found.append(item)
    return found


class Collected:
    def __init__(self, nodeid: str) -> None:
        self.nodeid = nodeid
        self.marks: dict[str, Any] = {}

    def get_closest_marker(self, name: str) -> Any:
        return self.marks.get(name)

    def add_marker(self, mark: Any) -> None:
        mark = getattr(pytest.mark, mark) if isinstance(mark, str) else mark
        self.marks[mark.name] = mark


def test_a_test_that_is_sampled_keeps_its_first_case_and_every_so_many_after_it() -> None:
    items = [
        *collected("test_some", 5, sampled(3)),
        *collected("test_others", 2, sampled(3)),
        *collected("test_all", 2),
    ]
    mark_the_rest(items)
    assert [item.nodeid for item in items if "exhaustive" not in item.marks] == [
        "test_x.py::test_some[0]",
        "test_x.py::test_some[3]",
        "test_x.py::test_others[0]",
        "test_x.py::test_all[0]",
        "test_x.py::test_all[1]",
    ]


def test_a_case_that_its_parameter_left_out_is_not_counted() -> None:
    items = collected("test_some", 3, sampled(2))
    items[0].add_marker("exhaustive")
    mark_the_rest(items)
    assert ["exhaustive" in item.marks for item in items] == [True, False, True]
