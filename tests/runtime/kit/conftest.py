"""Puts what these tests share where they can import it."""

from __future__ import annotations

import sys
from pathlib import Path

for place in (Path(__file__).parent,):
    if str(place) not in sys.path:
        sys.path.append(str(place))
