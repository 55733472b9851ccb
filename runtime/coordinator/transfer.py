"""Transfers the streams of all devices at once: in passes while they run, then the rest.

Each device has a thread of its own, which does nothing but move its stream; the thread that
coordinates watches them, reports how far they are, and decides when pre-copy has done enough.

Pre-copy ends when the time the rest is expected to take is within the downtime that is allowed, or
when more passes bring nothing. What is left is asked of the device (MIG_DATA_SIZE, of Linux); one
that does not know has as much left as it streamed in its last pass, if that came to an end by
itself.

What a device reports of itself is no licence. A pass goes on for as long as what it states is left
falls with what is read; it brings no more than it said when it began, nor twice what any pass
before it brought. Pre-copy as a whole, the rest, and the time for which devices are held still have
bounds of their own, in bytes and seconds, in which no device has a say.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from vfio_migration.runtime.client import ClientError
from vfio_migration.runtime.coordinator.bandwidth import Bandwidth
from vfio_migration.runtime.coordinator.endpoint import Endpoint
from vfio_migration.runtime.coordinator.errors import (
    CancelledError,
    CoordinatorError,
    StepFailedError,
)
from vfio_migration.runtime.coordinator.events import Event, Report
from vfio_migration.runtime.coordinator.pump import End, Meter, Stream
from vfio_migration.runtime.coordinator.settings import Settings
from vfio_migration.runtime.files.compression import codec

_REPORT_EVERY_S: Final = 0.1
"""How often progress is reported, in seconds."""
_REST: Final = 0.02
"""How long a device is left alone that had nothing to stream."""
_STALLED: Final = 4
"""After how many passes that brought nothing pre-copy is given up."""
_MORE: Final = "allow a longer downtime, give it more bandwidth, or stop them all the same"
_LEAST_PASS: Final = 1 << 16
MAX_PASS_S: Final = 10.0
"""After how many seconds a pass ends of a device that cannot report how much it has, or that
has not become less with what was read."""
_LEAST_FALL: Final = 1 / 8
"""By which part of what was read the rest of a pass has to become less, for the pass to go on."""
_MORE_DOWNTIME: Final = (
    "allow a longer downtime: --max-downtime; or see why so much is left (docs/migrating.md)"
)


class _Worker(threading.Thread):
    """Moves one stream; ends with its errors kept.

    Args:
        stream: The stream.
        stop: Set if no stream is to be moved any further.
        news: Is set when there is something new.
        enough: Says whether there is to be no further pass; None to move the rest, and no passes.
        most: How many bytes all passes bring at most.
    """

    def __init__(
        self,
        stream: Stream,
        stop: threading.Event,
        news: threading.Event,
        enough: Callable[[], bool] | None = None,
        most: int = 0,
    ) -> None:
        super().__init__(name=f"stream of {stream.source.label}", daemon=True)
        self.stream = stream
        self.error: BaseException | None = None
        self.left: int | None = None
        self.initial = 0
        self.rounds = 0
        self.done = False
        self._stop_all = stop
        self._news = news
        self._enough = enough
        self._max_bytes = most

    def run(self) -> None:
        """Move the stream: once to its end, or pass after pass until asked to stop."""
        try:
            if self._enough is None:
                self.stream.run(None, self._stop_all)
                return
            left = self.stream.source.left()
            longest = 0
            while not (self._stop_all.is_set() or self._enough()):
                ended, left = self._pass(left, longest)
                last = self.stream.pass_bytes
                longest = max(longest, last)
                if left is not None:
                    self.left = left
                elif ended:
                    self.left = last
                elif not self._stop_all.is_set():
                    self.left = None  # it has more, and nobody knows how much
                info = self.stream.source.precopy_left()
                self.initial = 0 if info is None else info.initial
                self.rounds += 1
                self._news.set()
                if self.stream.pass_bytes < _LEAST_PASS:
                    self._stop_all.wait(_REST)
        except BaseException as error:
            self.error = error
            self._stop_all.set()
            if not isinstance(error, Exception):
                raise
        finally:
            self.done = True
            self._news.set()

    def _pass(self, left: int | None, longest: int) -> tuple[bool, int | None]:
        """Move one pass.

        It is what there was to stream when it began: a device that changes faster than it is read
        would never come to an end of it.

        Args:
            left: How much the device reports it has.
            longest: How many bytes the longest pass before it brought; 0 if there was none.

        Returns:
            Whether the stream came to its end for now, and how much is left.
        """
        stream, goes_on = self.stream, False
        room = self._max_bytes - stream.bytes
        bound = room if left is None else min(left, room)
        if longest:
            bound = min(bound, 2 * longest)
        bound = max(bound, _LEAST_PASS)
        while True:
            before = stream.pass_bytes if goes_on else 0
            ended = stream.run(bound - before, self._stop_all, seconds=MAX_PASS_S, goes_on=goes_on)
            was, left = left, stream.source.left()
            if ended or self._stop_all.is_set() or stream.pass_bytes >= bound:
                return ended, left
            read = stream.pass_bytes - before
            if was is None or left is None or not read or was - left < read * _LEAST_FALL:
                return False, left
            goes_on = True


class Transfer:
    """All streams of a migration.

    Args:
        pairs: Both ends of each device.
        settings: How to migrate.
        report: Called with each event.
        cancelled: Set when the migration is to be given up.

    Attributes:
        streams: The streams, in the order of the pairs.
        delivered: Every stream was read to its final end, and every write of it was acknowledged.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Endpoint, End]],
        settings: Settings,
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        self._settings = settings
        self._report = report
        self._cancelled = cancelled
        bandwidth = Bandwidth(settings.bandwidth)
        self._bandwidth = bandwidth
        self.streams = tuple(
            Stream(
                source,
                destination,
                chunk=bandwidth.piece(settings.chunk, len(pairs)),
                bandwidth=bandwidth,
                codec=None if settings.codec == "none" else codec(settings.codec),
                max_bytes=settings.byte_bound,
            )
            for source, destination in pairs
        )
        self._meter = Meter()
        self._reported_at = self._overhead = 0.0
        self.delivered = False

    def passes(self, overhead: float = 0.0) -> float | None:
        """Pre-copy; return for how long the devices will be stopped, if that can be known.

        Args:
            overhead: How many seconds all that is no transfer takes meanwhile.

        Raises:
            ClientError: Of one of the devices.
            CancelledError: It was cancelled.
            StepFailedError: It does not converge, and that is a reason to give up.
        """
        streams = [one for one in self.streams if one.source.transfers() == "read"]
        if not streams:
            return None
        self._overhead = overhead
        stop, news = threading.Event(), threading.Event()
        workers: list[_Worker] = []

        until = time.monotonic() + self._settings.max_pre_copy
        most = self._settings.byte_bound // 2

        def enough() -> bool:
            # One that has had its passes would change unseen while others are still at theirs.
            rounds = min(one.rounds for one in workers)
            return rounds >= self._settings.max_passes or any(one.bytes >= most for one in streams)

        workers += [_Worker(one, stop, news, enough, most) for one in streams]
        best, useless, seen, renewals = float("inf"), 0, 0, 0
        try:
            self._begin(workers)
            while True:
                news.wait(_REPORT_EVERY_S)
                news.clear()
                expected = self._progress("passes", workers)
                if stop.is_set():
                    break
                rounds = min(one.rounds for one in workers)
                # What a device announces is to be read while it runs, if its passes get it done.
                if rounds and not any(one.initial for one in workers):
                    if expected is not None and expected <= self._settings.downtime:
                        break
                    if self._is_little(workers):
                        break
                if renewals != (now := sum(one.source.renewals for one in streams)):
                    best, useless, renewals = float("inf"), 0, now
                if rounds > seen:
                    if all(one.left is not None for one in workers):
                        useless = useless + 1 if expected is None or expected >= best * 0.95 else 0
                    best, seen = min(best, best if expected is None else expected), rounds
                if time.monotonic() >= until:
                    bound: str | None = f"longer than {self._settings.max_pre_copy:g} s"
                elif any(one.bytes >= most for one in streams):
                    bound = f"more than {most} bytes of one of them"
                else:
                    bound = None
                if bound or rounds >= self._settings.max_passes or useless >= _STALLED:
                    if self._settings.if_slow == "cancel":
                        why = _slow(rounds, expected, self._settings.downtime, bound)
                        waits = [one.stream.source.label for one in workers if one.initial]
                        if waits and not bound:
                            why = _unread(rounds, waits)
                        raise StepFailedError(why, hints=[_MORE])
                    break
        finally:
            stop.set()
            self._end(workers)
        # What was sent is paid for while the devices run: they need not be stopped for it.
        self._cancelled.wait(self._bandwidth.spend(0))
        return self._progress("passes", workers)

    def rest(self, deadline: float = math.inf) -> None:
        """Transfer what is left, to the final end of every stream. Raises as `passes`.

        Args:
            deadline: By when it has to be done, as `time.monotonic` counts.

        When this returns, every stream was read to its final end, that end was confirmed by a read
        that brought nothing, and every write of it was acknowledged with success.
        """
        stop, news = threading.Event(), threading.Event()
        workers = [_Worker(one, stop, news) for one in self.streams]
        try:
            self._begin(workers)
            while not all(one.done for one in workers):
                news.wait(_REPORT_EVERY_S)
                news.clear()
                self._progress("rest", workers)
                check_downtime(deadline, self._settings)
        except StepFailedError:
            stop.set()
            raise
        finally:
            if any(one.error for one in workers) or self._cancelled.is_set():
                stop.set()
            self._end(workers)
        if cut := [one.source.label for one in self.streams if not one.whole]:
            raise StepFailedError(
                f"{', '.join(cut)}: the stream was not read to its final end", cut
            )
        self.delivered = True
        self._progress("rest", workers)

    # --- inside ---

    def _begin(self, workers: Sequence[_Worker]) -> None:
        self._meter.add(sum(one.bytes for one in self.streams))
        for one in workers:
            one.start()

    def _end(self, workers: Sequence[_Worker]) -> None:
        """Wait for all, and raise what they met; one that is interrupted does not wait."""
        met = sys.exc_info()[1]
        if met is not None and not isinstance(met, Exception):
            return
        for one in workers:
            if one.ident is not None:
                one.join()
        errors = [one.error for one in workers if one.error is not None]
        if errors:
            raise _all_of(errors)
        if self._cancelled.is_set():
            raise CancelledError("cancelled")

    def _is_little(self, workers: Sequence[_Worker]) -> bool:
        """Return whether so little is left that how fast it went until now states nothing of it.

        A device that does not change has nothing to stream, and the rate falls while it waits.
        """
        left = [one.left for one in workers if one.left is not None]
        if len(left) < len(workers) or max(left) > _LEAST_PASS:
            return False
        limit = self._bandwidth.rate
        seconds = 0.0 if limit is None else sum(left) / limit
        return seconds + self._overhead <= self._settings.downtime

    def _progress(self, step: str, workers: Sequence[_Worker]) -> float | None:
        """Report how far it is; return for how long the devices would be stopped if stopped now."""
        if self._cancelled.is_set():
            raise CancelledError("cancelled")
        total = sum(one.bytes for one in self.streams)
        self._meter.add(total)
        rate = shown = self._meter.rate
        if self._bandwidth.rate is not None:
            shown = min(rate, self._bandwidth.rate)
            # One that has nothing to stream would be streamed at the limit.
            rate = shown or float(self._bandwidth.rate)
        known = [one.left for one in workers if one.left is not None]
        left = sum(known) if len(known) == len(workers) else None
        expected = left / rate + self._overhead if left is not None and rate > 0 else None
        now = time.monotonic()
        if now - self._reported_at < _REPORT_EVERY_S and not all(one.done for one in workers):
            return expected
        self._reported_at = now
        self._report(
            Event(
                "progress",
                {
                    "step": step,
                    "bytes": total,
                    "rate": round(shown),
                    "left": left,
                    "expected_downtime": None if expected is None else round(expected, 6),
                    "devices": [
                        {
                            "device": one.stream.source.label,
                            "pass": one.stream.passes,
                            "bytes": one.stream.bytes,
                            "left": one.left,
                        }
                        for one in workers
                    ],
                },
            )
        )
        return expected


