"""A device led through the finite suite of `vfio_migration.model.suite`, one input after the other.

Two tours make every input in every state, with a driver at work and with time that passes; then
come the sequences that find whatever is different in a state with a hidden past. All of it happens
to one device, so that a second life is tried, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from vfio_migration.model.suite import Behaviour, Input, Output, behaviour, expected, whole_run
from vfio_migration.runtime.engine.errors import (
    RequestFailedError,
    RequestRefusedError,
    ResetFailedError,
)
from vfio_migration.runtime.testing.trial import MAX_TRIES, Setup, Trial, require
from vfio_migration.runtime.testing.wording import described, fails, in_hook, where_in_words

_PIECES: Final = 8
"""In how many parts a stream is written, if each is asked for."""
_READ_BYTES: Final = 100


def check_complete_suite(setup: Setup) -> None:
    """D, S: whatever a client can ask for, in every order that a hidden state may depend on."""
    tested = behaviour(setup.machine)
    with setup.trial() as trial:
        run = _Run(trial, tested)
        for number, sequence in enumerate(whole_run(tested, setup.hidden_states)):
            if number:
                run.reset()
            run.lead(sequence, tour=not number)


class _Run:
    def __init__(self, trial: Trial, tested: Behaviour) -> None:
        self._trial, self._setup, self._tested = trial, trial.setup, tested
        good = self._setup.good_stream()
        size = max(1, math.ceil(len(good) / _PIECES))
        self._pieces = [good[at : at + size] for at in range(0, len(good), size)]
        self._written = 0
        self._ended = False

    def lead(self, sequence: Sequence[Input], *, tour: bool) -> None:
        for one, right in zip(sequence, expected(self._tested, sequence), strict=True):
            before = self._trial.engine.situation
            self._make(one, right)
            now = self._trial.engine.situation
            require(
                "D7",
                now.state == right.state,
                f"{one} in {where_in_words(before)} leads to {where_in_words(now)}",
            )
            if now.session != before.session:
                self._written = 0
            if now != before:
                self._ended = False
                if tour:
                    self._live()
            self._trial.coherent(f"after {one}")

    def reset(self) -> None:
        """Reset the device, once more if it fails: it may, but not time after time."""
        for left in reversed(range(MAX_TRIES)):
            try:
                self._trial.engine.reset()
            except ResetFailedError as error:
                words = f"a reset fails{in_hook(error)}: {described(error.__cause__)}"
                require("D9", left, words)
            else:
                break
        self._written, self._ended = 0, False

    def _live(self) -> None:
        """Have a driver and time do what they may in this state."""
        self._trial.poke()
        self._trial.idle()
        if self._trial.spec.permits_role(self._trial.engine.state, "state_change"):
            self._trial.begin()

    def _make(self, one: Input, right: Output) -> None:
        trial = self._trial
        before = trial.engine.situation
        if one.kind == "reset":
            self.reset()
        elif one.kind == "reconnect":
            trial.engine.disconnect()
            moved = trial.engine.situation != before
            require("D9", not moved, f"a disconnect in {where_in_words(before)} moved the device")
            trial.guest.hang_up()
            trial.guest.connect(trial.device)
        elif one.kind == "stream":
            self._stream(self._setup.transfer(before.state))
        else:
            if right.errno is None and "closes" in right.session:
                self._finish_stream(self._setup.transfer(before.state))
            try:
                trial.ask(one.value)
            except RequestRefusedError:
                moved = trial.engine.situation != before
                require("D8", not moved, "a refused request moved the device")
            except RequestFailedError as failure:
                require("D9", False, fails(failure))

    def _stream(self, transfer: str) -> None:
        if transfer == "read":
            data = self._trial.try_read(_READ_BYTES)
            if data is not None:
                require(
                    "S3", not (self._ended and data), "there is more after the end of the stream"
                )
                end = self._setup.spec.stream_end(self._trial.engine.state)
                final = end is not None and end.kind == "final"
                self._ended = final and len(data) < _READ_BYTES
        elif transfer == "write" and self._written < len(self._pieces):
            self._write(self._pieces[self._written])
            self._written += 1

    def _finish_stream(self, transfer: str) -> None:
        """Write what is left of a stream, where one is written."""
        if transfer == "write":
            for piece in self._pieces[self._written :]:
                self._write(piece)
            self._written = len(self._pieces)

    def _write(self, piece: bytes) -> None:
        taken = self._trial.write_all(piece)
        require("S1", taken, "a good stream is refused while it is written")
