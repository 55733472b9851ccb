"""One device on trial: under an engine, with a guest that watches what it does.

`vfio_migration.runtime.testing.suite` is what people use; here is what its checks are made of.
Nothing in here knows the name of a state: where to go is asked of the table.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from vfio_migration.model import Machine, Spec, State
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.engine.errors import RequestFailedError, errno_number
from vfio_migration.runtime.engine.records import Record
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.testing.guest import Clock, Drive, Guest, Listens, fuzz
from vfio_migration.runtime.testing.observe import Seen, look, unlike
from vfio_migration.runtime.testing.wording import described, in_hook, in_words

_CHUNK: Final = 1 << 16
_UNROUND: Final = 1.0003
"""What is due each 10 ms is never due just when time stops: rounding would say if it is done."""
_TICK: Final = 2.0**-30
"""Time passes in multiples of this, so that no clock of a trial is ever rounded: what passes
between two moments is the same for a source and a destination, whatever the time is with either."""
MAX_TRIES: Final = 4
"""How often what fails by the device's own doing is tried again."""
_ENDLESS: Final = 16
"""How many times what was reported to be left is read before it is given up."""


class ObligationViolatedError(AssertionError):
    """A device violates an obligation.

    Attributes:
        obligation: Its number among the obligations ("D3", "S1"), as in docs/obligations.md.
        words: What happened.
        place: Where the device was and what it had been asked last; empty if nobody knows.
        several: It is about several devices, and `place` about each of them.
    """

    def __init__(self, obligation: str, words: str, place: str = "") -> None:
        super().__init__(obligation, words, place)
        self.obligation = obligation
        self.words = words
        self.place = place
        self.several = False

    def __str__(self) -> str:
        place = f"; {self.place}" if self.place else ""
        return f"{self.obligation} is broken{in_words(self.obligation)}: {self.words}{place}"


def require(number: str, holds: object, words: str) -> None:
    """Raise `ObligationViolatedError` unless this holds."""
    if not holds:
        raise ObligationViolatedError(number, words)


@dataclass
class Setup:
    """What is tried: how devices are made, and what a driver does to them.

    Attributes:
        factory: Makes a device; called with `spec`, `capabilities` and `clock`.
        spec: The table.
        flags: The capability set.
        drive: What a driver does.
        hidden_states: How many states more than the table a device is assumed to have at most:
            `model.suite.sequences`.
    """

    factory: Callable[..., DeviceContract]
    spec: Spec
    flags: int
    drive: Drive = fuzz
    hidden_states: int = 1
    _good: bytes | None = field(default=None, repr=False)

    @property
    def machine(self) -> Machine:
        """The table restricted to the capability set."""
        return self.spec.machine(self.flags)

    @contextlib.contextmanager
    def trial(self, seed: int = 1, listens_to: Listens = "all") -> Iterator[Trial]:
        """Make a device and a guest for it."""
        with Trial(self, seed, listens_to) as made:
            yield made

    # --- places, by what the table specifies for them ---

    def states(self, wanted: Callable[[State], object]) -> list[str]:
        """Return the states of this capability set that can be asked for and for which it holds."""
        return [row.name for row in self.machine.states if row.settable and wanted(row)]

    def transfer(self, state: str) -> str:
        """Return what is streamed in a state: "read", "write" or "none"."""
        return self.spec.session(self.spec.state(state).session).transfer

    def ends(self, kind: str) -> list[str]:
        """Return the states in which the end of the stream is of this kind."""
        return [
            name
            for name in self.states(lambda _: True)
            if (end := self.spec.stream_end(name)) is not None and end.kind == kind
        ]

    def quiet(self) -> str:
        """Return a state without a session in which the device is stopped."""
        return self.states(
            lambda row: (
                self.transfer(row.name) == "none"
                and not self.spec.permits_role(row.name, "state_change")
            )
        )[0]

    def writing(self) -> list[str]:
        """Return the states in which a stream is written."""
        return self.states(lambda row: self.transfer(row.name) == "write")

    def good_stream(self) -> bytes:
        """Return a whole stream of a device that was driven."""
        if self._good is None:
            with self.trial(seed=77) as source:
                source.drive(3)
                source.ask(self.ends("final")[0])
                self._good = source.read_all()
        return self._good


