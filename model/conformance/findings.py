"""Everything that is found in a recording, each with its grade.

A recording is followed twice: by what binds the kind of device it shows, which finds violations,
and by all that our own server keeps to, which finds the rest: what the specification allows and is
the sign of a known defect, and what is a rule of the house.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from vfio_migration.model.conformance.followed import Violation
from vfio_migration.model.conformance.grades import HOUSE, VFIO_USER, Grade, load_grades
from vfio_migration.model.conformance.observation import Observation
from vfio_migration.model.conformance.observed import Conformance
from vfio_migration.model.spec import CapabilitySet, Spec
from vfio_migration.model.wire import Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that was found.

    Attributes:
        grade: How bad it is.
        check: Which check found it; "" for a step of an engine of ours.
        device: Which device.
        step: What happened, in words.
        reason: Why that is remarkable.
        situations: Where the device could be, as far as was known.
        allowed: What would have been right instead.
        row: The row of a table, or "".
        source: Where the text has it, or "".
        text: What the text of the specification has of it, in short, or "".
        sign_of: What it is the sign of, or "".
    """

    grade: Grade
    check: str
    device: str
    step: str
    reason: str
    situations: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    row: str = ""
    source: str = ""
    text: str = ""
    sign_of: str = ""


class Examination:
    """Holds observations, one by one, against everything.

    Args:
        spec: The migration table.
        wire: The table of the connection; that of the package if none is given.
        capabilities: What the devices offer, if that is known; else it is found out.
        kind: What kind of devices they are.
        house: Hold them to what our own server keeps to, too.
    """

    def __init__(
        self,
        spec: Spec,
        wire: Wire | None = None,
        *,
        capabilities: CapabilitySet | None = None,
        kind: str = VFIO_USER,
        house: bool = True,
    ) -> None:
        self._bound = Conformance(spec, wire, capabilities=capabilities, kind=kind)
        self._house = self._bound
        if house:
            self._house = Conformance(spec, wire, capabilities=capabilities, kind=HOUSE)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that were seen, in the order in which they were."""
        return self._bound.devices

    @property
    def held(self) -> Counter[str]:
        """How many answers of which kind were held against the tables."""
        compared = self._bound.stream_comparison.compared
        return self._house.held + Counter({"streams compared": compared} if compared else {})

    @property
    def unrestricted(self) -> Counter[str]:
        """How many of which kind were not."""
        notes = Counter({"notes": self._bound.notes} if self._bound.notes else {})
        return self._house.unrestricted + notes + self._bound.stream_comparison.skipped

    def observe(self, seen: Observation) -> list[Finding]:
        """Take an observation in; return what was found, the worst first."""
        found: list[Finding] = []
        violation, strict = self._bound.observe(seen), None
        if self._house is not self._bound:
            strict = self._house.observe(seen)
        if violation is not None:
            found.append(graded(violation, "violation"))
        found += [graded(remark) for remark in self._bound.remarks]
        if strict is not None and violation is None:
            # What only our own server is held to is no violation, whatever follows from it.
            grade = load_grades().grade(strict.check, strict.source)
            found.append(graded(strict, "house rule" if grade == "violation" else grade))
        return sorted(found, key=lambda one: one.grade != "violation")


_SOURCES: dict[Grade, Callable[[str, str], str]] = {
    "violation": lambda source, _row: source,
    "suspicious": lambda _source, _row: "",  # no document forbids it
    "house rule": lambda source, row: row or source,
}


def graded(found: Violation, grade: Grade | None = None) -> Finding:
    """Return what was found with its grade, and with what the specification states of it."""
    grades = load_grades()
    if not found.check:
        return Finding(
            grade=grade or "violation",
            check="",
            device=found.device,
            step=found.step,
            reason=found.reason,
            situations=found.situations,
            allowed=found.allowed,
            row=found.row,
            source=found.source,
        )
    check = grades.check(found.check)
    decided = grades.grade(found.check, found.source) if grade is None else grade
    source = grades.source(found.check, found.source)
    return Finding(
        grade=decided,
        check=found.check,
        device=found.device,
        step=found.step,
        reason=found.reason,
        situations=found.situations,
        allowed=found.allowed,
        row=found.row,
        source=_SOURCES[decided](source, found.source),
        text=check.text,
        sign_of=check.sign_of if decided == "suspicious" else "",
    )
