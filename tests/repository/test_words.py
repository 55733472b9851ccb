"""The words that names and messages are made of: those of the field, as CONTRIBUTING.md has them.

Of the words that were replaced here stand those that a machine can decide; prose is for a reader.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT, files, rooms

from support.samples import sampled

INSTEAD = {
    "obligation, trace": ["promise", "promises", "promised", "story", "happening", "happenings"],
    "notify, report, record": ["tell", "tells", "told", "telling", "untold", "say", "says", "said"],
    "observe, receive": ["saying", "hear", "hears", "heard", "hearing", "ear", "ears"],
    "handle, serve, wake": [
        "heed",
        "heeds",
        "attend",
        "attends",
        "rouse",
        "rouses",
        "urge",
        "urges",
    ],
    "handshake, peer, disconnect": ["hello", "gone", "whoever"],
    "deadline, timeout, retry": ["haste", "hasty", "hurry", "hurries", "patience", "patient"],
    "journal, server log": ["ledger"],
    "channel, session": ["shortcut"],
    "finish, commit, roll back": ["settle", "settles", "settled", "undo", "undoes", "undone"],
    "is, occurs, exists": ["stands", "standing"],
    "the name of what is inside": ["herd", "herds", "twins", "fleet", "lab", "farm"],
}
REPLACED = {word: instead for instead, words in INSTEAD.items() for word in words}
OTHERS = {"tell", "undo"}
"""Names of methods that are not ours: of files and of pytest's monkeypatch."""
RECORDED = "gone"
"""A kind of line in recordings that users keep."""
IS_NO = re.compile(r"(?<!here )\b(is|are) no (?!longer|more|less)\w+")
CONSTANT = re.compile(r"^_?[A-Z][A-Z0-9_]*_(MOST|LONGEST)$|PATIENCE")


def words_of(name: str) -> list[str]:
    """Return the words of an identifier in snake or camel case, in small letters."""
    found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return [word.lower() for word in found]


def sources() -> list[Path]:
    folders = [
        *rooms().values(),
        ROOT / "src",
        *(ROOT / one for one in ("tools", "examples", "tests")),
    ]
    return [path for folder in folders for path in files(folder) if path.suffix == ".py"]


def names(text: str) -> Iterator[tuple[int, str]]:
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and not (before == "." and token.string in OTHERS):
            yield token.start[0], token.string
        before = token.string


def messages(text: str) -> Iterator[tuple[int, str]]:
    """Yield what a program may print: every string that is not a docstring, f-strings in pieces."""
    tree = ast.parse(text)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def replaced(message: str) -> list[str]:
    """Return what of the replaced words and forms is in a message."""
    found = [word for word in re.findall(r"[a-z]+", message.lower()) if word in REPLACED]
    return [] if message == RECORDED else found + [hit[0] for hit in IS_NO.finditer(message)]


FOLDERS = sorted({path.relative_to(ROOT).parts[0] for path in sources()})


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_made_of_the_words_of_the_field(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}: write {REPLACED.get(word, 'MAX_...')}"
        for path in sources()
        if path.relative_to(ROOT).parts[0] == folder
        for line, name in (*names(path.read_text("utf-8")), (0, path.stem))
        for word in words_of(name)
        if word in REPLACED or CONSTANT.search(name)
    ]
    assert not wrong, "\n".join(wrong)


@sampled(3)
@pytest.mark.parametrize("room", rooms())
def test_messages_are_made_of_the_words_of_the_field(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {hits}: {message!r}"
        for path in files(rooms()[room])
        if path.suffix == ".py"
        for line, message in messages(path.read_text("utf-8"))
        if (hits := replaced(message))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*.toml")), ids=lambda path: path.name)
def test_the_texts_of_the_tables_are_made_of_the_words_of_the_field(path: Path) -> None:
    def texts(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield key.replace("_", " ")
                yield from texts(item)
        elif isinstance(value, list):
            for item in value:
                yield from texts(item)
        elif isinstance(value, str):
            yield value

    wrong = [text for text in texts(tomllib.loads(path.read_text("utf-8"))) if replaced(text)]
    assert not wrong, "\n".join(wrong)


def test_a_word_that_was_replaced_is_found_in_a_name_and_in_a_message() -> None:
    assert words_of("_tellHastyStory") == ["tell", "hasty", "story"]
    assert replaced("the journal says who runs; this is no lock") == ["says", "is no lock"]
    assert replaced("there is no such state, and it is no longer needed") == []
    assert [text for _, text in messages('"""Says."""\nx = f"told {y} no"')] == ["told ", " no"]
