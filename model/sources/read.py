"""Sources in, a table out: which file is what, and where each fact came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.load import from_data
from vfio_migration.model.sources import libvfio_user, linux, vfio_user
from vfio_migration.model.sources.c_source import CFile
from vfio_migration.model.sources.derive import changed_cells, derive, failed_state, to_toml
from vfio_migration.model.sources.facts import Finding, Header, NextSteps
from vfio_migration.model.sources.files import is_source, texts
from vfio_migration.model.sources.prose import findings
from vfio_migration.model.spec import Spec


@dataclass(frozen=True)
class Reading:
    """What sources say.

    Attributes:
        data: The data of a table that does the same.
        spec: The table.
        findings: Sentences of the sources that contradict their table.
        changed: The cells that are not as the base table has them, each with its line.
    """

    data: dict[str, Any]
    spec: Spec
    findings: tuple[Finding, ...]
    changed: tuple[Mistake, ...]


def read(paths: Iterable[str], base: Spec) -> Reading:
    """Read sources as a table.

    Args:
        paths: Files, folders with the tree of Linux, libvfio-user or QEMU, or commits: git:REV.
        base: The table that everything is from that is not in the sources.

    Raises:
        SpecError: A source cannot be read, or contradicts itself; with file and line.
        ImportError: The extra `import` is not installed.
    """
    steps: NextSteps | None = None
    numbers: Header | None = None
    named: list[str] = []
    for name, text in texts(paths):
        found, header = _read(name, text, base)
        if found is not None and steps is not None:
            problem = "holds a next-step table, and so does another source"
            raise SpecError([Mistake(name, None, problem, "give one")])
        steps, numbers = found or steps, header or numbers
        named.append(name)
    if steps is None:
        problem = "hold no next-step table, from which the arcs follow"
        raise SpecError([Mistake("SOURCE", None, problem, "give vfio_main.c or migration.c too")])
    data = derive(steps, numbers, base, f"from-{Path(named[0]).stem}")
    spec = from_data(data, named[0])
    prose = (steps.prose, numbers.prose if numbers else None)
    found_ = tuple(one for text in prose if text for one in findings(text, spec, steps))
    return Reading(data, spec, found_, changed_cells(steps, base))


def _read(name: str, text: bytes, base: Spec) -> tuple[NextSteps | None, Header | None]:
    """Read one file: its next steps, its numbers."""
    if name.endswith(".rst"):
        return vfio_user.read(name, text, base)
    file = CFile(name, text)
    failed = failed_state(base)
    if file.has_array(linux.TABLE):
        return linux.next_steps(file, failed), None
    if file.has_array(libvfio_user.TABLE):
        return libvfio_user.next_steps(file, failed), None
    for table in (linux.TABLE, libvfio_user.ARCS, libvfio_user.TABLE):
        file.refuse_cut(table)
    if linux.ENUM.encode() in file.text:
        return None, linux.header(file)
    problem = f"holds no table {linux.TABLE} or {libvfio_user.TABLE}, and no {linux.ENUM}"
    raise SpecError([Mistake(name, None, problem, "if it was renamed, name it so")])


def table_text(reading: Reading, base: Spec) -> str:
    """Return the text of a table, with a head that states what is from where."""
    found = "".join(f"#\n# A sentence contradicts the table: {one}\n" for one in reading.findings)
    return f"""\
# Made by `vfio-migration import`. States, arcs, refusals, next steps and capabilities are from the
# source that each row names, with its line. From the base table {base.name}: what is in no
# source, which is the place of a state on the grid, the summaries, the errnos, and all other
# sections.
{found}
{to_toml(reading.data)}"""


__all__ = ["Reading", "is_source", "read", "table_text"]
