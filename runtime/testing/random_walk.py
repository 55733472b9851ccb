"""One random walk of a device, step by step: what hypothesis is given to drive."""

from __future__ import annotations

import random

from vfio_migration.runtime.engine.errors import RequestFailedError, RequestRefusedError
from vfio_migration.runtime.testing.observe import not_arrived
from vfio_migration.runtime.testing.trial import MAX_TRIES, Setup, Trial, require
from vfio_migration.runtime.testing.wording import fails, where_in_words


class Walk:
    """A device, and a second opinion on its sessions.

    Args:
        setup: What is tried.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.trial: Trial = Trial(setup, 1)
        self._read = b""
        self._end = False
        self._written = 0
        self._intact = True

    def close(self) -> None:
        """Give all back."""
        self.trial.close()

    def ask(self, target: int) -> None:
        """Ask for a state by its number, and hold what comes of it against the table."""
        engine, spec = self.trial.engine, self.setup.spec
        before = engine.situation
        transfer = self.setup.transfer(before.state)
        whole = self._intact and self._written == len(self.setup.good_stream())
        # What is under way is done by a driver: the state as it is, is what is saved.
        for left in reversed(range(MAX_TRIES)):
            try:
                after = engine.set_state(target)
            except RequestRefusedError:
                require("D8", engine.situation == before, "a refused request moved the device")
                return
            except RequestFailedError as failure:
                bad = transfer == "write" and not whole and failure.arc.from_ == before.state
                passes = failure.event.name == "arc_failed" and left
                require("D9", bad or passes or failure.event.name != "arc_failed", fails(failure))
                after = engine.situation
                if bad or failure.event.name != "arc_failed":
                    break  # else it failed by its own doing, as it may, and it is asked again
            else:
                break
        if transfer == "write" and after.state != before.state:
            lost = after.state == spec.event("arc_failed_for_good").to
            require("S4", whole or lost, "a device left with half a stream, or a damaged one")
        if after.session != before.session:
            self._forget()
        end = spec.stream_end(after.state)
        if end is not None and end.kind == "final" and after.session == before.session:
            self._end = False

    def drive(self, seed: int) -> None:
        """Do what a driver does."""
        self.trial.rng = random.Random(seed)
        self.trial.poke()
        self.setup.drive(self.trial.device, self.trial.guest, self.trial.rng)

    def wait(self, seconds: float) -> None:
        """Let time pass, and hold what happens in it against the table."""
        self.trial.idle() if seconds >= 1 else self.trial.wait(seconds)

    def read(self, size: int) -> None:
        """Read on; a stream that is whole is taken over by another device."""
        if self.setup.transfer(self.trial.engine.state) != "read":
            return
        data = self.trial.try_read(size)
        if data is None:
            return
        require("S3", not (self._end and data), "there is more after the end of the stream")
        self._read += data
        end = self.setup.spec.stream_end(self.trial.engine.state)
        if len(data) < size and end is not None and end.kind == "final" and not self._end:
            self._end = True
            self._arrive()

    def _arrive(self) -> None:
        with self.setup.trial(seed=9) as other:
            other.reach(self.setup.writing()[0])
            other.write_all(self._read)
            try:
                other.ask(self.setup.machine.arcs_from(other.engine.state)[0].to)
            except RequestFailedError as failure:
                require("S1", False, f"a whole stream is refused: {fails(failure)}")
            differ = not_arrived(self.trial.observe(), other.observe())
            require("S1", not differ, differ)

    def write(self, size: int, damage: bool) -> None:
        """Write the next bytes of a whole stream, or spoil it."""
        if self.setup.transfer(self.trial.engine.state) != "write":
            return
        piece = bytearray(self.setup.good_stream()[self._written : self._written + size])
        if damage and piece:
            piece[0] ^= 0x40
            self._intact = False
        taken = self.trial.write_all(bytes(piece))
        require("S1", taken or not self._intact, "a good stream is refused while it is written")
        self._written += len(piece)

    def reset(self) -> None:
        """Reset the device."""
        self.trial.engine.reset()
        self._forget()

    def reconnect(self) -> None:
        """Have the client go away, and another come."""
        before = self.trial.engine.situation
        self.trial.engine.disconnect()
        require(
            "D9",
            self.trial.engine.situation == before,
            f"a disconnect in {where_in_words(before)} moved the device",
        )
        self.trial.guest.hang_up()
        self.trial.guest.connect(self.trial.device)

    def coherent(self) -> None:
        """Hold what the device offers against what the table specifies."""
        self.trial.coherent()

    def _forget(self) -> None:
        self._read = b""
        self._end = False
        self._written = 0
        self._intact = True
