"""Streams that are whole and undamaged as streams, and wrong in what they state.

A checksum protects against accidents on the way. It shows nothing about who made a stream: another
device, another version, or a writer with a mistake. So the streams here have good checksums, and
it is the device itself that must refuse them, or take them over as they are.

Only streams of the kit can be taken apart; of a device with a format of its own nothing is tried.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from vfio_migration.runtime.engine.errors import RequestFailedError
from vfio_migration.runtime.kit.own_state import DEVICE, KIT, WORK
from vfio_migration.runtime.kit.state_stream import END, FRAME, HEADER, MAGIC, MEMORY, SECTION
from vfio_migration.runtime.testing.steps import as_new
from vfio_migration.runtime.testing.trial import ObligationViolatedError, Setup, Trial, require
from vfio_migration.runtime.testing.wording import described, in_hook

_DIGEST: Final = 32
_FLIPPED: Final = 8
"""How many single bits of a state are tried."""


class Frame(NamedTuple):
    """One frame of a stream of the kit.

    Attributes:
        kind: HELLO, MEMORY or SECTION.
        block: Which memory, or which section.
        position: Where in the memory.
        content: What it holds.
    """

    kind: int
    block: int
    position: int
    content: bytes


def frames(stream: bytes) -> list[Frame] | None:
    """Take a whole stream apart, without its END; None if it is not one of the kit."""
    if not stream.startswith(MAGIC):
        return None
    found, at = [], len(MAGIC)
    while at + FRAME.size <= len(stream):
        kind, _, block, length, position, _, _ = FRAME.unpack_from(stream, at)
        at += FRAME.size
        if kind != END:
            found.append(Frame(kind, block, position, stream[at : at + length]))
        at += length
    return found


def joined(rows: list[Frame]) -> bytes:
    """Make a stream of frames, with the checksums and the END that are due."""
    digest, parts, size = hashlib.blake2b(MAGIC, digest_size=_DIGEST), [MAGIC], len(MAGIC)
    end = Frame(END, 0, 0, b"")
    for sequence, (kind, block, position, content) in enumerate([*rows, end]):
        if kind == END:
            position, content = size, digest.digest()
        head = FRAME.pack(kind, 0, block, len(content), position, zlib.crc32(content), sequence)
        digest.update(head if kind == MEMORY else head + content)
        parts += [head, content]
        size += len(head) + len(content)
    return b"".join(parts)


def check_foreign_states(setup: Setup) -> None:
    """S4: a stream with good checksums and wrong contents is refused, or taken over as it is."""
    rows = frames(setup.good_stream())
    if rows is None:
        return
    for what, other in _other_devices(setup, rows):
        with setup.trial(seed=3) as trial:
            taken = _offer(trial, joined(other))
            require("S4", not taken, f"the stream of {what} is taken over")
            trial.engine.reset()
    for what, other in _other_lengths(rows):
        with setup.trial(seed=3) as trial:
            if _offer(trial, joined(other)):
                _given_back(trial, other, what)
                trial.engine.reset()
                as_new(trial, f"a reset after a stream with {what}")
    for what, other in _other_contents(rows):
        with setup.trial(seed=3) as trial:
            if _offer(trial, joined(other)):
                _usable(trial, what)


def _offer(trial: Trial, stream: bytes) -> bool:
    """Write a stream; return whether it is taken over."""
    setup = trial.setup
    trial.reach(setup.writing()[0])
    trial.write_all(stream)
    try:
        trial.ask(setup.quiet())
    except RequestFailedError:
        return False
    return True


def _given_back(trial: Trial, given: list[Frame], what: str) -> None:
    """Hold the state that a device saves against the one it took over."""
    mine, saved = _section(given, DEVICE), None
    try:
        saved = _section(frames(trial.snapshot()) or [], DEVICE)
    except ObligationViolatedError:
        raise
    except Exception as error:
        words = f"{what} is taken over, and then the device cannot be saved{in_hook(error)}"
        raise ObligationViolatedError("S4", f"{words}: {described(error)}") from error
    whole = mine == saved
    more = "" if saved is None or mine is None else f" ({len(mine)} bytes in, {len(saved)} out)"
    words = f"{what} is taken over, and is not what the device then saves{more}"
    require("S4", whole, f"{words}: `load` does not look at how much there is")


def _usable(trial: Trial, what: str) -> None:
    """Look at all of a device that took a state over, and have it saved again."""
    try:
        trial.observe(thorough=True)
        trial.snapshot()
    except ObligationViolatedError:
        raise
    except Exception as error:
        words = f"{what} is taken over, and then the device cannot be used{in_hook(error)}"
        raise ObligationViolatedError(
            "S4", f"{words}: {described(error)}; `load` is to refuse it"
        ) from error


def _section(rows: list[Frame], block: int) -> bytes | None:
    for row in rows:
        if row.kind == SECTION and row.block == block:
            return row.content
    return None


def _with(rows: list[Frame], kind: int, block: int, content: bytes) -> list[Frame]:
    return [
        row._replace(content=content) if (row.kind, row.block) == (kind, block) else row
        for row in rows
    ]


def _other_devices(setup: Setup, rows: list[Frame]) -> Iterator[tuple[str, list[Frame]]]:
    """Yield streams that say they are of something else."""
    header: dict[str, Any] = json.loads(rows[0].content)

    def with_header(**more: Any) -> list[Frame]:
        return _with(rows, HEADER, 0, json.dumps(header | more).encode())

    yield "a device of another name", with_header(device="another device")
    yield "a device with another identity", with_header(id=[0xFFFE, 0xFFFE])
    yield (
        "a device with other memories",
        with_header(memories=[*header["memories"], ["more", 4096]]),
    )
    with setup.trial() as trial:
        loads = [int(one) for one in getattr(trial.device, "loads", ())]
    unknown = 1 + max([int(header["version"]), *loads])
    yield f"version {unknown} of the device", with_header(version=unknown)
    yield "a device that does not name itself", _with(rows, HEADER, 0, b"[]")


def _other_lengths(rows: list[Frame]) -> Iterator[tuple[str, list[Frame]]]:
    """Yield streams in which the state is shorter, or longer, than what `save` gave out."""
    state = _section(rows, DEVICE) or b""
    rows = _without_work(rows)
    for length in sorted({0, len(state) // 2, max(0, len(state) - 1)} - {len(state)}):
        what = f"a state of {length} bytes, the first of {len(state)},"
        yield what, _with(rows, SECTION, DEVICE, state[:length])
    for more in (b"\0", b"\xff", bytes(64)):
        what = f"a state of {len(state) + len(more)} bytes, {len(state)} and {len(more)} more,"
        yield what, _with(rows, SECTION, DEVICE, state + more)
    kit = _section(rows, KIT) or b""
    yield "what the kit saves, cut off,", _with(rows, SECTION, KIT, kit[:-1])


def _other_contents(rows: list[Frame]) -> Iterator[tuple[str, list[Frame]]]:
    """Yield streams in which the state has its length, and other contents."""
    state, rng = _section(rows, DEVICE) or b"", random.Random(13)
    if not state:
        return
    rows = _without_work(rows)
    size = len(state)
    yield f"a state of {size} zeroes", _with(rows, SECTION, DEVICE, bytes(size))
    yield f"a state of {size} bytes 0xff", _with(rows, SECTION, DEVICE, b"\xff" * size)
    yield f"a state of {size} random bytes", _with(rows, SECTION, DEVICE, rng.randbytes(size))
    for _ in range(_FLIPPED):
        place, bit, wrong = rng.randrange(size), rng.randrange(8), bytearray(state)
        wrong[place] ^= 1 << bit
        what = f"a state whose byte {place} has bit {bit} the other way round"
        yield what, _with(rows, SECTION, DEVICE, bytes(wrong))


def _without_work(rows: list[Frame]) -> list[Frame]:
    """Leave out work that was put off, which a state that is wrong would have done all the same."""
    return [row for row in rows if (row.kind, row.block) != (SECTION, WORK)]
