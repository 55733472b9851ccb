"""Queries as SMT-LIB 2.6: what z3 is asked, for any solver to decide.

The text of a query depends on its formulas alone: not on what was built before it, nor in which
process. So what is written for a table is the same bytes every time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import z3

from vfio_migration.model import SpecError
from vfio_migration.model.errors import Mistake
from vfio_migration.runtime.files import trusted_path
from vfio_migration.runtime.files.atomic_folder import write_folder
from vfio_migration.verifier.solver.obligation import Obligation, Query

INDEX = "INDEX.json"
README = "README.md"
_MADE_BY = "vfio-migration verify --smtlib"

# z3 names a shared term after its id, which states only what was built before it. Quoted symbols,
# strings and comments are matched so as to be passed over.
_TOKEN = re.compile(r'\|[^|]*\||"[^"]*"|;[^\n]*|(?<![^\s(])[$?]x\d+(?![^\s()])')


def text(formulas: Sequence[z3.BoolRef]) -> str:
    """Return declarations, assertions and the question."""
    # What z3 gives a name depends on what else uses a term; in a context of its own, nothing does.
    context = z3.Context()
    solver = z3.Solver(ctx=context)
    solver.add(*(formula.translate(context) for formula in formulas))
    _, _, body = solver.to_smt2().partition("(set-info :status unknown)\n")
    numbers: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        token = match.group()
        if token[0] not in "$?":
            return token
        return numbers.setdefault(token, f"{token[0]}x{len(numbers) + 1}")

    return "(set-logic ALL)\n" + _TOKEN.sub(renamed, body)


@dataclass(frozen=True, slots=True)
class Document:
    """One query as a file.

    Attributes:
        file: Its path below the folder of the export, "T4/second-path.smt2".
        obligation: The obligation's identifier.
        statement: Its sentence.
        query: The query's name.
        role: Its role.
        expected: The answer that supports the obligation.
        text: The whole file.
    """

    file: str
    obligation: str
    statement: str
    query: str
    role: str
    expected: str
    text: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where queries come from, for their heads.

    Attributes:
        table: The name of the table.
        profile: The profile whose capability sets are covered.
        sets: Those sets, in words.
        command: The command that writes the files again, up to `--only`.
    """

    table: str
    profile: str
    sets: str
    command: str


def documents(
    obligation: Obligation, queries: Iterable[Query], origin: Origin
) -> tuple[Document, ...]:
    """Write the queries of an obligation as stand-alone files.

    A name that comes twice gets a number.
    """
    written: dict[str, Document] = {}
    for query in queries:
        name, number = query.name, 1
        while file_of(obligation.id, name) in written:
            number += 1
            name = f"{query.name}-{number}"
        one = document(obligation, query, origin, name)
        written[one.file] = one
    return tuple(written.values())


def document(
    obligation: Obligation, query: Query, origin: Origin, name: str | None = None
) -> Document:
    """Write a query as a stand-alone file, under its own name or another."""
    name = name or query.name
    logic, _, body = text(query.formulas).partition("\n")
    purpose = {
        "claim": "a claim: any other answer refutes the obligation",
        "step": "a step of an induction: another answer sends the prover searching for a run",
        "witness": "a witness: it shows that the obligation's premise happens",
    }[query.role]
    head = [
        f"{obligation.id}: {obligation.statement}",
        f"query: {name}",
        f"role: {purpose}",
        f"expected: {query.expect}",
        f"table: {origin.table}",
        f"profile: {origin.profile} (capability sets {origin.sets})",
        f"written by: {origin.command} --only {obligation.id} --smtlib DIR",
        f"decide it with: z3 {_safe(name)}.smt2, or: cvc5 {_safe(name)}.smt2",
    ]
    comments = "".join(f"; {' '.join(line.split())}\n" for line in head)
    return Document(
        file=file_of(obligation.id, name),
        obligation=obligation.id,
        statement=obligation.statement,
        query=name,
        role=query.role,
        expected=query.expect,
        text=f"{comments}(set-info :smt-lib-version 2.6)\n{logic}\n"
        f"(set-info :status {query.expect})\n{body.rstrip()}\n(exit)\n",
    )


def file_of(obligation: str, query: str) -> str:
    """The path of a query's file below the folder of an export."""
    return f"{_safe(obligation)}/{_safe(query)}.smt2"


def _safe(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".") or "-"


# --- the folder ---


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier export.

    Raises:
        SpecError: Naming what is in the way.
    """
    if not folder.parent.is_dir():
        _refuse(folder, f"cannot be made: there is no folder {folder.parent}")
    if not folder.exists():
        return
    if not folder.is_dir():
        _refuse(folder, "is not a folder")
    found = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }
    strangers = sorted(found - _written_before(folder))
    if strangers:
        count = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        _refuse(
            folder,
            f"holds {strangers[0]}{count}, which no earlier run wrote",
            "move it away, or name another folder",
        )


def _refuse(folder: Path, problem: str, hint: str | None = None) -> NoReturn:
    raise SpecError([Mistake("--smtlib", str(folder), problem, hint)])


def _written_before(folder: Path) -> set[str]:
    """What the index of an earlier export lists, the index included."""
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        if index["made_by"] != _MADE_BY:
            return set()
        return {INDEX, README, *(str(row["file"]) for row in index["queries"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def write(folder: Path, documents: Iterable[Document], origin: Origin) -> None:
    """Put an export in place of an earlier one, whole or not at all.

    Raises:
        SpecError: If the folder holds other things, or cannot be written.
    """
    try:
        os.close(trusted_path.open_folder(folder).folder)  # refuses the links of others
    except OSError as error:
        _refuse(folder, f"cannot be written: {error.strerror}")
    folder = folder.resolve()
    check_folder(folder)
    rows = list(documents)
    index = {
        "made_by": _MADE_BY,
        "table": origin.table,
        "profile": origin.profile,
        "command": f"{origin.command} --smtlib DIR",
        "queries": [{k: v for k, v in asdict(row).items() if k != "text"} for row in rows],
    }
    texts = {row.file: row.text for row in rows}
    texts[INDEX] = json.dumps(index, indent=1) + "\n"
    texts[README] = _readme(rows, origin)
    try:
        write_folder(folder, texts)
    except OSError as error:
        _refuse(folder, f"cannot be written: {error.strerror}")


def _readme(rows: Sequence[Document], origin: Origin) -> str:
    statements = {row.obligation: row.statement for row in rows}
    lines = [
        "# The obligations as SMT-LIB 2.6",
        "",
        f"Table {origin.table}, profile {origin.profile}, capability sets {origin.sets}.",
        f"Written by `{origin.command} --smtlib DIR`. `INDEX.json` lists the same for programs.",
        "",
        "Each file is one question, and states in its head which answer is expected of a solver.",
        "To have another solver decide them all:",
        "",
        "```sh",
        "for file in */*.smt2; do",
        '  expected=$(sed -n "s/^; expected: //p" "$file")',
        '  answer=$(cvc5 "$file")                   # or: z3 "$file"',
        '  [ "$answer" = "$expected" ] || echo "$file: $answer, but $expected is expected"',
        "done",
        "```",
    ]
    for name, statement in statements.items():
        lines += ["", f"## {name}", "", statement, ""]
        lines += ["| file | role | expected |", "|---|---|---|"]
        lines += [
            f"| {row.file} | {row.role} | {row.expected} |"
            for row in rows
            if row.obligation == name
        ]
    return "\n".join(lines) + "\n"
