"""What `verify` and `diff` have in common: letters of verdicts, SARIF of sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfio_migration.model import Spec
    from vfio_migration.model.sources.read import Reading
    from vfio_migration.verifier import Obligation, Report
    from vfio_migration.verifier.report.junit_sarif import Context
    from vfio_migration.verifier.report.letter import Letter


def letter_of(
    name: str,
    report: Report,
    obligations: Sequence[Obligation],
    *,
    against: tuple[str, Report] | None = None,
    reading: Reading | None = None,
    command: str = "",
) -> Letter:
    """Make the letter of a report.

    Args:
        name: What the table is called.
        report: Its verdicts.
        obligations: The obligations that were decided.
        against: What the table it is compared with is called, with its verdicts.
        reading: What its source reports, if it is made of one.
        command: The command that states this.
    """
    from vfio_migration.diagrams.mail import mail_picture
    from vfio_migration.model import load
    from vfio_migration.verifier.report.letter import WIDTH, Letter

    base: Spec | None = None
    if against is not None:
        base = against[1].spec
    elif reading is not None:
        base = load()
    return Letter(
        name=name,
        report=report,
        obligations=obligations,
        against=against,
        changed=[f"{one.place}: {one.value} {one.problem}" for one in reading.changed]
        if reading is not None
        else [],
        findings=[str(one) for one in reading.findings] if reading is not None else [],
        command=command,
        picture=mail_picture(report.spec, base, WIDTH),
        of_source=reading is not None,
    )


def context_of(
    obligations: Sequence[Obligation], origin: str | None, reading: Reading | None
) -> Context:
    """Return where the rows of a table can be read: in its file, or in the source it is made of."""
    from importlib import resources
    from importlib.metadata import version

    from vfio_migration.model.history import named
    from vfio_migration.verifier.report.junit_sarif import Context

    packaged = Path(str(resources.files("vfio_migration.model") / "vfio_v2.toml"))
    is_file = origin is not None and reading is None and named(origin) is None
    return Context(
        obligations=obligations,
        origin=origin,
        file=Path(origin) if is_file and origin is not None else packaged,
        version=version("vfio-migration"),
        saved={},
        source=None if reading is None else tuple(one.place for one in reading.changed),
    )


def sarif_of(letter: Letter, origin: str | None, reading: Reading | None) -> str:
    """Return SARIF of what a letter says."""
    from vfio_migration.verifier.report.junit_sarif import sarif

    context = context_of(letter.obligations, origin, reading)
    shown = {verdict.id for verdict in letter.violated} if letter.against else None
    return sarif(letter.report, context, shown)
