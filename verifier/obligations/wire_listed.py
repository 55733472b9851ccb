"""W11: the rows of the connection against what specifications list of them.

A number, a size or a flag that is another one is no fault of the model, which goes by the table: it
is noticed only by who has the specification beside it. On rows that are not listed it is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import z3

from vfio_migration.model.wire import Wire
from vfio_migration.verifier.obligations.wire_served import wire_listing
from vfio_migration.verifier.solver.encoding import Encoding
from vfio_migration.verifier.solver.obligation import Example, Query

_MAY_LACK = "?"
_KNOWN_BY = ("name", "when")


def as_listed(encoding: Encoding) -> Iterator[Query]:
    """W11: each listed row is there as it is listed, and no limit is below what there must be."""
    wire, listing = encoding.wire, wire_listing()
    agreed: list[str] = []
    for number, block in enumerate(listing["rows"]):
        mistakes = list(_unlike(wire, block, agreed))
        yield _claim(f"{block['section']}-{number}", mistakes)
    yield _claim("room", list(_too_small(wire)))
    words = f"{agreed[0] if agreed else 'nothing'}; {len(agreed)} rows in all"
    yield Query(
        "compared",
        "witness",
        (z3.BoolVal(bool(agreed)),),
        "sat",
        lambda _: Example(words),
        lacking="the table has no row that a specification lists",
    )


def _claim(name: str, mistakes: list[str]) -> Query:
    return Query(
        name,
        "claim",
        (z3.BoolVal(bool(mistakes)),),
        "unsat",
        lambda _: Example("; ".join(mistakes)),
    )


def _unlike(wire: Wire, block: dict[str, Any], agreed: list[str]) -> Iterator[str]:
    """Yield in what rows differ from a block of the listing; add those that do not to `agreed`."""
    section, source = block["section"], block["source"]
    rows = list(enumerate(getattr(wire, section)))
    for listed in block["rows"]:
        wanted = dict(zip(block["keys"], listed, strict=True))
        known = {key: wanted[key] for key in ("word", *_KNOWN_BY) if key in wanted}
        key = next(key for key in _KNOWN_BY if key in known)
        known[key] = known[key].removesuffix(_MAY_LACK)
        title = " ".join(known.values())
        found = [
            (index, row)
            for index, row in rows
            if all(getattr(row, name) == value for name, value in known.items())
        ]
        if not found:
            if not wanted[key].endswith(_MAY_LACK):
                yield f"there is no {title} in [[{section}]], which {source} lists"
            continue
        ((index, row),) = found
        differences = [
            f"{section}[{index}].{name} of {title} is {_shown(_plain(row, name))}, but "
            f"{_shown(value)} in {source}"
            for name, value in wanted.items()
            if name not in known and _plain(row, name) != value
        ]
        if not differences:
            agreed.append(f"{title} is as in {source}")
        yield from differences


def _plain(row: Any, name: str) -> Any:
    """Return a field as the listing has it."""
    value = getattr(row, name)
    return "" if value is None else list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "nothing"


def _too_small(wire: Wire) -> Iterator[str]:
    limits = {row.name: (index, row) for index, row in enumerate(wire.limits)}
    for row in wire_listing()["room"]:
        if row["limit"] in limits:
            index, limit = limits[row["limit"]]
            if limit.value < row["least"]:
                yield (
                    f"limits[{index}].value of {limit.name} is {limit.value}, and has to be "
                    f"{row['least']} at least for {row['source']}"
                )
