"""HTML as elements, so that no text of a table is ever taken for markup."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any, TypeAlias

from vfio_migration.diagrams.drawing.printable import printable

Child: TypeAlias = "str | ET.Element | Iterable[Child] | None"


def element(tag: str, *children: Child, **attributes: str | bool | None) -> ET.Element:
    """Return an element.

    Args:
        tag: Its tag.
        children: Texts and elements, in order; what is None is left out.
        attributes: Its attributes: `class_` is "class" and `aria_label` is "aria-label". True is an
            attribute without a value; None and False are none.
    """
    made = ET.Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            key = name.rstrip("_").replace("_", "-")
            made.set(key, "" if value is True else printable(value))
    _fill(made, children)
    return made


def _fill(parent: ET.Element, children: Iterable[Child]) -> None:
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            text = printable(child)
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + text
            else:
                parent.text = (parent.text or "") + text
        elif isinstance(child, ET.Element):
            parent.append(child)
        else:
            _fill(parent, child)


def data_block(name: str, data: object) -> ET.Element:
    """Return data for a script, as a block that no browser runs and that nothing in it can end."""
    text = json.dumps(_fit(data), ensure_ascii=False, separators=(",", ":"))
    # In a script nothing is markup but its end, and a comment that hides its end.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    block = ET.Element("script", {"type": "application/json", "id": name})
    block.text = text
    return block


def _fit(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _fit(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fit(item) for item in value]
    return value


def raw(tag: str, text: str) -> ET.Element:
    """Return a script or a style sheet of ours, which is written as it is.

    Raises:
        ValueError: It has what would end it.
    """
    if "</" in text or "<!--" in text:
        raise ValueError(f"a <{tag}> with its end in it")
    made = ET.Element(tag)
    made.text = text
    return made


def document(root: ET.Element) -> str:
    """Return the text of a page."""
    return f"<!DOCTYPE html>\n{ET.tostring(root, encoding='unicode', method='html')}\n"


__all__ = ["Child", "data_block", "document", "element", "raw"]
