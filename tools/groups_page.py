"""What of docs/groups.md is written by a program.

    python tools/groups_page.py            the plans and the obligations, from their tables
    python tools/groups_page.py --measure  the figures too, with spin; takes some minutes

A test holds the first to their tables. The figures are of the machine they name, and stay as they
are until somebody measures again.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfio_migration.model.plan import MigrationStep, Move

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/groups.md"
SIZES = range(2, 9)
ROUNDS = 5


def sections() -> dict[str, str]:
    """The generated parts by name."""
    return {
        "plans": "\n".join(_plans()),
        "migrations": "\n".join(_migrations()),
        "handovers": "\n".join(_handovers()),
        "obligations": "\n".join(_proved_obligations()),
    }


def put(page: str, parts: dict[str, str]) -> str:
    """Return the page with these parts put in."""
    for name, text in parts.items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        place = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if not place.search(page):
            raise LookupError(f"{PAGE.name} has no place for {name}")
        before, after = place.split(page)
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def _plans() -> Iterator[str]:
    from vfio_migration.model import load
    from vfio_migration.model.plan import default_plans

    for plan in default_plans(load()).plans:
        verdict = "sound" if plan.sound else "unsound"
        begins = "; ".join(_begins(move) for move in plan.before)
        begins = (
            begins or "wherever " + " or ".join(f"`{name}`" for name in plan.after) + " was left"
        )
        limits = "".join(
            f", with at most {limit.count} device without {limit.lacks}"
            + (f" unless `{limit.unless}` is asserted" if limit.unless else "")
            for limit in plan.limits
        )
        yield f"\n**`{plan.name}`** ({verdict}). {plan.summary} Begins: {begins}{limits}.\n"
        yield "| Phase | Who moves, and where to | Why |"
        yield "|---|---|---|"
        for phase in plan.phases:
            moves = "; ".join(_move(move) for move in phase.moves)
            yield f"| `{phase.name}` | {moves} | {phase.summary} |"
    yield ""


def _begins(move: Move) -> str:
    return f"{_who(move)} in {move.to}"


def _move(move: Move) -> str:
    return f"{_who(move)}: " + (f"SET_STATE {move.to}" if move.to else str(move.event))


def _who(move: Move) -> str:
    words = [
        f"{word} {' and '.join(names)}"
        for word, names in (("with", move.needs), ("without", move.lacks))
        if names
    ]
    if move.may is not None:
        words.append(f"that may `{move.may}`")
    if move.failed:
        words.append("that failed")
    return " ".join(["each device" if not words else "devices", *words])


def _migrations() -> Iterator[str]:
    from vfio_migration.model import load
    from vfio_migration.model.plan import default_plans

    for row in default_plans(load()).migrations:
        yield f"\n**`{row.name}`**. {row.summary}\n"
        yield "| Step | The journal records |"
        yield "|---|---|"
        for step in row.steps:
            yield f"| {_step(step)} | {step.holder or ''} |"
    yield ""


def _handovers() -> Iterator[str]:
    from vfio_migration.model import load
    from vfio_migration.model.plan import default_plans

    yield ""
    yield "| | Who is to run | If the journal records | Steps | Why |"
    yield "|---|---|---|---|---|"
    plans = default_plans(load())
    for index, row in enumerate(plans.handovers):
        winner = f"{row.winner}{', though devices of it failed' if row.failed else ''}"
        holders = " or ".join(row.holders)
        yield f"| {index} | {winner} | {holders} | {_steps(row.steps)} | {row.summary} |"
    if (loss := plans.loss) is not None:
        yield f"| else | {loss.winner} | whatever | {_steps(loss.steps)} | {loss.summary} |"
    yield ""


def _steps(steps: Iterable[MigrationStep]) -> str:
    return "; ".join(
        (f"write down {step.holder}, " if step.holder else "") + _step(step) for step in steps
    )


def _step(step: MigrationStep) -> str:
    if step.transfer is not None:
        return f"transfer: {step.transfer}"
    phases = f" ({', '.join(step.phases)})" if step.phases else ""
    return f"{step.side}: `{step.plan}`{phases}"


def _proved_obligations() -> Iterator[str]:
    from vfio_migration.verifier import OBLIGATIONS

    yield ""
    yield "| | Obligation | Ranges over | Method |"
    yield "|---|---|---|---|"
    for row in OBLIGATIONS:
        if row.id.startswith("G"):
            yield f"| {row.id} | {row.statement} | {row.ranges_over} | {row.method} |"
    yield ""


# --- figures ---


def measured() -> str:
    """Measure, and return the table."""
    return "\n".join(_figures())


def _figures() -> Iterator[str]:
    import spin

    if (lacking := spin.missing()) is not None:
        raise SystemExit(lacking)
    yield ""
    yield f"Measured on {_machine()}."
    yield (
        f"Spin may take {spin.SECONDS} s and {spin.MEGABYTES} MB. Its seconds are those of `pan` "
        "alone; writing and compiling it takes 1 to 3 s more for each size."
    )
    yield ""
    yield (
        "| Devices | `save`: states | spin | spin -DCOLLAPSE | `recover`, arcs failing: states "
        "| spin | spin -DCOLLAPSE |"
    )
    yield "|---|---|---|---|---|---|---|"
    for size in SIZES:
        print(f"{size} devices", flush=True)
        rows = _row("save", size, failing=False), _row("recover", size, failing=True)
        yield f"| {size} | {' | '.join(rows)} |"
    yield ""
    first, fourth = _proof("G1"), _proof("G4")
    yield (
        f"The proof for groups of any size: G1 (`save` and `resume`) {first}; G4 (all sound plans, "
        f"arcs failing) {fourth}. Median of {ROUNDS} runs, each with a fresh encoding."
    )
    yield ""


def _row(name: str, size: int, *, failing: bool) -> str:
    import spin

    from vfio_migration.model import load
    from vfio_migration.model.plan import default_plans
    from vfio_migration.verifier import Encoding
    from vfio_migration.verifier.report.promela import promela
    from vfio_migration.verifier.systems.plan import Discipline

    plan = default_plans(load()).plan(name)
    model = promela(Discipline(Encoding(load()).widest(), plan, failing=failing), size)
    states, cells = "?", []
    for options in ((), (spin.COLLAPSE,)):
        with tempfile.TemporaryDirectory() as folder:
            found = spin.check(model, Path(folder), *options)
        if found.gave_up is not None:
            cells.append(f"gave up {found.gave_up}")
            continue
        assert found.errors == 0
        states = f"{found.states:,}"
        cells.append(f"{found.running:.2f} s")
    return " | ".join([states, *cells])


def _proof(id_: str) -> str:
    from vfio_migration.model import load
    from vfio_migration.verifier import OBLIGATIONS, Encoding, decide

    obligation = next(o for o in OBLIGATIONS if o.id == id_)
    times = []
    for _ in range(ROUNDS):
        encoding = Encoding(load())
        begun = time.perf_counter()
        assert decide(obligation, encoding).outcome == "proved"
        times.append(time.perf_counter() - begun)
    return f"{statistics.median(times):.2f} s"


def _machine() -> str:
    model = "an unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*: (.*)$", info.read_text("utf-8"), re.MULTILINE)
        model = found[1].strip() if found else model
    import subprocess

    spin = subprocess.run(["spin", "-V"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"Version (\S+)", spin)
    return (
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"z3 {version('z3-solver')}, spin {number[1] if number else '?'}"
    )


def main() -> None:
    """Write the parts into the page."""
    parts = sections()
    if "--measure" in sys.argv[1:]:
        parts["figures"] = measured()
    PAGE.write_text(put(PAGE.read_text("utf-8"), parts), "utf-8")


if __name__ == "__main__":
    main()
