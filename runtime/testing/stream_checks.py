"""Checks of the streams of a device: the obligations of S, and those of D about streams.

As all checks they walk the table, and raise `ObligationViolatedError`.
"""

from __future__ import annotations

import itertools
import mmap
import random

from vfio_migration.runtime.engine.errors import RequestFailedError
from vfio_migration.runtime.kit.interrupts import MSI, MSIX
from vfio_migration.runtime.testing.guest import Listens
from vfio_migration.runtime.testing.observe import not_arrived, unlike
from vfio_migration.runtime.testing.steps import (
    as_new,
    finish_alike,
    go_on_alike,
    interrupts_in_words,
    resumed,
)
from vfio_migration.runtime.testing.trial import MAX_TRIES, Setup, Trial, is_errno, require
from vfio_migration.runtime.testing.wording import fails, where_in_words


def check_migration(setup: Setup) -> None:
    """S1, S2, S5: what arrives is the whole state, however cut; the source is unharmed."""
    pieces = ((1,), (7, 64), (1 << 20,))
    growing = [*setup.ends("temporary"), None]
    ways = itertools.product(_guests(setup), enumerate(growing), setup.ends("final"))
    for seed, (listens_to, (number, begin), final) in enumerate(ways):
        # With all work done, and with some still to be done; both ways if there is but one.
        for busy in (False, True) if len(growing) == 1 else (bool(number % 2),):
            _migrates(setup, seed, listens_to, begin, final, pieces[number % len(pieces)], busy)


def _guests(setup: Setup) -> tuple[Listens, ...]:
    """Return the ways to listen to interrupts that can make a difference to the device."""
    with setup.trial() as trial:
        irq = trial.device.interrupts
        messages = irq.count(MSI) or irq.count(MSIX)
        return ("all", "line", "nothing") if messages else ("all", "nothing")


def _migrates(
    setup: Setup,
    seed: int,
    listens_to: Listens,
    begin: str | None,
    final: str,
    pieces: tuple[int, ...],
    busy: bool,
) -> None:
    with setup.trial(seed, listens_to) as source:
        source.guest.set_up(source.device)
        source.drive(3, thorough=True)
        stream = b""
        if begin is not None:
            source.reach(begin)
            for size in (1 << 16, 5, 1 << 16):
                stream += source.read(size)
                source.drive(thorough=True)
            stream += source.read(100)
        if busy:
            # Not waited for: it is still to be done when the device is stopped. Else all is done,
            # and what the end of work leaves behind, such as a line that is up, is what arrives.
            source.begin()
        _follow(source, final)
        seen = source.observe()
        left = source.estimate(f"in {source.where}")
        rest = source.read_all(4093)
        enough = bool(left) or not rest
        require("S3", enough, f"nothing is reported to be left, and {len(rest)} bytes are read")
        more = b"".join(source.read(100) for _ in range(3))
        require("S3", not more, "there is more after the end of the stream")
        require("D5", source.observe() == seen, "streaming changed the device")
        _arrives(setup, source, stream + rest, pieces, 99 + seed)


def _follow(source: Trial, final: str) -> None:
    """Go on to the final end of stream, by arcs that keep the session."""
    source.wait(0.0)
    source.ask(final)


def _arrives(
    setup: Setup, source: Trial, stream: bytes, pieces: tuple[int, ...], seed: int = 99
) -> None:
    seen = source.observe(thorough=True)
    try:
        target = resumed(setup, stream, pieces, source.guest.listens_to)
    except RequestFailedError as failure:
        require("S1", False, f"a whole stream is refused: {fails(failure)}")
        return
    with target:
        target.guest.take_over_memory(source.guest)
        differ = not_arrived(seen, target.observe(thorough=True))
        require("S1", not differ, differ)
        again = source.snapshot()
        require("S1", target.snapshot() == again, "the state is not what the source had")
        require("S1", source.snapshot() == again, "saving a state twice gives two states")
        # Both go on alike: nothing of the state was only in the source's memory of it.
        for trial in (source, target):
            trial.ask(setup.spec.initial)
        if source.guest.listens_to == "nothing":
            # What was raised while nobody listened is reported to anybody who does first.
            for trial in (source, target):
                trial.guest.listen(trial.device)
            here, there = source.guest.raised(), target.guest.raised()
            described = interrupts_in_words(source, here, there)
            require(
                "S1", here == there, f"interrupts that were kept have not all arrived: {described}"
            )
        finish_alike(source, target, "source and destination")
        go_on_alike(source, target, "source and destination", seed=seed, thorough=True)


def check_mapped_memory(setup: Setup) -> None:
    """S1: what a client or a peer writes through a map, unseen by the device, arrives too."""
    for begin in (*setup.ends("temporary"), None):
        for final in setup.ends("final"):
            with setup.trial() as source:
                source.drive()
                stream = b""
                if begin is not None:
                    source.reach(begin)
                    stream = source.read_all()
                if not _scribble(source):
                    return
                _follow(source, final)
                seen = source.observe()
                stream += source.read_all()
                try:
                    target = resumed(setup, stream)
                except RequestFailedError as failure:
                    require("S1", False, f"a whole stream is refused: {fails(failure)}")
                    return
                with target:
                    now = target.observe()
                memory = {sight: what for sight, what in seen.items() if sight.memory}
                lost = unlike(memory, now, "source", "destination")
                require("S1", not lost, f"a write through a map is lost: {lost}")


