"""C, as far as the tables need it: arrays with designators, enumerators, and `#define`.

Everything else is refused with its line: a range, a position without a designator, a directive or a
macro inside a table, a table that occurs twice or under a condition. A table must never be read as
another one than a compiler would make of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vfio_migration.model.errors import SpecError
from vfio_migration.model.sources.facts import Place, wrong

if TYPE_CHECKING:
    from tree_sitter import Node

_NO_CODE = re.compile(
    r"/\*.*?(?:\*/|\Z)"  # a comment, which may be cut off
    r"|//[^\n]*"
    r"|\"(?:\\.|[^\"\\\n])*\""
    r"|'(?:\\.|[^'\\\n])*'",
    re.DOTALL,
)

_CONDITIONS = frozenset({"preproc_if", "preproc_ifdef", "preproc_elif", "preproc_else"})

_HOLDERS = _CONDITIONS | {"compound_statement", "translation_unit"}


class CFile:
    """One file of C.

    Args:
        path: What the file is called.
        text: What is in it.
    """

    def __init__(self, path: str, text: bytes) -> None:
        from tree_sitter import Language, Parser
        from tree_sitter_c import language

        self.path = path
        self.text = text
        self.root = Parser(Language(language())).parse(self.text).root_node
        self.macros = {
            _text(name): self.place(node)
            for node in _walk(self.root)
            if node.type in ("preproc_def", "preproc_function_def")
            and (name := node.child_by_field_name("name")) is not None
        }

    def place(self, node: Node) -> Place:
        """Return where a node begins."""
        return Place(self.path, node.start_point[0] + 1)

    def refuse(self, node: Node, problem: str, hint: str | None = None) -> SpecError:
        """Return an error about a node."""
        return wrong(self.place(node), _text(node).split("\n")[0], problem, hint)

    # --- arrays ---

    def has_array(self, name: str) -> bool:
        """Return whether the file initializes an array of this name."""
        return any(True for _ in self._arrays(name))

    def array(self, name: str) -> Node:
        """Return the initializer of the constant array `name`.

        Raises:
            SpecError: There is none, there are two, or what it holds depends on a condition.
        """
        found = list(self._arrays(name))
        if not found:
            self.refuse_cut(name)
            hint = "if it was renamed, or is made by a macro, it cannot be read"
            raise wrong(self.path, name, "is an array that this file does not initialize", hint)
        if len(found) > 1:
            raise self.refuse(found[1], f"initializes {name} a second time", "leave one")
        [declarator] = found
        declaration = declarator.parent
        assert declaration is not None
        self.unconditional(declaration)
        self._readable(declaration)
        qualifiers = {_text(node) for node in declaration.children if node.type == "type_qualifier"}
        if "const" not in qualifiers:
            raise self.refuse(declaration, f"is not const, so {name} may be another at run time")
        value = declarator.child_by_field_name("value")
        if value is None or value.type != "initializer_list":
            raise self.refuse(declarator, "is not a list of cells")
        return value

    def _arrays(self, name: str) -> Iterator[Node]:
        for node in _walk(self.root):
            if node.type == "init_declarator":
                inner = node.child_by_field_name("declarator")
                depth = 0
                while inner is not None and inner.type == "array_declarator":
                    inner = inner.child_by_field_name("declarator")
                    depth += 1
                if depth and inner is not None and _text(inner) == name:
                    yield node

    def cells(self, initializer: Node) -> Iterator[tuple[str, Node, Place]]:
        """Yield the cells of an initializer: the name that designates each, its value, its place.

        Raises:
            SpecError: A cell is written in another form, or occurs twice.
        """
        seen: dict[str, Place] = {}
        for node in initializer.named_children:
            if node.type == "comment":
                continue
            if node.type != "initializer_pair":
                raise self.refuse(node, "is not a cell of the form [STATE] = VALUE")
            name = self._designator(node)
            value = node.child_by_field_name("value")
            if value is None:
                raise self.refuse(node, "is a cell without a value")
            if name in seen:
                raise self.refuse(node, f"writes {name} again, after {seen[name]}", "leave one")
            seen[name] = self.place(node)
            yield name, value, seen[name]

    def _designator(self, pair: Node) -> str:
        designators = pair.children_by_field_name("designator")
        if len(designators) != 1 or designators[0].type != "subscript_designator":
            raise self.refuse(pair, "is not a cell of the form [STATE] = VALUE")
        inside = _without_comments(designators[0])
        if len(inside) != 1:
            raise self.refuse(pair, "is not a cell of the form [STATE] = VALUE")
        return self.identifier(inside[0])

    def identifier(self, node: Node) -> str:
        """Return a name that stands for a number.

        Raises:
            SpecError: It is none, or a macro of this file.
        """
        node = _without_parentheses(node)
        if node.type != "identifier":
            raise self.refuse(node, "is not a name of a state or capability")
        name = _text(node)
        if name in self.macros:
            raise self.refuse(node, f"is a macro, defined at {self.macros[name]}")
        return name

    def alternatives(self, node: Node) -> Iterator[Node]:
        """Yield the operands of A | B | C."""
        node = _without_parentheses(node)
        operator = node.child_by_field_name("operator")
        if node.type == "binary_expression" and operator is not None and _text(operator) == "|":
            left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
            assert left is not None
            assert right is not None
            yield from self.alternatives(left)
            yield from self.alternatives(right)
        else:
            yield node

    def bit(self, node: Node) -> str:
        """Return the name that 1 << NAME shifts by.

        Raises:
            SpecError: It is written in another form.
        """
        node = _without_parentheses(node)
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        operator = node.child_by_field_name("operator")
        if left is None or right is None or operator is None:
            raise self.refuse(node, "is not of the form 1 << STATE")
        if (_text(left), _text(operator)) != ("1", "<<"):
            raise self.refuse(node, "is not of the form 1 << STATE")
        return self.identifier(right)

    @staticmethod
    def is_all_zero(row: Node) -> bool:
        """Return whether a row is { 0, 0, ... }."""
        values = [node for node in row.named_children if node.type != "comment"]
        return bool(values) and all(_text(node) == "0" for node in values)

    def comment_above(self, node: Node) -> tuple[str, Place] | None:
        """Return the comment right above the statement that a node is in, and its place."""
        while node.parent is not None and node.parent.type not in _HOLDERS:
            node = node.parent
        above = node.prev_named_sibling
        if above is None or above.type != "comment":
            return None
        return _text(above).replace("\r", ""), self.place(above)

    # --- enumerators and macros ---

    def enum(self, name: str) -> Node:
        """Return the definition of `enum name`.

        Raises:
            SpecError: There is none, there are two, or what it holds depends on a condition.
        """
        found = [
            node
            for node in _walk(self.root)
            if node.type == "enum_specifier"
            and (tag := node.child_by_field_name("name")) is not None
            and _text(tag) == name
            and node.child_by_field_name("body") is not None
        ]
        if not found:
            self.refuse_cut(name)
        if len(found) != 1:
            problem = "is defined twice" if found else "is an enum that this file does not define"
            raise wrong(self.path, name, problem)
        self.unconditional(found[0])
        self._readable(found[0])
        return found[0]

    def enumerators(self, name: str) -> list[tuple[str, int, Place, bool]]:
        """Return the enumerators of `enum name`: name, value, place, and if the value is written.

        Raises:
            SpecError: As `enum`, or a value is not a plain number.
        """
        body = self.enum(name).child_by_field_name("body")
        assert body is not None
        listed: list[tuple[str, int, Place, bool]] = []
        following = 0
        for node in body.named_children:
            if node.type == "comment":
                continue
            tag = node.child_by_field_name("name")
            if node.type != "enumerator" or tag is None:
                raise self.refuse(node, "is not an enumerator")
            value = node.child_by_field_name("value")
            if value is not None:
                following = self._number(value)
            listed.append((self.identifier(tag), following, self.place(node), value is not None))
            following += 1
        return listed

    def _number(self, node: Node) -> int:
        try:
            return int(_text(node), 0)
        except ValueError:
            raise self.refuse(node, "is not a plain number") from None

    def definitions(self, prefix: str) -> Iterator[tuple[str, Node, Place]]:
        """Yield the macros whose name begins so: name, value, place."""
        for node in _walk(self.root):
            name = node.child_by_field_name("name")
            if node.type == "preproc_def" and name is not None and _text(name).startswith(prefix):
                value = node.child_by_field_name("value")
                if value is not None:
                    yield _text(name), value, self.place(node)

    # --- what may not be ---

    def unconditional(self, node: Node) -> None:
        """Refuse what is under #if, unless that is the guard of a header."""
        above = node.parent
        while above is not None:
            if above.type in _CONDITIONS and not _is_guard(above):
                at = self.place(above)
                raise self.refuse(node, f"depends on the condition at {at}", "leave one form")
            above = above.parent

    def refuse_cut(self, name: str) -> None:
        """Refuse a file that ends inside the list that follows a name.

        Raises:
            SpecError: It does.
        """
        code = _NO_CODE.sub(_blank, self.text.decode("utf-8", "replace"))
        for found in re.finditer(rf"\b{re.escape(name)}\b[^;{{}}]*\{{", code):
            depth = 0
            for character in code[found.end() - 1 :]:
                depth += {"{": 1, "}": -1}.get(character, 0)
                if depth == 0:
                    break
            if depth:
                place = Place(self.path, code[: found.start()].count("\n") + 1)
                raise wrong(place, name, "begins here, and the file ends inside it", "is it whole?")

    def _readable(self, node: Node) -> None:
        for inner in _walk(node):
            if inner.is_missing and inner.parent is not None:
                # What is missing has no text of its own.
                raise self.refuse(inner.parent, f"lacks something here: {inner.type}")
            if inner.type.startswith("preproc") or inner.is_error or inner.is_missing:
                raise self.refuse(inner, "cannot be read here: a directive, a macro or a mistake")


def _is_guard(node: Node) -> bool:
    """Return whether `#ifndef X` is the guard of a header: it defines X first, and has no #else."""
    name = node.child_by_field_name("name")
    named = [child for child in node.named_children if child.type != "comment"]
    if name is None or len(named) < 2 or named[1].type != "preproc_def":
        return False
    defined = named[1].child_by_field_name("name")
    has_else = node.child_by_field_name("alternative") is not None
    return defined is not None and _text(defined) == _text(name) and not has_else


def _blank(found: re.Match[str]) -> str:
    """Return nothing but the ends of lines of a comment or a text."""
    return "\n" * found[0].count("\n") or " "


def text_of(node: Node) -> str:
    """Return the text of a node."""
    return _text(node)


def _without_comments(node: Node) -> list[Node]:
    return [one for one in node.named_children if one.type != "comment"]


def _without_parentheses(node: Node) -> Node:
    while node.type == "parenthesized_expression" and len(_without_comments(node)) == 1:
        [node] = _without_comments(node)
    return node


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it, in the order of the text."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        yield here
        waiting += reversed(here.children)


__all__ = ["CFile", "text_of"]
