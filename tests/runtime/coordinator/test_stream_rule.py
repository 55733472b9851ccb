"""A short read states that there is no more; what a source gives afterwards is held to that."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.peer_habits import servers as habits
from support.peer_habits.base import RUNNING, STOP, Peer
from support.peer_habits.running import running
from vfio_migration.runtime.client import RefusedError
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailedError, Settings
from vfio_migration.runtime.coordinator.bandwidth import Bandwidth
from vfio_migration.runtime.coordinator.errors import StepFailedError
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.pump import READS, InOrder, Stream
from vfio_migration.runtime.coordinator.save import Saver

SIZE = 70


class Source:
    """A device that brings what a script specifies, read by read; its replies come in any order.

    None in the script is the answer that there is nothing for now.

    Attributes:
        asked: How many reads were asked for.
    """

    transfer = SIZE
    name = label = "s0"

    def __init__(
        self,
        script: list[int | Exception | None],
        *,
        final: bool,
        backwards: bool,
        reports_pauses: bool = False,
    ) -> None:
        self.asked = 0
        self._reports_pauses = reports_pauses
        self._script = iter(script)
        self._final = final
        self._backwards = backwards
        self._under_way: list[Read] = []

    @property
    def client(self) -> Source:
        return self

    def end_is_final(self) -> bool:
        return self._final

    def reports_pauses(self) -> bool:
        return self._reports_pauses

    def begin(self, call) -> Read:
        self.asked += 1
        read = Read(call, next(self._script, 0))
        self._under_way.append(read)
        return read

    def finish(self, read: Read) -> int:
        waiting = self._under_way[::-1] if self._backwards else self._under_way[:]
        for one in waiting:
            one.answer()
            if one is read and not self._backwards:
                break
        self._under_way = [one for one in self._under_way if not one.answered]
        if read.error is not None:
            raise read.error
        assert read.result is not None
        return read.result


class Read:
    """A read that is under way."""

    def __init__(self, call, brings: int | Exception | None) -> None:
        self._call, self._brings = call, brings
        self.answered = False
        self.result: int | None = None
        self.error: Exception | None = None

    def answer(self) -> None:
        if self.answered:
            return
        self.answered = True
        if isinstance(self._brings, Exception):
            self.error = self._brings
            return
        try:
            if self._brings is None:
                self.result = self._call.instead[1]()
                return
            data = bytes(self._brings)
            reply = type("Reply", (), {"message": type("Message", (), {"data": data})})
            self.result = self._call.read(reply)
        except Exception as error:  # noqa: BLE001 - as a client hands it on
            self.error = error


class Sink:
    """A destination that takes everything."""

    transfer = SIZE
    label = "d0"

    def __init__(self) -> None:
        self.written = 0

    @property
    def client(self) -> Sink:
        return self

    def begin(self, call) -> int:
        self.written += call.message.size
        return call.message.size

    def finish(self, _pending) -> None:
        return None


def read_all(
    script: list[int | Exception | None],
    *,
    final: bool = True,
    backwards: bool = False,
    reports_pauses: bool = False,
):
    """Read a stream; return it, its source, and what was written."""
    source = Source(script, final=final, backwards=backwards, reports_pauses=reports_pauses)
    sink = Sink()
    stream = Stream(source, sink, chunk=SIZE, bandwidth=Bandwidth(None))  # type: ignore[arg-type]
    stream.run(None, threading.Event())
    return stream, source, sink.written


@pytest.mark.parametrize("full", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("short", "more", "backwards"),
    [(7, 7, False), (7, 7, True), (7, 70, False), (69, 1, True), (0, 1, False)],
)
def test_data_after_a_short_read_fails_in_stop_copy(full, short, more, backwards) -> None:
    with pytest.raises(StepFailedError, match="s0: its stream goes on behind its end") as failed:
        read_all([SIZE] * full + [short, more], backwards=backwards)
    assert f"brought {short} of 70 bytes" in failed.value.why
    assert f"the next one {more}" in failed.value.why
    assert failed.value.peers == ("s0",)


@pytest.mark.parametrize("full", [0, 1, 2, 5])
def test_a_short_read_in_stop_copy_is_believed_once_one_more_gave_nothing(full: int) -> None:
    stream, source, written = read_all([SIZE] * full + [7, 0])
    assert (stream.whole, written) == (True, SIZE * full + 7)
    assert source.asked >= full + 2


@pytest.mark.parametrize("answer", [RefusedError("s0", "MIG_DATA_READ", "EINVAL")])
@pytest.mark.parametrize("full", [0, 1, 2, 5])
def test_a_short_read_is_not_believed_if_the_next_one_fails(
    full: int, answer: RefusedError
) -> None:
    with pytest.raises(RefusedError, match="EINVAL"):
        read_all([SIZE] * full + [7, answer])


@pytest.mark.parametrize("full", [0, 1, 2, 5])
def test_what_comes_behind_a_known_end_is_not_missed(full: int) -> None:
    removed = RefusedError("s0", "MIG_DATA_READ", "EINVAL")
    stream, _, written = read_all([SIZE] * full + [0, removed])
    assert (stream.whole, written) == (True, SIZE * full)


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_a_short_read_in_pre_copy_is_temporary_and_more_may_come(backwards: bool) -> None:
    stream, source, written = read_all([7, 7], final=False, backwards=backwards)
    assert (stream.whole, written, source.asked) == (False, 14, READS)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_short_read_is_no_end_where_a_pause_is_an_answer_of_its_own(backwards: bool) -> None:
    script = [7, 7, 7, 7, None]
    stream, source, written = read_all(
        script, final=False, backwards=backwards, reports_pauses=True
    )
    assert (stream.whole, written) == (False, 28)
    assert source.asked >= len(script)


@pytest.mark.parametrize("backwards", [False, True])
def test_data_behind_a_pause_is_passed_on_in_its_order(backwards: bool) -> None:
    """The device had something new before the second of two reads."""
    _stream, source, written = read_all(
        [None, 7], final=False, backwards=backwards, reports_pauses=True
    )
    assert (written, source.asked) == (7, READS)


def test_a_short_read_is_the_final_end_where_no_more_can_come_if_pauses_are_reported_too() -> None:
    stream, _source, written = read_all([SIZE, 7, 0], reports_pauses=True)
    assert (stream.whole, written) == (True, SIZE + 7)
    with pytest.raises(StepFailedError, match="its stream goes on behind its end"):
        read_all([7, 7], reports_pauses=True)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_pause_where_no_more_can_come_fails(backwards: bool) -> None:
    with pytest.raises(StepFailedError, match="a temporary end where nothing more can come"):
        read_all([SIZE, None, 0], backwards=backwards, reports_pauses=True)


def test_an_empty_reply_is_a_pause_too() -> None:
    """The text of old has it so, and nothing is lost by it."""
    _stream, source, written = read_all([7, 0, 0], final=False, reports_pauses=True)
    assert (written, source.asked) == (7, 3)


@given(
    st.lists(st.integers(0, SIZE), max_size=12),
    st.booleans(),
    st.booleans(),
    st.permutations(range(12)),
)
def test_in_any_order_of_replies_all_is_passed_on_or_the_rule_is_broken(
    sizes: list[int], final: bool, in_turn: bool, order: list[int]
) -> None:
    """The verdict depends on what the reads brought, in their order, and on nothing else."""
    passed: list[bytes] = []
    held = InOrder(lambda data: passed.append(bytes(data)), SIZE, final=final, label="s0")
    sinks = [held.place()[0] for _ in sizes]
    turns = range(len(sizes)) if in_turn else [one for one in order if one < len(sizes)]
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    short = next((at for at, size in enumerate(sizes) if size < SIZE), len(sizes))
    broken = final and any(sizes[short + 1 :])
    try:
        for number in turns:
            sinks[number](pieces[number])
    except StepFailedError:
        assert broken
        return
    assert not broken
    assert passed == pieces
    assert held.ended == (short < len(sizes))
    assert held.confirmed == (0 in sizes)


# --- over real sockets ---


@pytest.mark.parametrize(
    ("migration", "habit"),
    [
        ("offline", (habits.ReadsShort,)),
        ("live", (habits.ReadsShort,)),
        ("live", (habits.ReadsShort, habits.OffersNoPreCopy)),
        ("offline", (habits.ReadsShort, habits.PadsReads)),
    ],
    ids=str,
)
def test_a_server_that_reads_short_is_not_migrated_and_runs_on(
    tmp_path: Path, migration: str, habit: tuple[type[Peer], ...]
) -> None:
    held = os.urandom(10_000)
    with (
        running(tmp_path, "a", *habit, held=held) as a,
        running(tmp_path, "b", habits.JudgesNothing, held=bytes(10_000)) as b,
    ):
        settings = Settings(migration=migration, max_passes=2)
        with pytest.raises(
            MigrationFailedError, match="its stream goes on behind its end"
        ) as failed:
            Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert failed.value.outcome == "source"
        assert a.state == RUNNING
        assert a.held == held
        assert b.state == STOP
        assert not beside(a.path).exists()


@pytest.mark.parametrize("migration", ["offline", "live"])
def test_a_server_that_reads_short_is_not_saved_and_runs_on(tmp_path: Path, migration: str) -> None:
    held = os.urandom(10_000)
    with running(tmp_path, "a", habits.ReadsShort, held=held) as a:
        settings = Settings(migration=migration, max_passes=2)
        with pytest.raises(
            MigrationFailedError, match="its stream goes on behind its end"
        ) as failed:
            Saver([a.path], settings=settings).run(tmp_path / "file")
        assert failed.value.outcome == "source"
        assert a.state == RUNNING
        assert a.held == held
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("size", [2999, 3000, 5999, 6000, 6008, 9000])
def test_a_stream_of_any_length_ends_with_a_read_that_brings_nothing(
    tmp_path: Path, size: int
) -> None:
    """Also one that fills its last read: less than asked for is the next one then."""
    held = os.urandom(size)
    with (
        running(tmp_path, "a", habits.PadsReads, held=held) as a,
        running(tmp_path, "b", held=bytes(size)) as b,
    ):
        summary = Coordinator(
            [(a.path, b.path)], settings=Settings(migration="offline"), journal=beside(a.path)
        ).run()
        assert summary.bytes == size + 8
        assert b.held == held
        assert (a.state, b.state) == (STOP, RUNNING)
