"""W9 and W10: what ought to be served is served, and what logging does.

The other obligations of the family forbid. A server that refuses everything keeps to them; these
two ask for what the specification offers. What that is, is listed beside the tables, by the numbers
on the wire: a row of a table that vanished, or that has another number, is missed.
"""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Any

import z3

from vfio_migration.verifier.solver.encoding import Formula
from vfio_migration.verifier.solver.system import Bad, Situation, Term
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.connection import ConnectionSystem
from vfio_migration.verifier.systems.connection_answers import Message


@functools.cache
def wire_listing() -> dict[str, Any]:
    """Return what specifications state about the connection."""
    text = (resources.files("vfio_migration.verifier") / "wire_listing.toml").read_text("utf-8")
    return tomllib.loads(text)


def message_of(system: ConnectionSystem, event: Term) -> Message:
    """Return the message that belongs to an event."""
    return system.answers.message(str(event).partition("@")[2])


def ought_to_be_served(system: ConnectionSystem) -> tuple[Bad, Bad]:
    """W9: a message that keeps to the text, at a time when it is for, is not refused."""
    # What is no more than proposed a table need not have.
    rows = [
        row
        for row in wire_listing()["served"]
        if not row.get("proposed") or row["option"] in system.options
    ]

    def refused(now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        wanted = any_of([_as_listed(system, now, message, row) for row in rows])
        return z3.And(system.is_event(event, "refused", "ignored"), wanted)

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        later = [_as_listed(system, now, message, row) for row in rows if not row.get("first")]
        return z3.And(system.is_event(event, "served"), any_of(later))

    return refused, premise


def _as_listed(
    system: ConnectionSystem, now: Situation, message: Message, row: dict[str, Any]
) -> Formula:
    """The message is one that a row speaks of, and it is the time for it."""
    payload = message.size - system.wire.header_size
    asked = row.get("feature")
    conditions = [
        system.answers.is_type(message, "command"),
        message.number == row["number"],
        now["agreed"] != z3.BoolVal(bool(row.get("first"))),
        payload <= row["request"] + row.get("data", 0),
        payload >= row["request"] + (row.get("data", 0) if asked is not None else 0),
        message.fds <= row.get("fds", 0),
        message.added <= 1,
        message.count <= row.get("reply_data", 0),
        z3.Not(message.incompatible),
        z3.Not(message.odd),
        z3.Not(message.invalid),
        *(now[f"keeps_{name}"] == 0 for name in row.get("keeps", ()) if f"keeps_{name}" in now),
    ]
    if row.get("option") is not None and f"has_{row['option']}" in now:
        conditions.append(now[f"has_{row['option']}"])
    # A client that agreed to it is answered that there is nothing now: W5.
    conditions += [
        z3.Not(z3.And(now[f"has_{option}"], message.drained))
        for option in row.get("unless_drained", ())
        if f"has_{option}" in now
    ]
    if row.get("states") is not None:
        names = [name for name in row["states"] if name in system.encoding.names]
        conditions.append(system.encoding.one_of(now["state"], names))
    if asked is not None:
        conditions += [
            message.feature == asked,
            message.get == z3.BoolVal(row["method"] == "get"),
            message.set == z3.BoolVal(row["method"] == "set"),
            z3.Not(message.probe),
        ]
    if row.get("logged") is not None:
        conditions.append(now["logging"] == z3.BoolVal(row["logged"]))
    return z3.And(conditions)


def logging_kept(system: ConnectionSystem) -> tuple[Bad, Bad]:
    """W10: START begins to log, STOP and the end of the connection end it, and nothing else."""
    listed = wire_listing()["logging"]

    def about(message: Message, name: str, method: Formula) -> Formula:
        carries = message.number == listed["carrier"]
        return z3.And(carries, message.feature == listed[name], method, z3.Not(message.probe))

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        message = message_of(system, event)
        start, stop = (about(message, name, message.set) for name in ("start", "stop"))
        report = about(message, "report", message.get)
        served = system.is_event(event, "served")
        changes = then["logging"] != now["logging"]
        begins_or_ends = z3.And(served, z3.Or(start, stop))
        return z3.Or(
            z3.And(served, start, z3.Or(now["logging"], z3.Not(then["logging"]))),
            z3.And(served, stop, then["logging"]),
            z3.And(served, report, z3.Not(now["logging"])),
            z3.And(changes, z3.Not(begins_or_ends), z3.Not(system.is_event(event, "disconnect"))),
            z3.And(system.is_event(event, "disconnect"), then["logging"]),
        )

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        served = system.is_event(event, "served")
        return z3.And(served, now["logging"], about(message, "report", message.get))

    return bad, premise


__all__ = ["logging_kept", "message_of", "ought_to_be_served", "wire_listing"]
