"""A run of a connection as a trace: who sent what, and how it was answered."""

from __future__ import annotations

import errno as errno_module
from collections.abc import Iterator, Sequence

import z3

from vfio_migration.model import Step
from vfio_migration.verifier.solver.obligation import Example
from vfio_migration.verifier.solver.system import Situation, Term, run_of
from vfio_migration.verifier.systems.connection_answers import Answers, Message


class _Run:
    """One run, read from a model."""

    def __init__(self, answers: Answers, model: z3.ModelRef) -> None:
        self.answers = answers
        self.encoding = answers.encoding
        self.wire = answers.wire
        self.model = model
        self.word = self.encoding.read_flags(model)
        self.sessions = 0
        self.session: int | None = None

    def value(self, term: Term) -> int:
        return int(self.model.eval(term, model_completion=True).as_long())

    def holds(self, term: Term) -> bool:
        return bool(z3.is_true(self.model.eval(term, model_completion=True)))

    def state(self, term: Term) -> str:
        return self.encoding.read_state(self.model, term) or "?"

    def note(self, state: str, text: str) -> Step:
        return Step(kind="note", state=state, session=self.session, note=text)

    def steps(self, moment: int, name: str, now: Situation, then: Situation) -> Iterator[Step]:
        here, there = self.state(now["state"]), self.state(then["state"])
        message = self.answers.message(moment)
        if name == "disconnect":
            self._close(then)
            yield Step(kind="disconnect", state=there, session=self.session)
            left = [row.name for row in self.wire.holdings if self._kept(then, row.name)]
            if left:
                yield self.note(there, f"the server still keeps {' and '.join(left)}")
        elif name in ("connect", "deliver", "ask", "answered", "put_off", "taken_up"):
            yield self.note(here, self._passed(name, message))
        elif self.holds(self.answers.sets(message)):
            yield from self._request(moment, name, now, then, message)
        elif name == "served" and self._does(message) == "reset":
            self._close(then)
            yield Step(kind="reset", state=there, session=self.session)
        else:
            yield self.note(there, f"{self.sent(message)}: {self._outcome(moment, name, now)}")

    def _passed(self, name: str, message: Message) -> str:
        if name == "ask":
            return f"the server sends {self.command(message)} for {self.value(message.count)} bytes"
        if name == "put_off":
            return f"{self.sent(message)}: put off until memory of the guest is there"
        return {
            "taken_up": "the server goes on with what was put off",
            "connect": "a client connects",
            "deliver": "the server sends a reply",
            "answered": "the client replies",
        }[name]

    def _kept(self, now: Situation, name: str) -> int:
        return self.value(now[f"keeps_{name}"])

    def _close(self, then: Situation) -> None:
        if not self.holds(then["open"]):
            self.session = None

    def command(self, message: Message) -> str:
        number = self.value(message.number)
        row = self.wire.command(number)
        return f"command {number}" if row is None else row.name

    def _does(self, message: Message) -> str:
        row = self.wire.command(self.value(message.number))
        return "other" if row is None else row.does

    def sent(self, message: Message) -> str:
        """What the client sent, in a few words: the command and what is not usual about it."""
        words = [self.command(message)]
        if self.holds(self.answers.is_type(message, "reply")):
            words = ["a reply"]
        elif self._does(message) == "feature":
            methods = [
                name for name in ("probe", "get", "set") if self.holds(getattr(message, name))
            ]
            number = self.value(message.feature)
            row = self.wire.feature(number)
            words += ["+".join(methods).upper() or "no method", row.name if row else str(number)]
        row_of = self.wire.command(self.value(message.number))
        size, fds = self.value(message.size), self.value(message.fds)
        details = [f"{size} bytes"]
        if fds:
            details.append(f"{fds} descriptors")
        wanted = self.value(message.count)
        if row_of is not None and row_of.reply_item and not row_of.request_item:
            details.append(f"{wanted} asked for")
        if self.holds(message.quiet):
            details.append("No_reply")
        words.append(f"({', '.join(details + self._odd(message))})")
        added = self.value(message.added)
        if row_of is not None and row_of.adds is not None and added > max(fds, 1):
            words.append(f"again and again, {added} {row_of.adds.replace('_', ' ')} in all")
        return " ".join(words)

    def _odd(self, message: Message) -> list[str]:
        """What is wrong with a message beside its command, size and descriptors."""
        answers, does = self.answers, self._does(message)
        known = [answers.is_type(message, name) for name in ("command", "reply")]
        found = {
            f"type {self.value(message.type)}": not any(map(self.holds, known)),
            "a version the server lacks": does == "negotiate" and self.holds(message.incompatible),
            "an unknown flag": self.holds(z3.And(message.odd, answers.looks_at_flags(message))),
            "an argument out of range": self.holds(message.invalid),
        }
        return [text for text, holds in found.items() if holds]

    def _outcome(self, moment: int, name: str, now: Situation) -> str:
        if name != "refused":
            return name
        verdict = self.value(self.answers.verdict(now, self.answers.message(moment)))
        row = self.wire.answers[verdict - 1]
        ending = ", and the server closes" if row.outcome == "closes" else ""
        return f"refused ({row.errno}): {row.reason}{ending}"

    def _errno(self, term: Term) -> str:
        number = self.value(term)
        return errno_module.errorcode.get(number, str(number))

    def _request(
        self, moment: int, name: str, now: Situation, then: Situation, message: Message
    ) -> Iterator[Step]:
        """A SET_STATE with the arcs it takes, and how it ends."""
        here, there = self.state(now["state"]), self.state(then["state"])
        asked = self.state(message.asked)
        target = asked if asked in self.encoding.names else self._no_state()
        odd = self._odd(message) + (["GET too"] if self.holds(message.get) else [])
        yield Step(
            kind="request",
            to=target,
            state=here,
            session=self.session,
            note=", ".join(odd) or None,
        )
        stop = self.state(z3.Const(f"stop@{moment}", self.encoding.state_sort))
        machine = self.encoding.machines[self.word]
        goal = stop if name == "failed" else there
        while here != goal and (step := machine.next_step(here, asked)) is not None:
            self._arc(here, step)
            yield Step(kind="arc", from_=here, to=step, state=step, session=self.session)
            here = step
        if name == "refused":
            errno = self._errno(self.answers.errno(now, moment))
            yield Step(kind="refused", to=target, state=there, session=self.session, errno=errno)
        elif name == "failed":
            onward = machine.next_step(here, asked) or asked
            for_good = self.holds(z3.Bool(f"for_good@{moment}"))
            self._close(then)
            yield Step(
                kind="arc_failed_for_good" if for_good else "arc_failed",
                from_=here,
                to=onward,
                state=there,
                session=self.session,
                errno=self._errno(self.answers.failure(moment)),
            )

    def _no_state(self) -> int:
        """A value that no state has."""
        return max(row.value for row in self.encoding.spec.states) + 1

    def _arc(self, here: str, step: str) -> None:
        effect = self.encoding.spec.effect(here, step)
        if effect == "opens":
            self.sessions += 1
            self.session = self.sessions
        elif effect in ("closes", "none"):
            self.session = None


def traced(
    answers: Answers, model: z3.ModelRef, situations: Sequence[Situation], events: Sequence[str]
) -> Example:
    """Return a run as a trace."""
    run = _Run(answers, model)
    steps = tuple(
        step
        for moment, name in enumerate(events)
        for step in run.steps(moment, name, situations[moment], situations[moment + 1])
    )
    encoding = answers.encoding
    start = run.state(situations[0]["state"])
    text = f"{len(events)} events from {start}: {'; '.join(str(step) for step in steps)}"
    return run_of(encoding, [run.word], [start], steps, text)
