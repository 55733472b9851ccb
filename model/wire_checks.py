"""What must hold between the rows of the table of the connection.

As in `vfio_migration.model.checks`, the plain data of the file is read, so that a misspelt key in
one place hides no mistake in another.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

from vfio_migration.model import checks
from vfio_migration.model.errors import Mistake, closest, did_you_mean, it_has
from vfio_migration.model.raw_rows import Data, PlainTable, name_of, number_of, text_of
from vfio_migration.model.wire import (
    FROM_THE_TABLE,
    Answer,
    Command,
    Feature,
    FlagBits,
    FlagChoice,
    FlagWord,
    HeaderField,
    Holding,
    Limit,
    Occasion,
    Option,
    Wire,
)

_ROWS: list[Any] = [
    HeaderField, FlagWord, FlagBits, FlagChoice, Limit, Option, Holding, Command, Feature, Answer
]  # fmt: skip
_KEYS = {field.name for row in _ROWS for field in fields(row)}
_WIDTHS = {"commands": 16, "features": 16, "flags": 32, "limits": 32}


def check_wire(data: Data) -> list[Mistake]:
    """Return every mistake that rows make against each other."""
    table = PlainTable(data, Wire)
    checks.texts(table, ("name", "title"), _KEYS)
    for section in ("flags", "answers"):
        table.names[section] = []  # distinguished by word and name, and by `when`
    checks.names(table, ("options", "answers", "choices"), ("flags",))
    table.unique("flags", "", _word_and_name, "give it another")
    table.unique("answers", ".when", lambda row: text_of(row, "when"), "remove one of the two")
    for section in ("commands", "features"):
        table.unique(section, ".number", lambda row: number_of(row, "number"), "give it another")
    _numbers(table)
    _header(table)
    _references(table)
    _choices(table)
    _items(table)
    _unused(table)
    _answers(table)
    _roles(table)
    _needed(table)
    table.report_unknown()
    return table.mistakes


def _word_and_name(row: Data) -> tuple[str, str] | None:
    word, name = text_of(row, "word"), name_of(row)
    return None if word is None or name is None else (word, name)


def _numbers(table: PlainTable) -> None:
    """Report numbers that do not fit where they go."""
    for section in table.sections:
        bits = _WIDTHS.get(section, 32)
        for index, row in table.rows(section):
            for key in row:
                value = number_of(row, key)
                width = bits if key in ("number", "mask", "value") else 32
                if key in _KEYS and value is not None and not 0 <= value < 1 << width:
                    problem = f"does not fit {width} bits"
                    table.report(f"{section}[{index}].{key}", value, problem)


def _header(table: PlainTable) -> None:
    """Report header fields that leave a hole or overlap."""
    end = 0
    for index, row in table.rows("header"):
        offset, size = number_of(row, "offset"), number_of(row, "size")
        if offset is None or size is None:
            return
        if offset != end:
            place = f"header[{index}].offset"
            table.report(place, offset, f"is not where the field before ends, at {end}")
        end = offset + size


def _references(table: PlainTable) -> None:
    for key in ("request_bound", "request_padding", "reply_bound"):
        table.refer_all("commands", key, "limits", "limit")
    table.refer_all("words", "command", "commands", "command")
    for section in ("flags", "choices"):
        table.refer_all(section, "word", "words", "flags word")
    for section in ("commands", "answers"):
        table.refer_all(section, "needs", "options", "option")
    for key in ("adds", "removes"):
        table.refer_all("commands", key, "holdings", "holding")
    table.refer_all("holdings", "limit", "limits", "limit")


def _choices(table: PlainTable) -> None:
    """Report choices among bits that are not there, and counts that cannot be kept."""
    known: dict[str, list[str]] = {}
    for _, row in table.rows("flags"):
        word_and_name = _word_and_name(row)
        if word_and_name is not None:
            known.setdefault(word_and_name[0], []).append(word_and_name[1])
    for index, row in table.rows("choices"):
        word, among = text_of(row, "word"), row.get("among")
        if word not in known or not isinstance(among, list):
            continue
        for position, name in enumerate(among):
            if isinstance(name, str) and name.strip() and name not in known[word]:
                place = f"choices[{index}].among[{position}]"
                hint = did_you_mean(closest(name, known[word])) or it_has(known[word])
                table.report(place, name, f"is not a flag of {word}", hint)
        least, most = number_of(row, "least"), number_of(row, "most")
        if least is not None and most is not None and not least <= most <= len(among):
            place, problem = f"choices[{index}].most", f"is not between {least} and {len(among)}"
            table.report(place, most, problem)


def _items(table: PlainTable) -> None:
    """Report a bound on something that has a fixed size, and padding after what has none."""
    for index, row in table.rows("commands"):
        padding = row.get("request_padding")
        if padding is not None and number_of(row, "request_item") not in (None, 0):
            place = f"commands[{index}].request_padding"
            problem = "pads nothing: what follows the fixed part are items"
            table.report(place, padding, problem, "remove it")
        for part in ("request", "reply"):
            bound = row.get(f"{part}_bound")
            if bound is not None and number_of(row, f"{part}_item") in (None, 0):
                place = f"commands[{index}].{part}_bound"
                hint = f"add {part}_item = BYTES, or remove it"
                table.report(place, bound, f"bounds nothing: the {part} has a fixed size", hint)


def _unused(table: PlainTable) -> None:
    """Report what a reply forgets that carries nothing, and how a server does its own commands."""
    for section in ("commands", "features"):
        for index, row in table.rows(section):
            once = (
                row.get("logging") == "needs"
                or row.get("transfer") == "read"
                or row.get("does") == "inform"
            )
            if row.get("forgets") in ("when_served", "when_sent") and not once:
                problem = "is never used: its reply has nothing that no other will carry"
                table.report(f"{section}[{index}].forgets", row["forgets"], problem, "remove it")
            if row.get("whole") is False and row.get("sender") == "server":
                problem = "is never used: it is the client that does it"
                table.report(f"{section}[{index}].whole", False, problem, "remove it")


def _answers(table: PlainTable) -> None:
    checks.errnos(table, "answers")
    for index, row in table.rows("answers"):
        when, place = row.get("when"), f"answers[{index}].errno"
        if when not in get_args(Occasion) or row.get("outcome") not in _OUTCOMES:
            continue
        silent = row.get("outcome") == "ignored"
        if "errno" in row and (silent or when in FROM_THE_TABLE):
            problem = "is never used: " + (
                "the row answers nothing" if silent else "the migration table has it"
            )
            table.report(place, row["errno"], problem, "remove it")
        elif "errno" not in row and not silent and when not in FROM_THE_TABLE:
            hint = 'add errno = "..."'
            table.report(place, None, "is missing from a row that answers", hint)


_OUTCOMES = ("error", "closes", "ignored")


def _roles(table: PlainTable) -> None:
    """Report if not exactly one row does what there must be one row for."""
    wanted = (
        ("commands", "does", "negotiate", 'does = "negotiate"'),
        ("commands", "does", "reset", 'does = "reset"'),
        ("commands", "does", "feature", 'does = "feature"'),
        ("features", "moves", True, "moves = true"),
    )
    for section, key, value, written in wanted:
        rows = table.data.get(section)
        found = [index for index, row in table.rows(section) if row.get(key) == value]
        if not found and isinstance(rows, list) and rows and _legible(table, section, key):
            table.report(section, None, f"has no row with {written}", "one must have it")
        for index in found[1:]:
            problem = f"is already in {section}[{found[0]}]"
            table.report(f"{section}[{index}].{key}", value, problem, "only one can have it")


def _legible(table: PlainTable, section: str, key: str) -> bool:
    """Return whether a key can be read in every row; if not, that row may be the one that lacks."""
    keys = {field.name for field in fields(Command if section == "commands" else Feature)}
    allowed = ("negotiate", "reset", "feature", "inform", "other", True, False, None)
    rows = table.data.get(section)
    found = [row for _, row in table.rows(section)]
    return (
        isinstance(rows, list)
        and len(found) == len(rows)
        and all(row.keys() <= keys and row.get(key) in allowed for row in found)
    )


_NEEDED = {
    "header": ("id", "command", "size", "flags", "errno"),
    "words": ("header",),
    "limits": ("max_msg_fds", "max_data_xfer_size"),
    "holdings": (
        "mapped_files",
        "mapped_mib",
        "replies",
        "server_commands",
        "put_off_commands",
        "put_off_data",
        "put_off_fds",
        "log_chunks",
        "read_ahead",
    ),
}


def _needed(table: PlainTable) -> None:
    """Report rows that the protocol knows by name and that are not there."""
    for section, wanted in _NEEDED.items():
        for name in wanted:
            if table.readable(section) and name not in table.names[section]:
                problem = f'has no row with name = "{name}"'
                table.report(section, None, problem, "the protocol needs it")