def _all_of(errors: Sequence[BaseException]) -> BaseException:
    """Return one error that names every device that failed, each with what it answered."""
    # What is wrong with the devices is to be stated; what else there is comes along.
    reported = [one for one in errors if isinstance(one, ClientError | CoordinatorError)]
    reasons = {one.why if isinstance(one, CoordinatorError) else str(one): one for one in reported}
    found = next(iter(reported), errors[0])
    if len(reasons) > 1:
        peers = [
            peer
            for one in reasons.values()
            for peer in ([one.peer] if isinstance(one, ClientError) else getattr(one, "peers", ()))
        ]
        hints = [
            hint for one in reported if isinstance(one, CoordinatorError) for hint in one.hints
        ]
        found = StepFailedError(
            "; ".join(reasons), list(dict.fromkeys(peers)), list(dict.fromkeys(hints))
        )
        found.__cause__ = reported[0]
    for one in errors:
        if one is not found and one not in reported:
            found.add_note(f"and besides: {type(one).__name__}: {one}")
    return found


def check_downtime(deadline: float, settings: Settings) -> None:
    """Raise `StepFailedError` if the devices were held still until a deadline."""
    if time.monotonic() >= deadline:
        raise StepFailedError(
            f"the devices were held still for {settings.max_downtime:g} s, the longest that is "
            "allowed, and not all was done by then",
            hints=[_MORE_DOWNTIME],
        )


def _unread(rounds: int, labels: Sequence[str]) -> str:
    return (
        f"after {rounds} passes {', '.join(labels)} still has initial data that is to be read "
        "before the devices are stopped"
    )


def _slow(rounds: int, expected: float | None, wanted: float, bound: str | None = None) -> str:
    if bound is not None:
        return (
            f"pre-copy took {bound}, the most that is allowed, and the devices are not ready to be "
            "stopped"
        )
    much = "nobody knows how long" if expected is None else f"{expected:.2f} s"
    return (
        f"after {rounds} passes the devices would still be stopped for {much}, and {wanted:g} s "
        "are allowed: they change faster than they can be transferred"
    )