class Trial:
    """A device, its engine and its guest.

    Args:
        setup: What is tried.
        seed: What its driver does.
        listens_to: Which interrupts its guest listens to.

    Attributes:
        device: The device.
        engine: Its engine.
        guest: Its guest.
        clock: The device's time.
    """

    def __init__(self, setup: Setup, seed: int, listens_to: Listens = "all") -> None:
        self.setup = setup
        self.spec = setup.spec
        # As on two hosts: what the time is on one states nothing on the other.
        self.clock = Clock(1000.0 * (1 + 1000 // (1 + seed)))
        self.rng = random.Random(seed)
        self.device = setup.factory(spec=setup.spec, capabilities=setup.flags, clock=self.clock)
        self.engine = Engine(setup.spec, setup.flags, self.device, observers=[self._note])
        self._last = "it was made"
        self.guest = Guest(listens_to)
        self.guest.connect(self.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        """Give all back; whatever was raised is reported where the device was."""
        if isinstance(error, ObligationViolatedError):
            if not error.place or error.several:
                error.several = True
                error.place = "; ".join(filter(None, (error.place, self.place)))
        elif isinstance(error, Exception):
            error.add_note(f"{type(self.device).__name__}{in_hook(error)}: {self.place}")
        self.close()

    def _note(self, record: Record) -> None:
        if record.phase == "started" and record.kind != "request":
            self._last = f"arc {record.arc}" if record.arc is not None else f"a {record.kind}"

    @property
    def place(self) -> str:
        """Where the device is, and what has happened to it last, in words."""
        names = ",".join(self.setup.machine.names)
        return f"a device with {names} is in {self.engine.state} after {self._last}"

    def close(self) -> None:
        """Give all back."""
        with contextlib.suppress(Exception):
            self.device.close()
        self.guest.close()

    # --- acting ---

    def hold(self, number: str, holds: object, words: str) -> None:
        """Raise `ObligationViolatedError` unless this holds, with where the device is."""
        if not holds:
            raise ObligationViolatedError(number, words, self.place)

    @property
    def where(self) -> str:
        """The state, and the capability set, for messages."""
        return f"{self.engine.state} ({','.join(self.setup.machine.names)})"

    def drive(self, times: int = 1, *, thorough: bool = False) -> None:
        """Do what a driver does, and let some time pass; `thorough`: see `Guest.thorough`."""
        self.guest.thorough = thorough
        try:
            for _ in range(times):
                self.setup.drive(self.device, self.guest, self.rng)
                self.wait(0.01)
        finally:
            self.guest.thorough = False

    def begin(self) -> None:
        """Do what a driver does, and let no time pass: what it begins is still under way."""
        self.setup.drive(self.device, self.guest, self.rng)

    def wait(self, seconds: float) -> None:
        """Let time pass, and the device do what is due."""
        self.clock.now += round(seconds * _UNROUND / _TICK) * _TICK
        for _ in range(8):
            deadline = self.device.deadline()
            if deadline is None or deadline > self.clock.now:
                break
            self.device.tick()

    def ask(self, target: str | int) -> None:
        """Ask for a state; arcs that fail by the device's own doing are held to D11, and retried.

        Raises:
            RequestFailedError: It fails again and again.
        """
        for left in reversed(range(MAX_TRIES)):
            try:
                self.engine.set_state(target)
            except RequestFailedError as failure:
                if failure.event.name != "arc_failed" or not left:
                    raise
                self.coherent(f"after {failure.arc} failed")
            else:
                break
        self.coherent()

    def coherent(self, when: str = "") -> None:
        """Hold what the device offers against what the table specifies for the state it is in."""
        state, device = self.engine.state, self.device
        transfer, end = self.setup.transfer(state), self.spec.stream_end(state)
        at = f"in {self.where} {when}".strip()
        self.hold(
            "D1",
            _works(lambda: device.stream_read(0), busy=transfer == "read") == (transfer == "read"),
            f"{at}: a stream can{'not' if transfer == 'read' else ''} be read",
        )
        self.hold(
            "D1",
            _works(lambda: device.stream_write(b"")) == (transfer == "write"),
            f"{at}: a stream can{'not' if transfer == 'write' else ''} be written",
        )
        informs = end is not None and end.precopy_info
        self.hold(
            "S3",
            _works(device.precopy_info) == informs,
            f"{at}: how much is left is {'not ' if informs else ''}reported",
        )
        if transfer != "write" and self.spec.state(state).settable:
            self.estimate(at)

    def estimate(self, at: str) -> int:
        """Return how much the device reports is left to be read once it is stopped."""
        try:
            size = self.device.stop_copy_length()
        except Exception as error:
            words = f"{at}: how much will be left is not known{in_hook(error)}: {described(error)}"
            raise ObligationViolatedError("S3", words, self.place) from error
        self.hold("S3", 0 <= size < 1 << 64, f"{at}: {size} bytes are reported to be left")
        return size

    def reach(self, state: str) -> None:
        """Come to a state from a fresh start; where a stream is to be written, write nothing."""
        if self.engine.state != state:
            self.ask(state)

    # --- streams ---

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; nothing if the device lets nothing be read for now."""
        return self.try_read(size) or b""

    def try_read(self, size: int) -> bytes | None:
        """Read up to `size` bytes; None if the device lets nothing be read for now.

        While a session can still grow that is permitted: a client goes on with the rest once the
        device is stopped. A read that fails is made again, and has lost nothing.
        """
        end, error = self.spec.stream_end(self.engine.state), None
        for _ in range(MAX_TRIES):
            try:
                return b"".join(bytes(part) for part in self.device.stream_read(size))
            except CommandError as refusal:
                error = refusal
                inside = refusal.occasion != "out_of_session"
                why = f"{in_hook(refusal)}: {described(refusal)}"
                self.hold("D1", inside, f"in {self.where} a stream cannot be read{why}")
        lasts = end is not None and end.kind == "final"
        self.hold(
            "S1",
            not lasts,
            f"in {self.where} a stream cannot be read to its end{in_hook(error)}: "
            f"{described(error)}",
        )
        return None

    def read_all(self, piece: int = _CHUNK) -> bytes:
        """Read until there is nothing more. No time passes, so there is an end to it."""
        pieces, size = [], 0
        most = _ENDLESS * max(1 << 20, self.estimate(f"in {self.where}"))
        while True:
            got = self.read(piece)  # a read that is let go on with later ends this for now
            pieces.append(got)
            size += len(got)
            self.hold("S3", size <= most, f"{size} bytes read in {self.where}, and still no end")
            self.hold(
                "S3", len(got) <= piece, f"{len(got)} bytes read where {piece} were asked for"
            )
            if len(got) < piece:
                return b"".join(pieces)

    def write_all(self, data: bytes, pieces: Sequence[int] = (_CHUNK,)) -> bool:
        """Write in pieces of these sizes, over and over; return whether all was taken."""
        at = turn = 0
        taken = True
        while at < len(data):
            size = pieces[turn % len(pieces)]
            try:
                self.device.stream_write(data[at : at + size])
            except CommandError:
                # The next writes are made all the same, as a careless client would.
                taken = False
            at += size
            turn += 1
        return taken

    # --- looking ---

    def observe(self, *, thorough: bool = False) -> Seen:
        """Return all that can be seen of the device from outside, but for its stream."""
        return look(self.device, thorough=thorough)

    def world(self) -> dict[str, Any]:
        """Return what a device could have changed outside itself."""
        return {
            "memory": hashlib.blake2b(self.guest.memory.view).digest(),
            "peer": hashlib.blake2b(self.guest.peer.view).digest(),
        }

    def snapshot(self) -> bytes:
        """Return the whole stream of the device as it is; it ends stopped, without session."""
        quiet = self.setup.quiet()
        self.ask(quiet)
        self.ask(self.setup.ends("final")[0])
        stream = self.read_all()
        self.ask(quiet)
        return stream

    def idle(self) -> None:
        """Let time pass in the present state, and hold what happened against the table."""
        before, seen = self.world(), self.observe()
        self.guest.interrupts()
        state = self.engine.state
        self.wait(1.0)
        after, came = self.world(), self.guest.interrupts()
        permits = {row.role for row in self.spec.activities if self.spec.permits(state, row.name)}
        if "guest_dma" not in permits:
            self.hold("D3", before["memory"] == after["memory"], f"DMA was done in {self.where}")
        if "peer_dma" not in permits:
            self.hold("D4", before["peer"] == after["peer"], f"DMA to a peer in {self.where}")
        if "interrupt" not in permits:
            self.hold("D3", not came, f"interrupts raised in {self.where}: {came}")
        if "state_change" not in permits:
            now = self.observe()
            changed = unlike(seen, now, "first", "then")
            self.hold("D5", not changed, f"changed in {self.where}: {changed}")

    def poke(self) -> None:
        """Do what a driver does in a state in which the device may change nothing."""
        if not self.spec.permits_role(self.engine.state, "state_change"):
            seen = self.observe()
            with self.guest.watching(self.device) as changed:
                self.begin()
            before = self.guest.contents()
            self.wait(1.0)
            changed |= self.guest.changed_since(before)
            now = self.observe()
            # Plain memory that a client maps is out of anybody's hands, and what a client restores
            # while the device is stopped is not the device's doing.
            ours = {
                sight: what
                for sight, what in seen.items()
                if not sight.memory and not sight.stopped
            }
            differ = unlike(ours, now, "first", "then")
            self.hold("D5", not differ, f"could be changed in {self.where}: {differ}")
            self.hold("D3", not changed, f"DMA was started in {self.where}")


def _works(call: Callable[[], object], *, busy: bool = False) -> bool:
    """Return whether something is answered; `busy`: one that fails for now counts as well."""
    try:
        call()
    except CommandError as refusal:
        return busy and refusal.occasion != "out_of_session"
    return True


def is_errno(failure: RequestFailedError) -> bool:
    """Return whether a failure names an errno that exists."""
    try:
        return errno_number(failure.errno) > 0
    except ValueError:
        return False
