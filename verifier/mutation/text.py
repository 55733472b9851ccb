"""What became of the mutants of a table, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vfio_migration.verifier.mutation.mutate import OUTCOMES, Fate, Survey

FAILURES: Final = {
    "survived": "survived: no obligation speaks of these edits",
    "broken": "broken: the verifier failed on these, which is a fault of ours",
    "unknown": "unknown: a solver gave up on these",
}
_LISTED: Final = {
    "argued": "argued: no obligation is to speak of these edits",
    **FAILURES,
}


def to_data(survey: Survey) -> dict[str, Any]:
    """Return a survey as one plain object, the shape of `mutate --json`."""
    return {
        "mutants": len(survey.fates),
        "killed": len(survey.of("killed")),
        "equivalent": len(survey.of("equivalent")),
        "argued": [_fate_data(fate) for fate in survey.of("argued")],
        "survivors": [_fate_data(fate) for fate in survey.of("survived")],
        "kills": survey.kills,
        "unknown": [_fate_data(fate) for fate in survey.of("unknown")],
        "broken": [_fate_data(fate) for fate in survey.of("broken")],
        "equivalents": [_fate_data(fate) for fate in survey.of("equivalent")],
        "kinds": survey.by_kind(),
        "violations": survey.violations if survey.full else None,
        "spec": survey.name,
        "seconds": round(survey.seconds, 6),
    }


def _fate_data(fate: Fate) -> dict[str, Any]:
    data = {"id": fate.id, "kind": fate.kind, "sentence": fate.sentence}
    return data if fate.reason is None else data | {"reason": fate.reason}


def survey_lines(survey: Survey) -> Iterator[str]:
    """Yield a survey as text: kinds by outcomes, kills by obligation, and what was not caught."""
    shown = [o for o in OUTCOMES if o in ("killed", "equivalent", "survived") or survey.of(o)]
    widths = [max(9, len(outcome)) for outcome in shown]
    yield f"{'':18}mutants" + "".join(
        f"  {outcome:>{width}}" for outcome, width in zip(shown, widths, strict=True)
    )
    for kind, counts in survey.by_kind().items():
        cells = [
            f"  {counts[outcome] or '.':>{width}}"
            for outcome, width in zip(shown, widths, strict=True)
        ]
        yield f"{kind:18}{sum(counts.values()):7}{''.join(cells)}"
    yield ""
    killers = [f"{name} {count}" for name, count in survey.kills.items() if count]
    yield f"killed first by: {', '.join(killers) or 'none'}"
    if survey.full:
        found = [f"{name} {count}" for name, count in survey.violations.items()]
        yield f"violated by: {', '.join(found)}"
    for outcome in OUTCOMES:
        fates = survey.of(outcome)
        if outcome in _LISTED and fates:
            yield ""
            yield f"{_LISTED[outcome]}:"
            yield from (
                f"  {fate.sentence}" + (f" ({fate.reason})" if fate.reason else "")
                for fate in fates
            )
    yield ""
    counted = ", ".join(f"{len(survey.of(o))} {o}" for o in shown)
    yield f"{len(survey.fates)} mutants: {counted} in {survey.seconds:.1f} s"
