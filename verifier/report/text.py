"""Verdicts for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vfio_migration.model import Spec, Trace
from vfio_migration.model.advice import command, operand
from vfio_migration.verifier.prove import Report, Variant
from vfio_migration.verifier.report import blamed_rows as rows
from vfio_migration.verifier.report.replay import second_opinion
from vfio_migration.verifier.solver.obligation import Obligation, Verdict


def to_data(report: Report) -> dict[str, Any]:
    """Return the report as one plain object, the shape of `verify --json`.

    `verify.schema.json` describes it.
    """
    return {
        "outcome": report.outcome,
        "spec": report.spec.name,
        "profile": report.profile,
        "solver": report.solver,
        "seconds": round(report.seconds, 6),
        "verdicts": [_verdict_data(report.spec, verdict) for verdict in report.verdicts],
        "variants": [_variant_data(report.spec, variant) for variant in report.variants],
    }


def _verdict_data(spec: Spec, verdict: Verdict) -> dict[str, Any]:
    example = verdict.example
    blamed = rows.blamed(spec, example) if example else None
    return {
        "id": verdict.id,
        "title": verdict.title,
        "statement": verdict.statement,
        "outcome": verdict.outcome,
        "method": verdict.method,
        "seconds": round(verdict.seconds, 6),
        "witness": verdict.witness.text if verdict.witness else None,
        "trace": verdict.run.to_data() if verdict.run else None,
        "violation": example.text if example else None,
        "row": blamed[1] if blamed else None,
        "engine": second_opinion(example, spec) or None if example else None,
        "reason": verdict.reason,
        "queries": verdict.queries,
        "disagreements": [
            {"query": found.query, "z3": found.z3, "cvc5": found.cvc5, "file": found.file}
            for found in verdict.disagreements
        ],
    }


def _variant_data(spec: Spec, variant: Variant) -> dict[str, Any]:
    return {
        "rule": variant.rule.name,
        "statement": variant.rule.summary,
        "outcome": "unknown" if variant.unknown else "violated" if variant.cells else "proved",
        "compared": variant.compared,
        "seconds": round(variant.seconds, 6),
        "cells": [
            {
                "flags": list(spec.names(spec.capability_type(word))),
                "from": from_,
                "to": to,
                "path": list(path),
            }
            for word, from_, to, path in variant.cells
        ],
    }


def obligation_lines(obligation: Obligation) -> Iterator[str]:
    """Write out an obligation as `verify --list` does: what it is, and what it is not."""
    yield f"{obligation.id:<4} {obligation.heading}"
    if obligation.title:
        yield f"     {obligation.statement}"
    yield f"     over {obligation.ranges_over}"
    if obligation.not_shown:
        yield f"     not shown: {obligation.not_shown}"


def verdict_line(verdict: Verdict) -> str:
    """Return a verdict in one line."""
    took = f"{verdict.seconds * 1000:.0f} ms"
    return f"{verdict.id:<4} {verdict.outcome:<9} {took:>7}  {verdict.title}"


def violation(
    verdict: Verdict,
    obligation: Obligation,
    spec: Spec,
    origin: str | None,
    saved: str | None = None,
) -> Iterator[str]:
    """Write a violation out: obligation, steps, why it matters, the row, how to see it again.

    Args:
        verdict: The verdict.
        obligation: The obligation it is about.
        spec: The table.
        origin: The file the table came from, or None for the packaged one.
        saved: The file the trace was written to, or None.
    """
    yield f"{verdict.id} is violated: {verdict.statement}"
    example = verdict.example
    if example is None:
        return
    has_steps = example.trace is not None and bool(example.trace.steps)
    if not (has_steps and rows.repeats(example)):
        yield f"  {example.text}"
    if example.trace is not None and has_steps:
        yield ""
        yield from (f"  {line}" for line in steps(example.trace))
        yield ""
    yield f"  why it matters: {obligation.why}"
    blamed = rows.blamed(spec, example)
    if blamed is not None:
        how, row = blamed
        yield f"  {how}: {rows.described(spec, row)}"
    opinion = second_opinion(example, spec)
    if opinion:
        yield f"  run again: {opinion}"
    command = see_again(verdict, origin, saved)
    if command is not None:
        yield f"  see it again: {command}"


def steps(trace: Trace) -> Iterator[str]:
    """Number the steps of a trace; after each, only what changed."""
    several = len(trace.start) > 1
    width = len(str(len(trace.steps)))
    for device, start in enumerate(trace.start):
        who = f"{trace.name(device)} " if several else ""
        yield f"{0:>{width}}. {who}{start} ({','.join(trace.capabilities[device])})"
    for number, (step, changes) in enumerate(trace.changes(), 1):
        changed = f"   [{', '.join(changes)}]" if changes else ""
        yield f"{number:>{width}}. {trace.describe(step)}{changed}"


def see_again(verdict: Verdict, origin: str | None, saved: str | None = None) -> str | None:
    """Return the command that shows a violation again, or None if it has no run to show.

    A single request is what `route` shows; a longer run is one for `replay`, from the file it was
    saved to or from the one `verify --traces` saves it to.
    """
    trace = verdict.example.trace if verdict.example else None
    if trace is None or not trace.steps:
        return None
    first, *rest = trace.steps
    of_table = ["--spec", operand(origin)] if origin else []
    one_device = len(trace.start) == 1
    if one_device and first.kind == "request" and all(s.kind == "arc" for s in rest):
        flags = ",".join(trace.capabilities[0])
        return command("route", trace.start[0], str(first.to), "--flags", flags, *of_table)
    if saved is not None:
        return command("replay", operand(saved), *of_table)
    verify = command("verify", *of_table[1:], "--only", verdict.id, "--traces", "DIR")
    return f"{verify}; {command('replay', f'DIR/{verdict.id}.json', *of_table)}"


def disagreement_lines(verdict: Verdict) -> Iterator[str]:
    """Say loudly that two solvers disagree."""
    for found in verdict.disagreements:
        yield (
            f"the solvers disagree about {verdict.id}: to {found.query}, z3 reports {found.z3} and "
            f"cvc5 reports {found.cvc5}"
        )
        yield "  one of the two is wrong, or reads the query wrongly; the table is not to blame"
        if found.file is not None:
            yield f"  the query: {found.file}"


def variant_lines(spec: Spec, variant: Variant) -> Iterator[str]:
    """Return where a rule that is not in force contradicts the table's paths."""
    head = f'the routing rule "{variant.rule.name}", which is not in force'
    if variant.unknown:
        yield f"{head}: unknown ({variant.unknown})"
        return
    if not variant.cells:
        yield f"{head}, allows every path of the table ({variant.compared} cells)."
        return
    cells = f"{len(variant.cells)} cell{'' if len(variant.cells) == 1 else 's'}"
    yield f"{head}, contradicts the table in {cells} of {variant.compared}:"
    yield f'  "{variant.rule.summary}" ({variant.rule.source})'
    for word, from_, to, path in variant.cells:
        names = ",".join(spec.names(spec.capability_type(word)))
        yield f"  {from_} -> {to} goes {' -> '.join((from_, *path))} (capabilities {names})"
