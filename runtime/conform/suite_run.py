"""A device led through the finite suite, each answer compared with what the table expects.

A data session that is judged when it is left gets a stream that the device accepts: one that was
read from itself before. It is written in pieces, one for each "stream" of the sequence, and the
rest before a request that leaves the session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from vfio_migration.model.conformance.grades import load_grades
from vfio_migration.model.machine import Machine
from vfio_migration.model.suite import (
    Behaviour,
    Input,
    Output,
    behaviour,
    expected,
    in_words,
    state_after,
    whole_run,
    without,
)
from vfio_migration.runtime.conform.report import Deviation, Report
from vfio_migration.runtime.conform.tested_server import DATA_BYTES, ServerEndedError, TestedServer

MAX_STREAM_BYTES: Final = 64 << 20
"""How long a stream of the device may be to be written again and again."""
MAX_SHRINKS: Final = 200
"""How many shorter sequences are tried for one that deviates."""
_PIECES: Final = 8
"""In how many parts a stream is written, if each is asked for."""

CHECK: Final = "suite"


class Deviates(Exception):  # noqa: N818 - it ends a sequence, and is no error of ours
    """The device answered otherwise than the table expects.

    Attributes:
        index: Which input of the sequence it was.
        right: What was expected.
        seen: What was answered.
    """

    def __init__(self, index: int, right: Output, seen: Output) -> None:
        super().__init__(index)
        self.index, self.right, self.seen = index, right, seen


class SuiteRun:
    """Leads the device of a server through sequences.

    Args:
        server: The server, connected.
        machine: The table under the capabilities that the device offers.
        report: Where deviations go.
        progress: Called after each sequence with how many are done, and of how many.
    """

    def __init__(
        self,
        server: TestedServer,
        machine: Machine,
        report: Report,
        progress: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> None:
        self._server, self._report, self._progress = server, report, progress
        self._spec = machine.spec
        self._tested: Behaviour = behaviour(machine)
        self._names = {row.value: row.name for row in self._spec.states}
        self._pieces: list[bytes] = []
        self._refusals: Counter[tuple[str, int]] = Counter()
        self._taken: set[tuple[str, int]] = set()
        self._written = self._index = 0

    @property
    def stream(self) -> list[bytes]:
        """The pieces of a stream that the device accepts; none before `run`."""
        return self._pieces

    def run(self, hidden_states: int) -> None:
        """Lead it through everything.

        Raises:
            ServerEndedError: The server did not go on.
        """
        if self._server.ends_with_client:
            self._report.left_out.append("reconnecting: the server ends when its client leaves")
            self._leave_out(lambda one: one.kind == "reconnect")
        self._read_stream()
        runs = list(whole_run(self._tested, hidden_states))
        for done, sequence in enumerate(runs, 1):
            if not self._begin():
                self._report.left_out.append(
                    f"{len(runs) - done + 1} of {len(runs)} sequences: neither a reset nor a "
                    f"request leads the device back to {self._tested.initial}"
                )
                return
            known, shows = len(self._report.deviations), sequence
            try:
                self._lead(sequence)
            except Deviates as deviation:
                shows = self._deviates(sequence[: deviation.index + 1], deviation)
            except ServerEndedError as ended:
                shows = sequence[: self._index + 1]
                self._server.doing = self._step(shows)
                self._server.recover(ended)
                for one in self._report.deviations[:known]:
                    if one.step == self._server.doing and len(one.sequence) > len(shows):
                        one.sequence = shows
            for one in self._report.deviations[known:]:
                one.sequence = one.sequence or shows
            self._report.sequences += 1
            self._report.inputs += len(sequence)
            self._progress(done, len(runs))
        self._report_what_never_works()

    def _report_what_never_works(self) -> None:
        """Report requests that the table accepts and that failed each time they were made."""
        grades = load_grades()
        check = grades.check("path_refused_again")
        for (here, value), times in sorted(self._refusals.items()):
            if (here, value) not in self._taken and times >= check.times:
                self._report.add(
                    Deviation(
                        grade=grades.grade(check.name),
                        check=check.name,
                        step=f"{in_words(self._spec, Input('set', value))} in {here}",
                        reason=f"it failed each of the {times} times it was asked for",
                        text=f"{check.text}; this is the sign of {check.sign_of}",
                    )
                )

    def _begin(self) -> bool:
        """Bring the device to the initial state: by a reset, else a request, else a new process."""
        self._server.doing = f"going back to {self._tested.initial}"
        initial = self._spec.state(self._tested.initial).value
        ways: tuple[Callable[[], object], ...] = (
            self._server.reset,
            lambda: self._server.set_state(initial),
            self._server.reconnect,
        )
        for way in ways:
            try:
                way()
                if self._server.state() == initial:
                    return True
            except ServerEndedError as ended:
                self._server.recover(ended)
        return False

    def _lead(self, sequence: Sequence[Input]) -> None:
        here, self._written = self._tested.initial, 0
        for index, (one, right) in enumerate(
            zip(sequence, expected(self._tested, sequence), strict=True)
        ):
            self._index = index
            seen = self._make(here, one, right)
            if seen != right:
                raise Deviates(index, right, seen)
            here = right.state

    def _make(self, here: str, one: Input, right: Output) -> Output:
        """Make an input; return what was seen of it.

        What a client cannot see is taken for right, and which errno it is the tables have judged.
        """
        refused = None
        if one.kind == "set":
            if right.errno is None and "closes" in right.session:
                self._finish_stream(here)
            refused = self._server.set_state(one.value).errno
            if right.errno is None and refused is None:
                self._taken.add((here, one.value))
            elif right.errno is None:
                self._refusals[here, one.value] += 1
        elif one.kind == "reset":
            refused = self._server.reset().errno
        elif one.kind == "reconnect":
            self._server.reconnect()
        else:
            refused = self._stream(here)
        if "opens" in right.session or right.state != here:
            self._written = 0
        value = self._server.state()
        state = "no state" if value is None else self._names.get(value, str(value))
        errno = None if refused is None else right.errno or str(refused)
        return right._replace(state=state, errno=errno)

    def _stream(self, here: str) -> str | int | None:
        if self._spec.session(self._spec.state(here).session).transfer != "write":
            return self._server.read_data().errno
        piece = self._pieces[self._written] if self._written < len(self._pieces) else b""
        self._written += 1
        return self._server.write_data(piece).errno if piece else None

    def _finish_stream(self, here: str) -> None:
        """Write what is left of a stream, where one is written."""
        if self._spec.session(self._spec.state(here).session).transfer == "write":
            for piece in self._pieces[self._written :]:
                self._server.write_data(piece)
            self._written = len(self._pieces)

    def _read_stream(self) -> None:
        """Read a stream that the device accepts, from itself."""
        final = next(
            (
                state
                for state in self._tested.states
                if (end := self._spec.stream_end(state)) is not None and end.kind == "final"
            ),
            None,
        )
        if final is None:
            return
        self._begin()
        for one in self._tested.way_to(final):
            self._server.set_state(one.value)
        data = bytearray()
        while len(data) <= MAX_STREAM_BYTES:
            more = self._server.data_of(self._server.read_data())
            data += more
            if not more:  # a short read alone is no end: the next one may bring more
                break
        if len(data) > MAX_STREAM_BYTES:
            self._report.left_out.append(
                f"leaving a session that is judged: the stream of the device has more than "
                f"{MAX_STREAM_BYTES >> 20} MiB; test it with a smaller device"
            )
            self._without_judged_sessions()
            return
        size = max(1, min(DATA_BYTES, -(-len(data) // _PIECES)))
        self._pieces = [bytes(data[at : at + size]) for at in range(0, len(data), size)]

    def _without_judged_sessions(self) -> None:
        """Leave out every request that would open a session of which no stream is known."""
        judged = {row.value for row in self._spec.states if self._spec.session(row.session).judged}
        self._leave_out(lambda one: one.kind == "set" and one.value in judged)

    def _leave_out(self, left_out: Callable[[Input], bool]) -> None:
        self._tested = without(self._tested, left_out)

    # --- what deviates ---

    def _deviates(self, sequence: tuple[Input, ...], found: Deviates) -> tuple[Input, ...]:
        """Report a deviation; return the shortest sequence found that shows it."""
        shortest, found = self._shrunk(sequence, found)
        right, seen = found.right, found.seen
        parts = []
        if (right.errno is None) != (seen.errno is None):
            word = "succeeds" if seen.errno is None else f"is refused ({seen.errno})"
            parts.append(
                f"it {word}, and {'is refused' if right.errno else 'succeeds'} by the table"
            )
        if right.state != seen.state:
            parts.append(f"the device is in {seen.state} then, not in {right.state}")
        kept = self._report.add(
            Deviation(
                grade="house rule",
                check=CHECK,
                step=self._step(shortest),
                reason="; ".join(parts),
            )
        )
        if not kept.sequence or len(shortest) < len(kept.sequence):
            kept.sequence = shortest
        return shortest

    def _step(self, sequence: Sequence[Input]) -> str:
        """Return the last input of a sequence in words, and where it is made."""
        *before, last = sequence
        return f"{in_words(self._spec, last)} in {state_after(self._tested, before)}"

    def _shrunk(
        self, sequence: tuple[Input, ...], found: Deviates
    ) -> tuple[tuple[Input, ...], Deviates]:
        """Return a shorter sequence that deviates in the same way, and how it does."""
        for tried, shorter in enumerate(self._shorter(sequence)):
            if tried == MAX_SHRINKS:
                break
            if not self._begin():
                break
            try:
                self._lead(shorter)
            except Deviates as again:
                if (again.right, again.seen) == (found.right, found.seen):
                    return self._shrunk(shorter[: again.index + 1], again)
        return sequence, found

    def _shorter(self, sequence: tuple[Input, ...]) -> Iterator[tuple[Input, ...]]:
        *before, last = sequence
        direct = (*self._tested.way_to(state_after(self._tested, before)), last)
        candidates: Iterable[tuple[Input, ...]] = (
            direct,
            *(sequence[:at] + sequence[at + 1 :] for at in range(len(sequence) - 1)),
        )
        return (one for one in candidates if len(one) < len(sequence))
