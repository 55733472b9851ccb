"""What is stated of DMA logging, tried on a server that offers it.

No case has the device write anything: what a report must hold is for who knows the device
(`runtime.testing`). Whether a reset ends the logging no specification states, so a report after
one may come or be refused.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Final

from vfio_migration.model.wire import Occasion
from vfio_migration.runtime.conform.tested_server import Reply, TestedServer
from vfio_migration.runtime.conform.wire_cases import Case, WrongAnswer
from vfio_migration.runtime.protocol.layout import FEATURE_GET, FEATURE_PROBE, FEATURE_SET
from vfio_migration.runtime.protocol.messages.features import (
    DmaLoggingControl,
    DmaLoggingRange,
    DmaLoggingReport,
)
from vfio_migration.runtime.protocol.messages.guest_memory import DmaMap

_START: Final = "docs/interop/vfio-user.rst: VFIO_DEVICE_FEATURE_DMA_LOGGING_START"
_REPORT: Final = "docs/interop/vfio-user.rst: VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT"
_PAGE: Final = 4096
_AT: Final = 1 << 20
_PAGES: Final = 100
"""Pages of the memory that is mapped: no multiple of the 64 of a word of the bitmap."""
_SIZE: Final = _PAGES * _PAGE
_READ_WRITE: Final = 3
_WORD_BYTES: Final = 8

Try = Callable[[TestedServer], Reply | None]


def logging_cases() -> tuple[Case, ...]:
    """Return all cases, in the order in which they are tried."""

    def allowed(name: str, step: str, source: str, send: Try) -> Case:
        return Case(name, step, None, source, _offered(send))

    def refused(name: str, step: str, occasion: Occasion, send: Try, source: str = "") -> Case:
        return Case(name, step, occasion, source, _offered(send))

    return (
        refused(
            "report_before_start", "DMA_LOGGING_REPORT before logging was started", "logging_off",
            _report,
        ),
        allowed(
            "logging_of_a_range", "DMA_LOGGING_START of one range", _START,
            lambda server: _started_as_asked(server, (DmaLoggingRange(_AT, _SIZE),)),
        ),
        allowed(
            "logging_of_everything", "DMA_LOGGING_START of no range, which is all writes", _START,
            lambda server: _started_as_asked(server, ()),
        ),
        allowed(
            "logging_of_several_ranges", "DMA_LOGGING_START of two ranges", _START,
            lambda server: _started_as_asked(
                server, (DmaLoggingRange(_AT, _PAGE), DmaLoggingRange(_AT + 8 * _PAGE, _PAGE))
            ),
        ),
        refused(
            "ranges_missing", "DMA_LOGGING_START of two ranges that has one", "size_wrong",
            lambda server: server.feature(
                "DMA_LOGGING_START", FEATURE_SET,
                struct.pack("=QIIQQ", _PAGE, 2, 0, _AT, _SIZE),
            ),
        ),
        refused(
            "logging_started_twice", "DMA_LOGGING_START while DMA is logged", "logging_on",
            lambda server: _after(server, _start, _start),
        ),
        allowed(
            "report_of_a_range", "DMA_LOGGING_REPORT of what is logged", _REPORT,
            lambda server: _reported(server, _PAGE),
        ),
        allowed(
            "report_of_larger_pages", "DMA_LOGGING_REPORT in larger pages than were started with",
            _REPORT, lambda server: _reported(server, 4 * _PAGE),
        ),
        refused(
            "page_size_odd", "DMA_LOGGING_REPORT in pages of 5000 bytes", "argument_invalid",
            lambda server: _after(server, _start, lambda one: _report(one, 5000)),
        ),
        allowed(
            "logging_stopped", "DMA_LOGGING_STOP of what was started", _START,
            lambda server: _after(server, _start, _stop),
        ),
        refused(
            "report_after_stop", "DMA_LOGGING_REPORT after DMA_LOGGING_STOP", "logging_off",
            lambda server: _after(server, _start, _stop, _report),
        ),
        allowed(
            "logging_started_again", "DMA_LOGGING_START after DMA_LOGGING_STOP", _START,
            lambda server: _after(server, _start, _stop, _start),
        ),
        allowed(
            "reset_while_logging", "DEVICE_RESET while DMA is logged", "decision",
            lambda server: _after(server, _start, lambda one: one.reset()),
        ),
        allowed(
            "stop_after_reset", "DMA_LOGGING_STOP after a reset", "decision",
            lambda server: _after(server, _start, lambda one: one.reset(), _stop),
        ),
    )  # fmt: skip


def _offered(send: Try) -> Try:
    """Try it only on a server that offers DMA logging; its logging is off at the beginning."""

    def tried(server: TestedServer) -> Reply | None:
        probe = server.feature("DMA_LOGGING_START", FEATURE_PROBE | FEATURE_SET)
        if probe.errno is not None:
            return None
        _stop(server)
        # A report may be refused for memory that was never mapped, or that has no descriptor: the
        # client itself then makes each write.
        memory = os.memfd_create("conform", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, _SIZE)
            mapping = DmaMap.asking(_AT, _SIZE, flags=_READ_WRITE)
            server.ask("DMA_MAP", mapping.pack(), descriptors=(memory,))
        finally:
            os.close(memory)
        return send(server)

    return tried


def _after(server: TestedServer, *steps: Try) -> Reply | None:
    """Do one after the other; return what comes of the last. Those before it succeed."""
    reply = None
    for index, step in enumerate(steps):
        reply = step(server)
        if index < len(steps) - 1 and reply is not None and reply.errno is not None:
            raise WrongAnswer(f"what comes before it is refused ({reply.errno})")
    return reply


def _start(server: TestedServer, ranges: tuple[DmaLoggingRange, ...] | None = None) -> Reply:
    ranges = (DmaLoggingRange(_AT, _SIZE),) if ranges is None else ranges
    asked = DmaLoggingControl(_PAGE, ranges, 0)
    return server.feature("DMA_LOGGING_START", FEATURE_SET, bytes(asked.pack()))


def _stop(server: TestedServer) -> Reply:
    return server.feature("DMA_LOGGING_STOP", FEATURE_SET)


def _report(server: TestedServer, page_size: int = _PAGE) -> Reply:
    asked = DmaLoggingReport(_AT, _SIZE, page_size, b"")
    data = bytes(asked.pack())
    return server.feature(
        "DMA_LOGGING_REPORT", FEATURE_GET, data, room=len(data) + _bitmap_bytes(page_size)
    )


def _bitmap_bytes(page_size: int) -> int:
    pages = -(-_SIZE // page_size)
    return -(-pages // (8 * _WORD_BYTES)) * _WORD_BYTES


def _started_as_asked(server: TestedServer, ranges: tuple[DmaLoggingRange, ...]) -> Reply:
    """What comes back is what was sent, but for the size of a page."""
    reply = _start(server, ranges)
    if reply.errno is None:
        sent = bytes(DmaLoggingControl(_PAGE, ranges, 0).pack())
        if reply.payload[16 : 8 + len(sent)] != sent[8:]:
            raise WrongAnswer("the reply does not have the ranges of the request")
        page_size = int.from_bytes(reply.payload[8:16], "little")
        if page_size <= 0 or page_size & (page_size - 1):
            raise WrongAnswer(f"the page size it has selected is {page_size}, no power of two")
    return reply


def _reported(server: TestedServer, page_size: int) -> Reply | None:
    """A report has the range that was asked for, and a bit for each page of it and no other."""
    reply = _after(server, _start, lambda one: _report(one, page_size))
    if reply is None or reply.errno is not None:
        return reply
    got = DmaLoggingReport.parse(reply.payload[8:])
    if (got.iova, got.length, got.page_size) != (_AT, _SIZE, page_size):
        raise WrongAnswer("the reply does not have the range of the request")
    if len(got.bitmap) < _bitmap_bytes(page_size):
        raise WrongAnswer(
            f"the bitmap has {len(got.bitmap)} bytes, and {_bitmap_bytes(page_size)} are needed"
        )
    if int.from_bytes(got.bitmap, "little") >> -(-_SIZE // page_size):
        raise WrongAnswer("bits outside of the range are set")
    return reply
