"""A server's log, held against the table: `vfio-migration serve --log-format json`.

One log is about one device, from the moment the server serves it. What the engine reports of it
(transition, request, reset, disconnect) is held step by step; any other event that names the state
(connected, disconnected, counters, stopped) must name that one. Where lines were left out
(`left_out`), it is taken up again from what comes next. All else is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vfio_migration.model.conformance.followed import Because, FirstViolationError, Violation
from vfio_migration.model.conformance.situations import known_sets
from vfio_migration.model.conformance.steps import Steps, violation
from vfio_migration.model.errors import Mistake, SpecError, closest, did_you_mean, it_has
from vfio_migration.model.spec import CapabilitySet, Spec

_OUTCOMES = {
    "transition": ("completed", "failed"),
    "request": ("completed", "failed", "refused"),
    "reset": ("completed", "failed"),
    "disconnect": ("completed", "failed"),
}
_STATE_EVENTS = ("attached", "connected", "disconnected", "counters", "stopped")
"""Events of which the state is all that is held."""
_KINDS = 100
"""How many kinds of events that are passed over are counted apart."""


class LogConformance:
    """Holds the events of a log, one by one, against the table.

    Args:
        spec: The table.
        capabilities: What the device offers, if that is known; else the log states it, or it is any
            that fits.

    Attributes:
        spec: As given.
        device: What the device is called.
        held: How many events of which kind were held against the table.
        unrestricted: How many of which kind it does not restrict.
        steps: The device.
    """

    def __init__(self, spec: Spec, *, capabilities: CapabilitySet | None = None) -> None:
        self.spec = spec
        self.device = "device"
        self.held: Counter[str] = Counter()
        self.unrestricted: Counter[str] = Counter()
        self._given = capabilities
        self._words = known_sets(spec, capabilities)
        self.steps = Steps(spec, self._words)

    def observe(self, data: Mapping[str, Any]) -> Violation | None:
        """Take an event in; return what is wrong with it, or None.

        Raises:
            SpecError: The line is none that a server writes, or one about another table.
        """
        event = _text(data, "event", "is not a string: the line is damaged")
        try:
            if event == "serving":
                self._serving(data)
            elif event in _OUTCOMES:
                self._happened(event, data)
            elif event in _STATE_EVENTS:
                self._must_be_over(event)
                state = data.get("state")
                if state:
                    self.steps.reported(self._state(data, "state"), f"{event} in {state}")
            else:
                if event == "left_out":
                    # The server has written no more than so many lines a second.
                    self.steps = Steps(self.spec, self._words)
                # However many kinds there are, so many are distinguished: the names are the log's.
                full = len(self.unrestricted) >= _KINDS and event not in self.unrestricted
                self.unrestricted["others" if full else event] += 1
                return None
        except FirstViolationError as broken:
            found = violation(self.device, broken, self.steps)
            self.steps = Steps(self.spec, self._words)
            return found
        self.held[event] += 1
        return None

    def _serving(self, data: Mapping[str, Any]) -> None:
        """A server begins: it serves a device that was just made."""
        name = data.get("spec", self.spec.name)
        if name != self.spec.name:
            hint = f"the table read is {self.spec.name}; name the right one with --spec"
            raise _wrong("spec", name, "is the name of another table", hint)
        self.device = str(data.get("device", self.device))
        given = self.spec.capability_set(_text(data, "flags"))
        state = self._state(data, "state")
        words = (int(given.value),)
        self.steps = Steps(self.spec, words)
        if self._given is not None and self._given != given:
            names = ",".join(self.spec.names(self._given))
            because = Because("these are not the capabilities that were given", "[[capabilities]]")
            raise FirstViolationError(f"a device with {data['flags']} is served", because, [names])
        self._words = words
        self.steps = Steps(self.spec, words, self.spec.initial)
        self.steps.reported(state, f"a device is served that is in {state}")

    def _happened(self, event: str, data: Mapping[str, Any]) -> None:
        outcome = _text(data, "outcome")
        if outcome not in _OUTCOMES[event]:
            hint = it_has(_OUTCOMES[event])
            raise _wrong("outcome", outcome, f"is nothing a {event} comes to", hint)
        what, state = _text(data, "what"), self._state(data, "state")
        session, steps = _session(data), self.steps
        if event in ("reset", "disconnect"):
            self._must_be_over(event)
            met = self._state({"what": what}, "what")
            fails = outcome == "failed"
            steps.event(event, state, session, met, fails=fails)  # type: ignore[arg-type]
            return
        from_, arrow, to = what.partition(" -> ")
        if not arrow:
            raise _wrong("what", what, "is not a step from one state to another", None)
        self._state({"what": from_}, "what")
        if event == "transition":
            self._must_be_over(f"arc {what}")
            self._state({"what": to}, "what")
            if outcome == "completed":
                steps.arc(from_, to, state, session)
            else:
                steps.arc_failed(from_, to, state, session)
                steps.failed = (from_, to)
            return
        target = data.get("target", to)
        if isinstance(target, str):
            target = self._state({"target": target}, "target")
        elif type(target) is not int:
            raise _wrong("target", target, "is neither a state nor a number", None)
        if outcome == "failed":
            steps.request_failed(from_, target, state, session)
            return
        self._must_be_over(f"SET_STATE {target}")
        if outcome == "refused":
            steps.refused(from_, target, _text(data, "errno"), state, session)
        else:
            steps.nothing(from_, target, state, session)

    def _must_be_over(self, step: str) -> None:
        """Raise `FirstViolationError` if an arc failed and its request has not."""
        failed, self.steps.failed = self.steps.failed, None
        if failed is not None:
            reason = f"arc {failed[0]} -> {failed[1]} has failed, and its request not yet"
            row = self.spec.event("arc_failed")
            because = Because(reason, "[[events]] arc_failed", row.source)
            raise FirstViolationError(step, because, ["the request fails"])

    def _state(self, data: Mapping[str, Any], key: str) -> str:
        name = _text(data, key)
        known = [row.name for row in self.spec.states]
        if name not in known:
            hint = did_you_mean(closest(name, known)) or it_has(known)
            raise _wrong(key, name, "there is no such state in this table", hint)
        return name


def _text(data: Mapping[str, Any], key: str, problem: str = "is not a string") -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise _wrong(key, value, problem if key in data else "is missing", None)
    return value


def _session(data: Mapping[str, Any]) -> int | None:
    value = data.get("session")
    if value is not None and (type(value) is not int or value < 0):
        raise _wrong("session", value, "is not a number of a session", None)
    return value


def _wrong(place: str, value: object, problem: str, hint: str | None) -> SpecError:
    return SpecError([Mistake(place, value, problem, hint)])
