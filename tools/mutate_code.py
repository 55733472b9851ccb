"""Makes single edits of our own code, and sees whether a test notices each.

`make mutate-code` runs it. `tools/code_mutants.toml` names the modules, the tests that cover each
and the mutants that are argued to be equivalent. What was found is kept in
`tools/code_mutants.json`, from which docs/code-mutants.md is written; `--check` compares the page.

The edits are those of cosmic-ray, and three more: a statement left out, a condition that always or
never holds. The tests of a mutant run in a fork of a process that has pytest loaded, on a copy of
the package: nothing in the repository is edited.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import json
import os
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from made_page import write_or_compare

ROOT: Final = Path(__file__).resolve().parent.parent
LIST: Final = ROOT / "tools" / "code_mutants.toml"
FOUND: Final = ROOT / "tools" / "code_mutants.json"
WORK: Final = ROOT / "build" / "mutate-code"
PAGE: Final = "code-mutants.md"
GOAL_PERCENT: Final = 95
MAX_TRIED: Final = 150
"""How many mutants of one module are tried, unless its row or `--most` has another number."""
MIN_TIMEOUT_S: Final = 60.0
SLOWER: Final = 8
"""A mutant whose tests take so many times longer than those of the module itself is killed."""
LOADED: Final = ("pytest", "hypothesis", "_hypothesis_pytestplugin", "pydantic")
BELOW: Final = ("vfio_migration.model", "vfio_migration.model.wire_load")
"""What is loaded once for all mutants of a module above the room `model`."""

Edit: TypeAlias = Callable[[], str]
"""Makes the text of a file with one edit."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One edit.

    Attributes:
        line: The first line it changes, from 1.
        before: What was there, without indentation.
        after: What is there instead.
        text: The whole file with it.
    """

    line: int
    before: str
    after: str
    text: str


@dataclass(frozen=True, slots=True)
class Module:
    """A module to mutate: a row of the list."""

    file: str
    tests: tuple[str, ...]
    most: int
    equivalent: dict[tuple[str, str], str]


def modules() -> list[Module]:
    """Read the list."""
    rows = tomllib.loads(LIST.read_text("utf-8"))["modules"]
    return [
        Module(
            row["file"],
            tuple(row["tests"]),
            row.get("most", MAX_TRIED),
            {(one["before"], one["after"]): one["why"] for one in row.get("equivalent", [])},
        )
        for row in rows
    ]


# --- making mutants ---


def edits(text: str) -> list[tuple[int, Edit]]:
    """Return the edits of a file, in order of lines: the line, and what makes the edited text."""
    shown = [
        (note.lineno, note.col_offset, note.end_lineno or 0, note.end_col_offset or 0)
        for note in _annotations(ast.parse(text))
    ]

    def is_run(line: int, column: int) -> bool:
        return not any((a, b) <= (line, column) < (c, d) for a, b, c, d in shown)

    found = [*_without_statements(text), *_by_operators(text)]
    kept = [(line, edit) for line, column, edit in found if is_run(line, column)]
    return sorted(kept, key=lambda one: one[0])


def _annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the annotations: nobody evaluates them."""
    for node in ast.walk(tree):
        match node:
            case ast.arg(annotation=ast.expr() as note) | ast.AnnAssign(annotation=note):
                yield note
            case ast.FunctionDef(returns=ast.expr() as note):
                yield note


def mutants(text: str, chosen: Sequence[tuple[int, Edit]]) -> list[Mutant]:
    """Return what these edits make, each once; without those that change nothing."""
    seen = {ast.dump(ast.parse(text))}
    found: list[Mutant] = []
    for _, edit in chosen:
        changed = edit()
        try:
            meaning = ast.dump(ast.parse(changed))
        except SyntaxError:
            continue
        if meaning not in seen:
            seen.add(meaning)
            found.append(_mutant(text, changed))
    return found


def _mutant(text: str, changed: str) -> Mutant:
    old, new = text.splitlines(), changed.splitlines()
    for what, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what != "equal":
            before, after = (" ".join(map(str.strip, part)) for part in (old[a:b], new[c:d]))
            return Mutant(a + 1, before, after, changed)
    raise ValueError("nothing is changed")


