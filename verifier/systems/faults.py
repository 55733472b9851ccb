"""What a model can be made to do wrong, so that it is seen that an obligation can fail.

Most obligations are broken by a table. A few speak of what no table decides: that a refusal changes
nothing, that a second life is as the first, that there is one reply. In a model that is so by the
way it is made, and a proof of it would show nothing. Each fault takes away one of these; the tests
show which obligations then fail, and that no others do. `verify` never asks for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Fault = Literal[
    "refusal-renews-session",
    "second-stream-unread",
    "failure-unanswered",
    "refusal-answered-twice",
    "refusal-resets",
    "refusal-forgets-size",
    "failure-loses-session",
    "reset-ends-logging",
]

FAULTS: Final[Mapping[Fault, str]] = {
    "refusal-renews-session": "A refused request gives the open data session another number.",
    "second-stream-unread": "A device whose session is not its first does not let it be read.",
    "failure-unanswered": "A request of which an arc fails gets no reply.",
    "refusal-answered-twice": "A command that is refused gets two replies.",
    "refusal-resets": "A refused request for a state resets the device.",
    "refusal-forgets-size": "A refused command makes the server forget the client's sizes.",
    "failure-loses-session": "An arc that fails ends the session, and the state stays what it was.",
    "reset-ends-logging": "A reset of the device ends the logging of DMA.",
}
"""Every fault, and what a device or server with it does."""
