"""Runs written by hand: what a client asked of a device, and what it was answered."""

from __future__ import annotations

from typing import Any

from vfio_migration.model import Spec, load
from vfio_migration.model.conformance.findings import Examination, Finding
from vfio_migration.model.conformance.grades import VFIO_USER
from vfio_migration.model.conformance.observation import Observation
from vfio_migration.model.conformance.observed import Conformance, Violation

Line = dict[str, Any]
Found = tuple[int, Violation] | None
SPEC = load()


def first_wrong(lines: list[Line], spec: Spec = SPEC, **options: Any) -> Found:
    conformance = Conformance(spec, **options)
    for index, line in enumerate(lines):
        violation = conformance.observe(Observation.of(line, spec))
        if violation is not None:
            return index, violation
    return None


def found_in(lines: list[Line], spec: Spec = SPEC, **options: Any) -> list[tuple[int, Finding]]:
    """Return everything that is found in a run, each with the index of its line."""
    examination = Examination(spec, **options)
    return [
        (index, finding)
        for index, line in enumerate(lines)
        for finding in examination.observe(Observation.of(line, spec))
    ]


def grades(lines: list[Line], **options: Any) -> list[tuple[str, str]]:
    """Return the grade and the check of everything that is found in a run."""
    return [(one.grade, one.check) for _, one in found_in(lines, **options)]


_shared = Conformance(SPEC)
_bound = Conformance(SPEC, kind=VFIO_USER)


def place(lines: list[Line], conformance: Conformance = _shared) -> int | None:
    """Return where a run is wrong first; for many runs, as the table is worked out only once."""
    conformance._devices.clear()
    for index, line in enumerate(lines):
        if conformance.observe(Observation.of(line, SPEC)) is not None:
            return index
    return None


def place_of_violation(lines: list[Line]) -> int | None:
    """Return where a run first does what the specification does not allow a server of anybody's."""
    return place(lines, _bound)


class Script:
    """Writes lines as a recording has them."""

    def __init__(self, device: str = "src", *, connected: bool = True) -> None:
        self.device, self.lines, self.next = device, [], 0
        if connected:
            self.add("connected")

    def add(self, what: str, **about: Any) -> Script:
        self.lines.append({"device": self.device, "what": what} | about)
        return self

    def do(self, command: str, asked: Line, answer: Line | str) -> Script:
        about = {"id": self.next, "command": command}
        self.next += 1
        self.add("command", **about, **asked)
        recorded = {"errno": answer} if isinstance(answer, str) else answer
        return self.add("reply", **about, **recorded)

    def feature(self, name: str, method: str, answer: Line | str, **asked: Any) -> Script:
        which = {"feature": name, "method": method}
        recorded = answer if isinstance(answer, str) else which | answer
        return self.do("DEVICE_FEATURE", which | {"argsz": 16} | asked, recorded)

    def set(self, state: str | int, errno: str | None = None) -> Script:
        return self.feature("MIG_DEVICE_STATE", "SET", errno or {}, state=state)

    def get(self, state: str | int) -> Script:
        return self.feature("MIG_DEVICE_STATE", "GET", {"size": 8, "state": state})

    def flags(self, flags: list[str] | int) -> Script:
        return self.feature("MIGRATION", "GET", {"size": 8, "flags": flags})

    def read(self, asked: int, got: int | str) -> Script:
        recorded = got if isinstance(got, str) else {"size": got}
        return self.do("MIG_DATA_READ", {"size": asked}, recorded)

    def write(self, size: int, errno: str | None = None) -> Script:
        return self.do("MIG_DATA_WRITE", {"size": size}, errno or {})

    def reset(self, errno: str | None = None) -> Script:
        return self.do("DEVICE_RESET", {}, errno or {})

    def holds(self, **options: Any) -> None:
        found = first_wrong(self.lines, **options)
        assert found is None, found

    def breaks(self, **options: Any) -> Violation:
        """The last line is the first that is wrong."""
        found = first_wrong(self.lines, **options)
        assert found is not None, "every step is allowed"
        assert found[0] == len(self.lines) - 1, found
        return found[1]
