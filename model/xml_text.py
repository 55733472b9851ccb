"""Text that XML can hold."""

from __future__ import annotations

import re
from typing import Final

_NOT_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Whatever is no character of XML 1.0 (Char), however it is written."""


def xml_text(text: str) -> str:
    """Return text in which U+FFFD stands for each character that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
