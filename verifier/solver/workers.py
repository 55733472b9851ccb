"""Work spread over child processes: z3 keeps one state per process and decides one query at a time.

A child is forked for each unit of work, so every unit begins in the same state whatever was decided
before it, by whom and how many at a time: the same run gives the same witnesses. Results come back
one by one. A child that dies is reported, and what it had left to do goes to another.

Children are killed when the parent is interrupted, fails or dies.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Generic, TypeVar

Result = TypeVar("Result")
Unit = tuple[int, ...]
"""Tasks, by number, that one child does one after the other."""

Work = Callable[[Unit], Iterable[Result]]
"""What a child does: from a unit to one result a task, in the unit's order."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no result, in place of it: the child died, or the time in all was over."""

    reason: str


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def can_fork() -> bool:
    """Forking is possible, and safe: no other thread of Python's may hold a lock meanwhile."""
    return "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1


def spread(
    units: Sequence[Unit], work: Work[Result], jobs: int, total_timeout: float | None = None
) -> Generator[tuple[int, Result | Missing], None, None]:
    """Do all units with up to `jobs` children at once; yield each task's result as it comes.

    Args:
        units: What is to be done.
        work: Does a unit, in a child.
        jobs: How many children there may be at once.
        total_timeout: After how many seconds the children are killed, whatever they are doing.

    Raises:
        Exception: What a child raised, with its traceback as a note.
    """
    deadline = None if total_timeout is None else time.monotonic() + total_timeout
    waiting = deque(units)
    children: dict[Connection, _Child[Result]] = {}
    try:
        while waiting or children:
            while waiting and len(children) < jobs:
                child = _Child(waiting.popleft(), work)
                children[child.pipe] = child
            left = None if deadline is None else deadline - time.monotonic()
            ready = wait(list(children), left) if left is None or left > 0 else []
            if not ready:
                reason = f"not decided within the {total_timeout:g} s of the total timeout"
                late = [*(child.left for child in children.values()), *waiting]
                for task in sorted(itertools.chain.from_iterable(late)):
                    yield task, Missing(reason)
                return
            for pipe in ready:
                assert isinstance(pipe, Connection)
                child = children[pipe]
                found = child.receive()
                if found is not None:
                    yield found
                    continue
                # The end of the pipe: the child is done, or it is dead.
                del children[pipe]
                how = child.end()
                if child.left:
                    first, *rest = child.left
                    yield first, Missing(f"the process that was deciding it died ({how})")
                    if rest:
                        waiting.appendleft(tuple(rest))
    finally:
        for child in children.values():
            child.kill()


@dataclass(slots=True)
class _Child(Generic[Result]):
    """A forked process at work on one unit, seen from its parent."""

    unit: Unit
    work: Work[Result]
    left: list[int] = field(init=False)
    pipe: Connection = field(init=False)
    process: ForkProcess = field(init=False)

    def __post_init__(self) -> None:
        self.left = list(self.unit)
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        self.process = context.Process(
            target=_serve, args=(self.unit, self.work, theirs, os.getpid())
        )
        self.process.start()
        theirs.close()

    def receive(self) -> tuple[int, Result] | None:
        """Take the next result; None at the end of the pipe."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        if kind == "raised":
            raise value
        result: Result = value
        return self.left.pop(0), result

    def end(self) -> str:
        """Wait for the process; return how it ended."""
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        if code == -signal.SIGKILL:
            return "killed by SIGKILL; did it run out of memory?"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.end()


def _serve(unit: Unit, work: Work[Result], pipe: Connection, parent: int) -> None:
    """Do the work, in the child."""
    if sys.platform == "linux":
        # A parent that is killed can kill nobody; the kernel then does.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)
    try:
        for result in work(unit):
            pipe.send(("result", result))
    except KeyboardInterrupt:
        # The terminal interrupts parent and children together; the parent states it.
        os._exit(130)
    except Exception as error:  # noqa: BLE001 - it is raised again, in the parent
        error.add_note("".join(traceback.format_exception(error)).rstrip())
        try:
            pickle.loads(pickle.dumps(error))  # not every exception comes back
        except Exception:  # noqa: BLE001 - whatever kept it from coming back
            error = RuntimeError(*error.__notes__)
        pipe.send(("raised", error))