def _by_operators(text: str) -> Iterator[tuple[int, int, Edit]]:
    """Yield the edits that cosmic-ray makes: line, column, and what makes it."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(text)))
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue  # needs to be given names of variables
        places = [begin for node in nodes for begin, _ in operator().mutation_positions(node)]
        for number, (line, column) in enumerate(places):
            yield line, column, functools.partial(mutate_code, text, operator(), number)


def _without_statements(text: str) -> Iterator[tuple[int, int, Edit]]:
    """Yield edits that leave a statement out, or decide a condition."""
    raw = text.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def edited(begin: int, end: int, words: str) -> str:
        return (raw[:begin] + words.encode() + raw[end:]).decode()

    for node in ast.walk(ast.parse(text)):
        instead: tuple[str, ...] = ()
        place: ast.stmt | ast.expr | None = None
        match node:
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Delete():
                instead, place = ("pass",), node
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                instead, place = ("pass",), node
            case ast.If(test=test) | ast.IfExp(test=test):
                instead, place = ("True", "False"), test
        if place is None or place.end_lineno is None or place.end_col_offset is None:
            continue
        begin = starts[place.lineno - 1] + place.col_offset
        end = starts[place.end_lineno - 1] + place.end_col_offset
        for words in instead:
            edit = functools.partial(edited, begin, end, words)
            yield place.lineno, place.col_offset, edit


def sampled(found: Sequence[_T], most: int) -> list[_T]:
    """Return at most so many, from the whole length of the file and the same ones each time."""
    if len(found) <= most:
        return list(found)
    return [found[number * len(found) // most] for number in range(most)]


# --- trying them ---


def try_all(module: Module, most: int | None, again: list[list[str]] | None) -> dict[str, Any]:
    """Try the mutants of one module; return what is kept of it.

    Args:
        module: The module.
        most: How many at most; None for what its row has.
        again: Those that survived before: no others are tried, and the others count as killed.
    """
    source = ROOT / module.file
    text = source.read_text("utf-8")
    copy = _copied() / module.file
    copy.unlink()
    sys.path.insert(0, str(WORK / "package"))
    os.environ["PYTHONPATH"] = str(WORK / "package")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in LOADED + (() if module.file.startswith("model/") else BELOW):
        __import__(name)
    begun = time.monotonic()
    if _passes(copy, text, 0, module.tests, None) is not True:
        raise SystemExit(f"{module.file}: its tests fail without a mutant: see {WORK / 'log'}")
    took = time.monotonic() - begun
    timeout_s = max(MIN_TIMEOUT_S, SLOWER * took)
    made = edits(text)
    tried = mutants(text, sampled(made, module.most if most is None else most))
    print(f"{module.file}: {len(tried)} of {len(made)} mutants, {took:.1f} s each", flush=True)
    survived = []
    for number, one in enumerate(tried, 1):
        if again is not None and [one.before, one.after] not in again:
            continue
        if _passes(copy, one.text, number, module.tests, timeout_s):
            argued = (one.before, one.after) in module.equivalent
            print(f"{number:4} {one.line}: {'argued: ' if argued else ''}{one.before}")
            print(f"     -> {one.after}", flush=True)
            survived.append([one.before, one.after])
    return {
        "made": len(made),
        "tried": len(tried),
        "survived": survived,
    }


def _copied() -> Path:
    """Copy the package, by links; return the folder of its rooms."""
    (link,) = ROOT.glob("build/__editable__*/vfio_migration")
    whole = WORK / "package" / "vfio_migration"
    for path in link.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = whole / path.relative_to(link)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(path.resolve())
    return whole


def _passes(
    copy: Path, text: str, number: int, tests: Sequence[str], timeout_s: float | None
) -> bool | None:
    """Return whether the tests pass with this text in the copy; None if they take too long."""
    copy.write_text(text, "utf-8")
    # Compiled modules are distinguished by size and time, in seconds.
    os.utime(copy, (number + 1, number + 1))
    child = os.fork()
    if child == 0:
        _run(tests)
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while until is None or time.monotonic() < until:
        ended, status = os.waitpid(child, 0 if until is None else os.WNOHANG)
        if ended:
            _end(child)  # what the tests started and did not wait for
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    _end(child)
    os.waitpid(child, 0)
    return None


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _run(tests: Sequence[str]) -> None:
    """Run tests in this process, and end it."""
    status = 1
    try:
        os.setsid()
        log = os.open(WORK / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        import pytest

        options = ["-q", "-x", "--no-header", "--tb", "short", "--hypothesis-profile", "first"]
        options += ["-p", "no:cacheprovider", "-p", "no:xdist"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # it is loaded already
        status = int(pytest.main([*options, *tests]))
    except BaseException:  # noqa: BLE001 - the process ends with it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


# --- the page ---


def page(found: dict[str, dict[str, Any]]) -> str:
    """Render the page of docs."""
    return "\n".join(_page(found)) + "\n"


def _page(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "<!-- Made by `make mutate-code`; do not edit. -->"
    yield "# Mutants of the code"
    yield ""
    yield (
        "Would the tests notice a mistake in the code? `make mutate-code` makes single edits of a "
        "module (those of cosmic-ray, a statement left out, a condition that always or never "
        "holds) and runs the tests of that module on each. An edit that no test notices is argued "
        "to be equivalent, in `tools/code_mutants.toml`, or is a survivor. Of a module with many "
        f"edits a sample is tried. The aim is {GOAL_PERCENT} % killed or argued. The tests are a "
        "few files each, not all that there are, so that a survivor here may still fail a test "
        "elsewhere."
    )
    yield ""
    yield "| module | edits | tried | killed | argued | survived | killed or argued |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    survivors: list[tuple[Module, str, str]] = []
    argued: list[tuple[Module, str, str]] = []
    for module in modules():
        row = found.get(module.file)
        if row is None:
            yield f"| `{module.file}` | | not run | | | | |"
            continue
        pairs = [(before, after) for before, after in row["survived"]]
        good = [pair for pair in pairs if pair in module.equivalent]
        bad = [pair for pair in pairs if pair not in module.equivalent]
        argued += [(module, *pair) for pair in good]
        survivors += [(module, *pair) for pair in bad]
        percent = 100 * (row["tried"] - len(bad)) / row["tried"]
        yield (
            f"| `{module.file}` | {row['made']} | {row['tried']} | {row['tried'] - len(pairs)} | "
            f"{len(good)} | {len(bad)} | {percent:.1f} % |"
        )
    yield from _listed("Survivors", survivors, argued=False)
    yield from _listed("Argued to be equivalent", argued, argued=True)


def _listed(title: str, rows: Sequence[tuple[Module, str, str]], *, argued: bool) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"## {title}")
    last = ""
    for module, before, after in rows:
        if module.file != last:
            yield from ("", f"`{module.file}`:", "")
            last = module.file
        why = f": {module.equivalent[before, after]}" if argued else ""
        yield f"- `` {before} `` → `` {after} ``{why}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants and write the page, or compare it; 1 if it differs."""
    parser = argparse.ArgumentParser(
        prog="python tools/mutate_code.py",
        description="Try mutants of the code; write docs/code-mutants.md, or check it.",
    )
    parser.add_argument("modules", nargs="*", metavar="FILE", help="which of the list; else all")
    parser.add_argument("--most", type=int, metavar="N", help="how many mutants of each")
    parser.add_argument("--again", action="store_true", help="only those that survived before")
    parser.add_argument("--page", action="store_true", help="try nothing, write the page")
    parser.add_argument("--check", action="store_true", help="try nothing, compare the page")
    chosen = parser.parse_args(arguments)
    found = json.loads(FOUND.read_text("utf-8")) if FOUND.exists() else {}
    listed = {module.file: module for module in modules()}
    if unknown := [name for name in chosen.modules if name not in listed]:
        parser.error(f"{unknown[0]}: is not in {LIST.name}; there are {', '.join(listed)}")
    for name in () if chosen.check or chosen.page else chosen.modules or listed:
        again = found.get(name, {}).get("survived", []) if chosen.again else None
        # Each in a process of its own: what is loaded for one is not what another needs.
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.write(write, json.dumps(try_all(listed[name], chosen.most, again)).encode())
            except BaseException as error:  # noqa: BLE001 - the process ends with it
                print(error, file=sys.stderr)
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            result = pipe.read()
        os.waitpid(child, 0)
        if not result:
            return 2
        found[name] = json.loads(result)
        FOUND.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return write_or_compare(page(found), ROOT / "docs" / PAGE, check=chosen.check)


if __name__ == "__main__":
    raise SystemExit(main())
