"""A case of a sampled test runs in `make test` or in `make exhaustive`, and none in neither."""

from __future__ import annotations

from typing import Any

import pytest

from support.samples import sample, sample_where


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
