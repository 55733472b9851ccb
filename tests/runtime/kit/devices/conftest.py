"""What the tests of devices share: a rig with a device, its engine, its guest and a clock."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)
