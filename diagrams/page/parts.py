"""The parts of a report's page, each as an element. What a script fills in is empty here."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

from vfio_migration.diagrams.page.elements import Child, element
from vfio_migration.diagrams.page.view import Against, Counterexample, Finding, ReportView
from vfio_migration.model import Machine, Spec, State, Trace

_GRAVEST_FIRST = ("violated", "unknown", "proved")


def header(view: ReportView) -> ET.Element:
    """Return the head of the page: what it is about, the outcome, where to go."""
    spec = view.spec
    violated = [one for one in view.findings if one.outcome == "violated"]
    links = [("machine", "The machine"), ("verdicts", "Verdicts")]
    links += [("counterexamples", "Counterexamples")] if violated else []
    links += [("changes", "Changes")] if view.against is not None else []
    return element(
        "header",
        element("h1", spec.title),
        element(
            "p",
            f"A report on {view.name}: {len(spec.states)} states, {len(spec.arcs)} arcs, "
            f"{len(spec.refusals)} refused pairs.",
        ),
        element("p", view.summary, class_=f"summary {_outcome(view)}"),
        element("ul", [element("li", note) for note in view.notes]) if view.notes else None,
        element(
            "nav",
            [element("a", text, href=f"#{place}") for place, text in links],
            aria_label="Parts of this report",
        ),
    )


def _outcome(view: ReportView) -> str:
    found = {one.outcome for one in view.findings}
    return next((outcome for outcome in _GRAVEST_FIRST if outcome in found), "absent")


# --- the machine ---


def figure(index: int, machine: Machine, svg: ET.Element) -> ET.Element:
    """Return the picture of a capability set."""
    name = ", ".join(machine.names)
    return element(
        "figure",
        element("div", svg, class_="scroll", tabindex="0", role="group", aria_label=name),
        element("figcaption", f"With {name}: {len(machine.states)} states."),
        data_set=str(index),
        data_name=name,
        class_="picture",
        hidden=index > 0,
    )


def machine(
    view: ReportView, figures: Sequence[ET.Element], left_out: Sequence[Sequence[str]]
) -> ET.Element:
    """Return the machine, to be clicked: pictures on one side, what was chosen on the other."""
    spec = view.spec
    notice: Child = None
    if left_out:
        example = ",".join(left_out[0])
        notice = element(
            "p",
            f"There was no room for the pictures of {len(left_out)} more capability sets, as "
            f"{example}; make a report with --flags {example} to see one.",
            class_="hint",
        )
    states = [(str(index), row.name) for index, row in enumerate(spec.states)]
    return element(
        "section",
        element("h2", "The machine", id="machine-title"),
        element(
            "noscript",
            element(
                "p",
                "Without JavaScript the pictures cannot be clicked, and routes are not shown: "
                "vfio-migration route prints them.",
            ),
        ),
        element(
            "div",
            element(
                "p",
                "Click a state, or choose one, to see its row and what can be asked for from it; "
                "then another one, to see the path to it. Arrow keys go from state to state, "
                "Escape clears.",
                class_="hint",
            ),
            _choice(
                "set",
                "Capabilities",
                [(str(index), one.get("data-name") or "") for index, one in enumerate(figures)],
            ),
            _choice("from", "From", [("", "any state"), *states]),
            _choice("to", "To", [("", "any state"), *states]),
            element("button", "Clear", type="button", id="clear"),
            class_="controls scripted",
            hidden=True,
        ),
        notice,
        element(
            "div",
            element("div", figures, id="pictures"),
            element(
                "div",
                _stepper(),
                element("div", id="answer", aria_live="polite"),
                element("div", [_state(spec, index) for index in range(len(spec.states))]),
                element("div", id="routes"),
                id="panel",
            ),
            id="two",
            class_="two",
        ),
        id="machine",
        aria_labelledby="machine-title",
    )


def _stepper() -> ET.Element:
    """Return what goes through the steps of a run: buttons, the step, and room for the list."""
    buttons = [
        element("button", text, type="button", id=f"run-{text.lower()}")
        for text in ("First", "Back", "Forward", "Last", "Close")
    ]
    return element(
        "div",
        element(
            "div",
            element("div", buttons, class_="buttons", role="group", aria_label="Steps"),
            element("div", id="run-now", aria_live="polite"),
            class_="bar",
        ),
        element("div", id="run-list"),
        id="run",
        hidden=True,
    )


def _choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> ET.Element:
    return element(
        "label",
        f"{label} ",
        element(
            "select",
            [element("option", text, value=value) for value, text in options],
            id=f"choose-{name}",
        ),
    )


def _state(spec: Spec, index: int) -> ET.Element:
    """Return the row of a state, and what follows from where it is on the grid."""
    row = spec.states[index]
    operation, session = spec.operation(row.operation), spec.session(row.session)
    facts: list[tuple[str, Child]] = [
        ("Meaning", row.summary),
        ("Value on the wire", str(row.value)),
        ("Requires", ", ".join(row.requires) or "nothing"),
        ("Operation", f"{_words(row.operation)}: {operation.summary}"),
        ("Session", f"{_words(row.session)}: {session.summary}"),
        (
            "A device may",
            element(
                "ul",
                [
                    element(
                        "li",
                        element("b", "yes " if one.name in operation.may else "no "),
                        f"{_words(one.name)}: {one.summary}",
                        class_="may" if one.name in operation.may else "may-not",
                    )
                    for one in spec.activities
                ],
            ),
        ),
        ("The stream", _stream(spec, row)),
        ("Can be asked for", "yes" if row.settable else "never"),
        ("Row", f"states[{index}] of {spec.name}"),
        ("Source", row.source),
    ]
    if row.name == spec.initial:
        facts.insert(1, ("Initial", "A device begins here."))
    return element(
        "article",
        element("h3", row.name),
        element(
            "dl", [(element("dt", name), element("dd", value)) for name, value in facts if value]
        ),
        class_="state",
        data_state=str(index),
    )


def _stream(spec: Spec, row: State) -> str:
    session = spec.session(row.session)
    does = {"none": "nothing is streamed", "read": "the client reads", "write": "the client writes"}
    end = spec.stream_end(row.name)
    return does[session.transfer] + (f"; {end.kind} end: {end.summary}" if end else "")


def _words(name: str) -> str:
    return name.replace("_", " ")


# --- verdicts ---


def verdicts(view: ReportView) -> ET.Element:
    """Return the verdicts, gravest first, or why there are none."""
    found = sorted(view.findings, key=lambda one: _GRAVEST_FIRST.index(one.outcome))
    body: Child
    if view.absent is not None:
        body = element("p", view.absent, class_="absent")
    else:
        body = element(
            "div",
            element(
                "table",
                element(
                    "thead",
                    element(
                        "tr",
                        [
                            element("th", text, scope="col")
                            for text in ("", "Outcome", "Obligation")
                        ],
                    ),
                ),
                element("tbody", [_verdict(one) for one in found]),
            ),
            class_="scroll",
            tabindex="0",
            role="group",
            aria_label="Verdicts",
        )
    return element(
        "section",
        element("h2", "Verdicts", id="verdicts-title"),
        body,
        id="verdicts",
        aria_labelledby="verdicts-title",
    )


def _verdict(one: Finding) -> ET.Element:
    details = [one.statement, f"Decided by: {_words(one.method)}.", f"Why it matters: {one.why}"]
    details += [f"Witness: {one.witness}"] if one.witness else []
    details += [f"Not shown: {one.not_shown}"] if one.not_shown else []
    details += [f"Unknown: {one.reason}"] if one.reason else []
    link: Child = None
    if one.counterexample is not None:
        link = element(
            "p",
            element("a", f"The counterexample to {one.id}", href=f"#counterexample-{one.id}"),
        )
    return element(
        "tr",
        element("th", one.id, scope="row"),
        element("td", one.change or one.outcome, class_=one.outcome),
        element(
            "td",
            element(
                "details",
                element("summary", one.title),
                [element("p", text) for text in details],
            ),
            link,
        ),
    )


# --- counterexamples ---


def counterexamples(view: ReportView) -> ET.Element | None:
    """Return what breaks each obligation that is violated, step by step; None if none is."""
    found = [one for one in view.findings if one.counterexample is not None]
    if not found:
        return None
    return element(
        "section",
        element("h2", "Counterexamples", id="counterexamples-title"),
        [_counterexample(one, one.counterexample) for one in found if one.counterexample],
        id="counterexamples",
        aria_labelledby="counterexamples-title",
    )


def _counterexample(finding: Finding, found: Counterexample) -> ET.Element:
    trace = found.trace
    has_steps = trace is not None and bool(trace.steps)
    after: list[tuple[str, str | None]] = [
        ("In one sentence", found.text if has_steps else None),
        ("Why it matters", finding.why),
        ("Where", found.row),
        ("Run again on the live engine", found.rerun),
    ]
    return element(
        "article",
        element("h3", f"{finding.id} is violated: {finding.title}"),
        element("p", finding.statement),
        element("p", found.text) if found.text and not has_steps else None,
        element(
            "button",
            "Step through it in the picture",
            type="button",
            class_="scripted step-through",
            data_run=finding.id,
            hidden=True,
        )
        if has_steps
        else None,
        element("ol", list(_steps(trace)), start="0", class_="steps")
        if trace is not None and has_steps
        else None,
        element("dl", [(element("dt", name), element("dd", text)) for name, text in after if text]),
        element("p", "See it again: ", element("code", found.command)) if found.command else None,
        id=f"counterexample-{finding.id}",
        class_="counterexample",
    )


def _steps(trace: Trace) -> Iterator[ET.Element]:
    several = len(trace.start) > 1
    starts = [
        (f"{trace.name(device)}: " if several else "") + f"{state} ({', '.join(names)})"
        for device, (state, names) in enumerate(zip(trace.start, trace.capabilities, strict=True))
    ]
    yield element("li", f"It begins in {'; '.join(starts)}")
    for step, changes in trace.changes():
        failed = step.kind.startswith(("arc_failed", "refused"))
        yield element(
            "li",
            element("span", trace.describe(step).replace("->", "→"), class_="what"),
            element("span", "; ".join(changes).replace("=>", "→"), class_="changed")
            if changes
            else None,
            class_="failed" if failed else None,
        )


# --- changes ---


def changes(view: ReportView, picture: ET.Element | None) -> ET.Element | None:
    """Return what the other table has otherwise; None if there is no other one."""
    against = view.against
    if against is None or picture is None:
        return None
    changed = [one for one in view.findings if one.change is not None]
    return element(
        "section",
        element("h2", f"Changes against {against.name}", id="changes-title"),
        element("p", against.compatible) if against.compatible else None,
        element(
            "figure",
            element(
                "div", picture, class_="scroll", tabindex="0", role="group", aria_label="Changes"
            ),
            element("figcaption", f"What is otherwise than in {against.name}."),
            class_="picture",
        ),
        element("ul", [element("li", f"{one.id}, {one.change}: {one.title}") for one in changed])
        if changed
        else None,
        _facts(against),
        [
            element("details", element("summary", title), element("pre", "\n".join(lines)))
            for title, lines in against.sequences
        ],
        id="changes",
        aria_labelledby="changes-title",
    )


def _facts(against: Against) -> ET.Element:
    if not against.facts:
        return element("p", "No row differs, and no request is answered otherwise.")
    columns = ("What", "Which", "Change", "Before", "Now", "With")
    rows = [
        element(
            "tr",
            [
                element("td", text)
                for text in (
                    one.what,
                    one.name,
                    one.kind,
                    one.old or "",
                    one.new or "",
                    "; ".join(one.flags),
                )
            ],
            class_=one.kind,
        )
        for one in against.facts
    ]
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", [element("th", text, scope="col") for text in columns])),
            element("tbody", rows),
        ),
        class_="scroll",
        tabindex="0",
        role="group",
        aria_label="What differs",
    )


__all__ = [
    "changes",
    "counterexamples",
    "figure",
    "header",
    "machine",
    "verdicts",
]
