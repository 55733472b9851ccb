"""Verdicts for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vfio_migration.model import Spec, Trace
from vfio_migration.verifier.obligation import Example, Obligation, Verdict
from vfio_migration.verifier.prover import Report, Variant


def to_data(report: Report) -> dict[str, Any]:
    """Return the report as one plain object, the shape of `verify --json`."""
    return {
        "outcome": report.outcome,
        "spec": report.spec.name,
        "profile": report.profile,
        "seconds": round(report.seconds, 6),
        "verdicts": [_verdict_data(verdict) for verdict in report.verdicts],
        "variants": [_variant_data(report.spec, variant) for variant in report.variants],
    }


def _verdict_data(verdict: Verdict) -> dict[str, Any]:
    example = verdict.example
    return {
        "id": verdict.id,
        "statement": verdict.statement,
        "outcome": verdict.outcome,
        "method": verdict.method,
        "seconds": round(verdict.seconds, 6),
        "witness": verdict.witness.text if verdict.witness else None,
        "trace": example.trace.to_data() if example and example.trace else None,
        "violation": example.text if example else None,
        "row": example.row if example else None,
        "reason": verdict.reason,
        "queries": verdict.queries,
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


def verdict_line(verdict: Verdict) -> str:
    """Say a verdict in one line."""
    took = f"{verdict.seconds * 1000:.0f} ms"
    return f"{verdict.id:<4} {verdict.outcome:<9} {took:>7}  {verdict.statement}"


def violation(
    verdict: Verdict, obligation: Obligation, spec: Spec, origin: str | None
) -> Iterator[str]:
    """Tell a violation: the promise, the steps, why it matters, the row, how to see it again."""
    yield f"{verdict.id} is violated: {verdict.statement}"
    example = verdict.example
    if example is None:
        return
    yield f"  {example.text}"
    if example.trace is not None and example.trace.steps:
        yield ""
        yield from (f"  {line}" for line in steps(example.trace))
        yield ""
    yield f"  why it matters: {obligation.why}"
    if example.row is not None:
        yield f"  the row: {example.row}{_provenance(spec, example)}"
    command = see_again(example.trace, origin)
    if command is not None:
        yield f"  see it again: {command}"


def steps(trace: Trace) -> Iterator[str]:
    """Number the steps of a trace; after each, only what changed."""
    several = len(trace.start) > 1
    state = dict(enumerate(trace.start))
    session: dict[int, int | None] = {}
    for device, start in state.items():
        who = f"device {device} " if several else ""
        yield f"0. {who}{start} ({','.join(trace.capabilities[device])})"
    for number, step in enumerate(trace.steps, 1):
        who = f"device {step.device}: " if several else ""
        changes = []
        if step.state != state[step.device]:
            changes.append(f"state {state[step.device]} => {step.state}")
        before = session.get(step.device)
        if step.session != before and not (step.kind == "request" and before is None):
            changes.append(
                f"session {step.session} open" if step.session else f"session {before} closed"
            )
        state[step.device] = step.state
        session[step.device] = step.session
        yield f"{number}. {who}{step}" + (f"   [{', '.join(changes)}]" if changes else "")


def see_again(trace: Trace | None, origin: str | None) -> str | None:
    """Return the command that shows the request of a one-device trace again, or None."""
    if trace is None or len(trace.start) != 1:
        return None
    request = next((step for step in trace.steps if step.kind == "request"), None)
    if request is None:
        return None
    command = f"vfio-migration route {trace.start[0]} {request.to}"
    command += f" --flags {','.join(trace.capabilities[0])}"
    return command + (f" --spec {origin}" if origin else "")


def _provenance(spec: Spec, example: Example) -> str:
    """The source of the row an example names, if it is a row with one."""
    if example.row is None or "[" not in example.row:
        return ""
    section, index = example.row.rstrip("]").split("[")
    row = getattr(spec, section)[int(index)]
    title = row.name if hasattr(row, "name") else str(row)
    return f" ({title}; {row.source})"


def variant_lines(spec: Spec, variant: Variant) -> Iterator[str]:
    """Say where a rule that is not in force contradicts the table's paths."""
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
