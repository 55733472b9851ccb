"""Three claims about one device: one that is proved, one that is violated, one left unknown.

Run them with `vfio-migration verify --only C --claims docs/examples/claims.py`.
"""

from __future__ import annotations

import z3

from vfio_migration.verifier import DeviceSystem, Formula, Situation, Term, never


def loses_the_session(
    device: DeviceSystem, now: Situation, event: Term, then: Situation
) -> Formula:
    """A client goes away, and the session that was open is open no more."""
    gone = device.is_event(event, "disconnect")
    return z3.And(gone, then["session"] != now["session"])


def leaves_with_a_session(
    device: DeviceSystem, now: Situation, event: Term, _then: Situation
) -> Formula:
    """A client goes away while a session is open."""
    return z3.And(device.is_event(event, "disconnect"), now["session"] != 0)


def stands_between(device: DeviceSystem, now: Situation, event: Term, then: Situation) -> Formula:
    """A request has failed, and the device is neither where it was nor where it was to go."""
    failed = device.is_event(event, "arc_failed")
    return z3.And(failed, then["state"] != now["origin"], then["state"] != now["target"])


def fails(device: DeviceSystem, _now: Situation, event: Term, _then: Situation) -> Formula:
    """An arc fails, and the device is back where that arc began."""
    return device.is_event(event, "arc_failed")


def streams_without_a_session(
    device: DeviceSystem, _now: Situation, _event: Term, then: Situation
) -> Formula:
    """The device is in a state that streams, and no session is open."""
    return z3.And(device.streams(then["state"]), then["session"] == 0)


def streams(device: DeviceSystem, _now: Situation, _event: Term, then: Situation) -> Formula:
    """The device is in a state that streams."""
    return device.streams(then["state"])


claims = (
    never(
        "C1",
        "A client that goes away and comes back finds its data session open.",
        bad=loses_the_session,
        premise=leaves_with_a_session,
        why="A management daemon that restarts can go on with the migration.",
    ),
    never(
        "C2",
        "After a failed request the device is where it was, or where it was to go.",
        bad=stands_between,
        premise=fails,
        why="A client that does not read the state back would be right all the same.",
    ),
    never(
        "C3",
        "In a state that streams a session is open.",
        bad=streams_without_a_session,
        premise=streams,
        # Proved with the lemmas never() takes by default; left out here to show what happens.
        lemmas=(),
    ),
)
