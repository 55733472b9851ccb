"""Which cases of a test run in `make test`, and which only in `make exhaustive`.

A test over many cases is part of both: its sample carries no mark, every other case is marked
`exhaustive`. So the two targets together run each case once, and no case is left out.

`@sampled(8)` above a test is the usual way. `sample` and `sample_where` mark the values of one
parameter, where it matters which of them `make test` tries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def sampled(apart: int) -> pytest.MarkDecorator:
    """Mark a test: `make test` runs its first case and every `apart`-th after it.

    Args:
        apart: how many cases one of the sample stands for.
    """
    return pytest.mark.sampled(apart)


def mark_the_rest(items: Iterable[pytest.Item]) -> None:
    """Mark `exhaustive` the cases of tests with `sampled` that are not in the sample."""
    counted: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is None or item.get_closest_marker("exhaustive") is not None:
            continue
        test, _, _ = item.nodeid.partition("[")
        if counted[test] % mark.args[0]:
            item.add_marker("exhaustive")
        counted[test] += 1


def sample(values: Iterable[Any], apart: int, *, spread: bool = False) -> list[Any]:
    """Return the values as parameters; all are marked but the first and every `apart`-th after it.

    Args:
        values: the cases, in the order in which the test names them.
        apart: how many cases one of the sample stands for.
        spread: each value is a tuple, with a value for each of several argument names.
    """
    return [
        _parameter(value, quick=index % apart == 0, spread=spread)
        for index, value in enumerate(values)
    ]


def sample_where(
    values: Iterable[Any], quick: Callable[[Any], bool], *, spread: bool = False
) -> list[Any]:
    """Return the values as parameters; those that are not `quick` are marked.

    Raises:
        ValueError: no value is quick, so `make test` would show nothing.
    """
    cases = list(values)
    if not any(map(quick, cases)):
        raise ValueError(f"none of the {len(cases)} cases is in the sample; choose at least one")
    return [_parameter(value, quick=quick(value), spread=spread) for value in cases]


def _parameter(value: Any, *, quick: bool, spread: bool) -> Any:
    marks = () if quick else (pytest.mark.exhaustive,)
    return pytest.param(*(value if spread else (value,)), marks=marks)
