"""The words for two mistakes of a program that embeds a generated engine.

The engine of this package raises `SpecError` for them; no client can make them.
"""

from typing import Final

CAPABILITIES_REASON: Final = "the flags word is none of a device that migrates"
PRESENT_STATE_REASON: Final = "no device with these capabilities is in such a state"
