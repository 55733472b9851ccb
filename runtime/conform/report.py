"""What came of holding a server against the tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from vfio_migration.model.conformance.grades import Grade
from vfio_migration.model.suite import Input

MAX_DEVIATIONS: Final = 200
"""How many different deviations are kept; the rest is counted."""
MAX_SHOWN_BYTES: Final = 256
"""How much of a message is kept."""


@dataclass(slots=True)
class Deviation:
    """Something that the server does otherwise.

    Attributes:
        grade: "violation": a document that binds it states otherwise, `source`; "suspicious": it is
            allowed, and the sign of a known defect; "house rule": only our own server keeps to it.
        check: Which check or case found it.
        step: What was asked, in words.
        reason: What is wrong with the answer.
        source: Where the text has it, or "".
        text: What the text states, in short, or "".
        request: The bytes of the request, as far as they are kept.
        reply: The bytes of the reply, as far as they are kept.
        sequence: The shortest inputs found that show it, from a device that was just reset.
        times: How often it was found.
    """

    grade: Grade
    check: str
    step: str
    reason: str
    source: str = ""
    text: str = ""
    request: bytes = b""
    reply: bytes = b""
    sequence: tuple[Input, ...] = ()
    times: int = 1


@dataclass
class Report:
    """All that was done and found.

    Attributes:
        path: The socket of the server.
        capabilities: What the device offers, by name; empty if it does not migrate.
        hidden_states: The bound of the suite.
        sequences: How many sequences the device was led through.
        inputs: How many inputs they have.
        messages: How many messages passed.
        cases: How many cases about messages were tried.
        starts: How often the server was started.
        ends_with_client: It ends when its client leaves, so it was started for each connection.
        seconds: How long it took.
        died: How the server ended, if that ended the test; "" if it did not.
        left_out: What could not be tested, and why.
        deviations: What was found.
        more: How many deviations of each grade were found besides.
    """

    path: str
    capabilities: tuple[str, ...] = ()
    hidden_states: int = 1
    sequences: int = 0
    inputs: int = 0
    messages: int = 0
    cases: int = 0
    starts: int = 0
    ends_with_client: bool = False
    seconds: float = 0.0
    died: str = ""
    left_out: list[str] = field(default_factory=list)
    deviations: list[Deviation] = field(default_factory=list)
    more: Counter[str] = field(default_factory=Counter)

    def add(self, found: Deviation) -> Deviation:
        """Keep a deviation, once for what is the same; return the one that is kept."""
        for one in self.deviations:
            if (one.grade, one.check, one.step, one.reason) == (
                found.grade, found.check, found.step, found.reason,
            ):  # fmt: skip
                one.times += 1
                return one
        if len(self.deviations) >= MAX_DEVIATIONS:
            self.more[found.grade] += 1
            return found
        found.request = found.request[:MAX_SHOWN_BYTES]
        found.reply = found.reply[:MAX_SHOWN_BYTES]
        self.deviations.append(found)
        return found

    @property
    def conforms(self) -> bool:
        """Whether no document that binds the server was broken, and it is still there."""
        broken = any(one.grade == "violation" for one in self.deviations)
        return not broken and not self.more["violation"] and not self.died