def _scribble(trial: Trial) -> bool:
    """Write to memory of the device as a client does that has mapped it; return if there is any."""
    done = False
    for region in trial.device.regions:
        for area in region.areas if region.mappable else ():
            with mmap.mmap(region.fd, region.fd_offset + area.offset + area.size) as mapped:
                for at in (0, area.size // 2, area.size - 1):
                    mapped[region.fd_offset + area.offset + at] ^= 0xFF
            done = True
    return done


def check_ends_of_stream(setup: Setup) -> None:
    """S3: a temporary end of stream differs from the final one; initial bytes only fall."""
    for state in setup.ends("temporary"):
        with setup.trial() as trial:
            trial.drive(2)
            trial.reach(state)
            left = trial.device.precopy_info().initial
            for size in (1, 4096, 1 << 20, 1 << 20):
                data = trial.try_read(size)
                if data is None:
                    break  # nothing can be read while it runs: there is no end to distinguish
                info = trial.device.precopy_info()
                require("S3", info.initial <= left, f"initial bytes rose to {info.initial}")
                left = info.initial
                short = len(data) < size
                left_over = info.initial + info.dirty
                require(
                    "S3", not (short and left_over), f"a short read; {left_over} bytes are left"
                )
                if info.initial + info.dirty == 0:
                    require("S3", not trial.read(1), "nothing is left, and something is read")
                if not short:
                    trial.drive()


def check_bad_streams(setup: Setup) -> None:
    """S4: what is cut off, damaged or too long never leads to a running device."""
    good = setup.good_stream()
    cuts = sorted({0, 1, len(good) // 3, len(good) // 2, len(good) - 33, len(good) - 1})
    for cut in cuts:
        if 0 <= cut < len(good):
            _refused(setup, good[:cut], f"{cut} of {len(good)} bytes", rest=good[cut:])
    rng = random.Random(11)
    places = {*range(min(len(good), 40)), *range(max(0, len(good) - 60), len(good))}
    places |= {rng.randrange(len(good)) for _ in range(40)}
    for place in sorted(places):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.randrange(8)
        _refused(setup, bytes(bad), f"byte {place} damaged")
    half = len(good) // 2
    _refused(setup, good[:half] + good[half + 1 :], "a byte left out")
    _refused(setup, good[:half] + b"\0" + good[half:], "a byte put in")
    _refused(setup, good + b"\0", "a byte too many")
    _refused(setup, bytes(len(good)), "zeroes")


def _refused(setup: Setup, stream: bytes, what: str, rest: bytes | None = None) -> None:
    with setup.trial(seed=3) as trial:
        trial.drive()
        judge = setup.writing()[0]
        trial.reach(judge)
        trial.write_all(stream)
        situation = trial.engine.situation
        refused_there(trial, what)
        now = trial.engine.situation
        lost = setup.spec.event("arc_failed_for_good").to
        back = now == situation
        words = f"{what}: refused, which left the device in {where_in_words(now)}"
        require("D11", back or now.state == lost, words)
        trial.idle()
        if back:
            trial.coherent(f"after {what}")
        if back and rest is not None:
            require("D11", trial.write_all(rest), f"{what}: the rest is refused")
            try:
                trial.ask(setup.spec.initial)
            except RequestFailedError as failure:
                require("D11", False, f"{what}: with the rest, {fails(failure)}")
            return
        trial.engine.reset()
        as_new(trial, f"a reset after {what}")


def refused_there(trial: Trial, what: str) -> None:
    """Try to leave a state in which a bad stream was written: that has to fail, again and again."""
    judge = trial.engine.state
    for _ in range(MAX_TRIES):
        try:
            trial.engine.set_state(trial.spec.initial)
        except RequestFailedError as failure:
            require("S4", is_errno(failure), f"{what}: refused with errno {failure.errno}")
            own = failure.arc.from_ == judge
            require("S4", own, f"{what}: taken over, and only then {fails(failure)}")
            if failure.event.name != "arc_failed":
                return
        else:
            require("S4", False, f"{what}: the device runs on it")


def check_strangers(setup: Setup) -> None:
    """S4: the stream of another kind of device is refused."""
    from vfio_migration.runtime.kit.pci_device import Identity, PciDevice

    class Stranger(PciDevice):
        name = "stranger"
        identity = Identity(vendor=0xFFFE, device=0xFFFE)

    other = Setup(Stranger, setup.spec, setup.flags)
    _refused(setup, other.good_stream(), "the stream of a stranger")


def check_sessions_do_not_mix(setup: Setup) -> None:
    """D2: what was read or written of a session that was given up does not reach the next."""
    good = setup.good_stream()
    quiet, writing = setup.quiet(), setup.writing()[0]
    for state in (*setup.ends("temporary"), *setup.ends("final")):
        with setup.trial() as trial:
            trial.drive(2)
            trial.reach(state)
            trial.read(60)
            trial.ask(quiet)
            _arrives(setup, trial, trial.snapshot(), (1 << 16,))
    with setup.trial() as trial:
        trial.reach(writing)
        trial.write_all(good[: len(good) // 2])
        trial.engine.reset()
        trial.reach(writing)
        trial.write_all(good)
        try:
            trial.ask(quiet)
        except RequestFailedError as failure:
            require("D2", False, f"half a stream before a reset is in the way: {fails(failure)}")
