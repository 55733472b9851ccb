"""The words of a complaint about a device: which obligation, and who raised what where."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Final

from vfio_migration.runtime.engine.errors import ArcError, RequestFailedError, words
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.kit.definition import CALLBACKS
from vfio_migration.runtime.kit.errors import CommandError

OBLIGATIONS: Final = {
    "D1": "A data session is open exactly in the states that stream",
    "D2": "There are never two data sessions, and each new one is distinct from all before",
    "D3": "A stopped device starts no DMA and raises no interrupt: where it may not change its own "
    "state, where the end of its stream is final and where a stream is judged on leaving",
    "D4": "No peer-to-peer DMA starts while the device is quiesced or, in the same sense, stopped",
    "D5": (
        "The device's own state does not change while it is stopped, so what STOP_COPY streams "
        "is a snapshot"
    ),
    "D6": (
        "The failed state is entered only by a failure, of an arc, a reset or a disconnect, "
        "and left only by a reset"
    ),
    "D7": "After a failed request the device is on the request's path or in the failed state",
    "D8": "A refused request changes nothing at all",
    "D9": "From every state there is a way back to the initial one, with at most one reset",
    "D10": "No arc both closes a session and opens another",
    "D11": "A failed arc leaves state and session as they were, or ends in the failed state",
    "D12": "A second life cycle on the same device behaves as the first",
    "S1": (
        "At the final end of the stream the destination holds the source's whole state: no "
        "update made during pre-copy is lost"
    ),
    "S2": (
        "One session is one stream: the destination receives its bytes in order, however "
        "reads and writes cut it up, and whichever replies are not sent"
    ),
    "S3": (
        "Temporary and final end of stream are distinguished: after a final one nothing comes, "
        "and initial_bytes only falls, except when the device announces new initial data to "
        "a client that asked to be notified"
    ),
    "S4": "An incomplete or damaged stream never leads to a running device",
    "S5": (
        "A cancelled migration leaves the source running, unharmed: from every saving state "
        "a request leads back to running, no state is loaded on the way, and only the device "
        "itself ever changes its state"
    ),
    "S6": (
        "DMA logging never under-reports: a byte written since a report of it was last "
        "received is reported, whatever the page sizes of tracking and reporting and the range "
        "asked for, and whichever reports are not sent"
    ),
}
"""The obligations a device can break, as in docs/obligations.md."""

_PROTOCOL: Final = (
    *("take", "reset", "disconnect", "stream_read", "stream_write", "precopy_info"),
    *("stop_copy_length", "deadline", "tick", "close"),
)
"""What the tests themselves call of a device that is not made with the kit."""
_DEEP: Final = 8


def in_words(obligation: str) -> str:
    """Return what an obligation states, in brackets, if it is one of the obligations."""
    return f" ({OBLIGATIONS[obligation]})" if obligation in OBLIGATIONS else ""


def described(error: BaseException | None) -> str:
    """Return what an exception says, and what kind it is where its words alone would not do."""
    if error is None:
        return "no reason is given"
    if isinstance(error, ArcError | CommandError):
        return words(error)
    kind = type(error).__name__
    text = words(error)
    return kind if text == kind else f"{kind}: {text}"


def hook(error: BaseException | None) -> str | None:
    """Return which callback of a device raised an exception, or None if none did."""
    found = None
    for one in _chain(error):
        for frame, _line in traceback.walk_tb(one.__traceback__):
            name, owner = frame.f_code.co_name, frame.f_locals.get("self")
            if not hasattr(type(owner), "stream_read") or not hasattr(type(owner), name):
                continue
            if name in CALLBACKS or (name in _PROTOCOL and found not in CALLBACKS):
                found = name
    return found


def in_hook(error: BaseException | None) -> str:
    """Return " in `stop`", for instance, or nothing if no callback raised it."""
    name = hook(error)
    return "" if name is None else f" in `{name}`"


def fails(failure: RequestFailedError) -> str:
    """Return which arc failed, in which callback, and why."""
    return f"{failure.arc} fails{in_hook(failure)}: {described(failure.__cause__)}"


def where_in_words(situation: Situation) -> str:
    """Return the state and the data session of a device, in words."""
    if situation.session is None:
        return f"{situation.state}, without a data session"
    return f"{situation.state}, in data session {situation.session}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    for _ in range(_DEEP):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
