"""Prints the events of a migration, without ever holding it up.

What is printed goes through a queue to a thread of its own. A terminal that was stopped, a pipe
that nobody reads and a reader that has gone away cost lines, not downtime.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TextIO, TypeAlias

from vfio_migration.cli.output import one_line
from vfio_migration.runtime.server.background_writer import BackgroundWriter
from vfio_migration.runtime.transport.closing import Closing

if TYPE_CHECKING:
    from vfio_migration.runtime.coordinator import Event

_Item: TypeAlias = tuple[str | None, Sequence[str]]
"""A line that stays, if there is one, and the lines below it."""
_TIMEOUT_S: Final = 2.0
"""How long, in seconds, is waited at the end for a reader that is slow."""
_MAX_SENTENCE_CHARS: Final = 1500
"""How many characters of a sentence are shown at most."""
_PLAIN: Final = ("plan", "summary", "saved")
_UP: Final = "\x1b[{}A"
_ERASE: Final = "\x1b[J"


class Printer(Closing):
    """Prints lines, and a few lines below them that change; a context.

    Args:
        fd: The descriptor.
        live: It is a terminal, on which lines can be written again.
    """

    def __init__(self, fd: int, *, live: bool) -> None:
        self._fd = fd
        self.live = live
        self._shown = 0
        self._writer: BackgroundWriter[_Item] = BackgroundWriter(fd, self._render, name="printer")

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def line(self, text: str) -> None:
        """Print a line that stays, whatever is in it: names come from files and servers, too."""
        self._writer.put((one_line(text), ()))

    def status(self, lines: Sequence[str]) -> None:
        """Show lines that stay until the next ones; nothing, if this is no terminal."""
        if self.live:
            self._writer.put((None, list(map(one_line, lines))))

    def close(self) -> None:
        """Print what is left, if it is taken within a moment."""
        self._writer.put((None, ()))
        self._writer.close(_TIMEOUT_S)

    def _render(self, item: _Item) -> bytes:
        text, status = item
        out = self._erased()
        if text is not None:
            out += text + "\n"
        # A line that the terminal wraps would be two of those to be erased.
        wide = self._wide() if status else 0
        out += "".join(line[:wide] + "\n" for line in status)
        self._shown = len(status)
        return out.encode("utf-8", "backslashreplace")

    def _erased(self) -> str:
        return _UP.format(self._shown) + _ERASE if self._shown else ""

    def _wide(self) -> int:
        try:
            return os.get_terminal_size(self._fd).columns or 80
        except OSError:
            return 80


class JsonReporter:
    """One JSON object a line for each event."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._begun = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Print an event."""
        self._printer.line(json.dumps(event.to_data(self._begun)))


class TextReporter:
    """Lines for people: what happened stays, how far it is changes in place.

    Args:
        printer: Where to.
        quiet: Only what is worth knowing afterwards.
        done: What was done with the devices, for the event `saved`.
    """

    def __init__(self, printer: Printer, *, quiet: bool = False, done: str = "saved") -> None:
        self._printer = printer
        self._quiet = quiet
        self._done = done
        self._begun = time.monotonic()
        self._shown_at = self._begun
        self._because = ""
        self._formatters: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
            "plan": self._plan,
            "phase": self._phase,
            "moved": self._moved,
            "pass": lambda _fields: (),
            "stopped": self._stopped,
            "running": self._running,
            "failed": self._failed,
            "asserted": self._asserted,
            "falls_back": self._falls_back,
            "refuses": self._refuses,
            "recovering": self._recovering,
            "won": self._won,
            "summary": self._summary,
            "saved": self._saved,
        }

    def __call__(self, event: Event) -> None:
        """Print an event."""
        if event.name in ("progress", "restoring"):
            self._progress(event)
            return
        lines_of = self._formatters.get(event.name)
        if lines_of is None or (
            self._quiet and event.name not in ("failed", "refuses", "won", *_PLAIN[1:])
        ):
            return
        for line in lines_of(event.fields):
            stamp = "" if event.name in _PLAIN else f"{self._at(event):>8}  "
            self._printer.line(stamp + line)

    def _at(self, event: Event) -> str:
        return f"{event.time - self._begun:.3f} s"

    # --- what stays ---

    def _plan(self, fields: dict[str, Any]) -> Iterable[str]:
        devices = fields["devices"]
        many = f"{len(devices)} devices" if len(devices) > 1 else "1 device"
        yield f"{many}, {fields['migration']} migration"
        from_, to = (max(len(one[side]) for one in devices) for side in ("source", "destination"))
        for one in devices:
            names = ",".join(one["source_capabilities"])
            yield f"  {one['source']:<{from_}} -> {one['destination']:<{to}}   {names}"
        yield ""

    def _phase(self, fields: dict[str, Any]) -> Iterable[str]:
        yield f"{fields['side']:<11} {fields['phase']:<12} {fields['summary']}"

    def _moved(self, fields: dict[str, Any]) -> Iterable[str]:
        if fields["how"] == "reset":  # what a phase asks for was stated with it
            where = f"{fields['device']}: {fields['from']} -> {fields['to']}"
            yield f"{fields['side']:<11} {'reset':<12} {where}"

    def _stopped(self, fields: dict[str, Any]) -> Iterable[str]:
        expected = fields["expected"]
        expectation = "" if expected is None else f", expected for {seconds(expected)}"
        yield f"{'':<11} downtime begins{expectation}"

    def _running(self, fields: dict[str, Any]) -> Iterable[str]:
        yield f"{'':<11} downtime ends after {seconds(fields['downtime'])}"

    def _asserted(self, fields: dict[str, Any]) -> Iterable[str]:
        yield f"taken on trust: {fields['summary']} ({fields['option'] or 'by the journal'})"

    def _falls_back(self, fields: dict[str, Any]) -> Iterable[str]:
        yield f"goes on without pre-copy: {fields['why']}"

    def _failed(self, fields: dict[str, Any]) -> Iterable[str]:
        yield f"failed: {fields['why']}"

    def _refuses(self, fields: dict[str, Any]) -> Iterable[str]:
        if fields["reset"]:
            yield f"{fields['device']}: refuses what it was given, so it is reset"
        else:
            yield f"does not take over what it was loaded with: {fields['why']}"

    def _recovering(self, fields: dict[str, Any]) -> Iterable[str]:
        self._because = fields["why"]
        yield f"recovering: {fields['why']}"

    def _won(self, fields: dict[str, Any]) -> Iterable[str]:
        phrases = {
            "source": "the source runs",
            "destination": "the destination runs",
            "lost": "nobody holds the whole state",
            "undecided": "it is not known who runs",
        }
        who, why = phrases[fields["outcome"]], fields["why"]
        if why == self._because:
            yield who
        else:
            yield why if why.startswith(who) else f"{who}: {why}"

    def _summary(self, fields: dict[str, Any]) -> Iterable[str]:
        rate = fields["bytes"] / fields["seconds"] if fields["seconds"] else 0
        rows = [
            ("total time", seconds(fields["seconds"])),
            ("downtime", seconds(fields["downtime"])),
            ("transferred", f"{size(fields['bytes'])} at {size(rate)}/s"),
            ("passes", str(fields["passes"])),
            ("last pass", size(fields["last_pass"])),
        ]
        expected = fields["expected_downtime"]
        if expected is not None:
            rows[1] = ("downtime", f"{rows[1][1]} (expected {seconds(expected)})")
        if fields["sent"] != fields["bytes"]:
            ratio = fields["bytes"] / max(1, fields["sent"])
            rows.insert(3, ("compressed", f"to {size(fields['sent'])}, 1/{ratio:.1f} of it"))
        many = f"{fields['devices']} devices" if fields["devices"] > 1 else "1 device"
        yield from self._apart()
        yield f"migrated {many}"
        for name, value in rows:
            yield f"  {name:<12} {value}"
        if fields["fell_back"] is not None:
            yield f"  {'no pre-copy':<12} {fields['fell_back']}"
        if fields["asserted"]:
            yield f"  {'on trust':<12} {', '.join(fields['asserted'])}"
        for one in fields["not_stopped"]:
            yield f"  not known to be stopped: {one}"

    def _saved(self, fields: dict[str, Any]) -> Iterable[str]:
        rate = fields["bytes"] / fields["seconds"] if fields["seconds"] else 0
        many = f"{fields['devices']} devices" if fields["devices"] > 1 else "1 device"
        yield from self._apart()
        yield f"{many} {self._done}"
        yield f"  {'total time':<12} {seconds(fields['seconds'])}"
        if fields["downtime"] is not None:
            yield f"  {'downtime':<12} {seconds(fields['downtime'])}"
        yield f"  {'state':<12} {size(fields['bytes'])} at {size(rate)}/s"
        yield f"  {'file':<12} {size(fields['stored'])}"
        if fields["fell_back"] is not None:
            yield f"  {'no pre-copy':<12} {fields['fell_back']}"
        yield from (f"  {hint}" for hint in fields["hints"])

    def _apart(self) -> Iterable[str]:
        return () if self._quiet else ("",)

    # --- what changes ---

    def _progress(self, event: Event) -> None:
        if self._quiet:
            return
        fields = event.fields
        if event.name == "restoring":
            done, all_ = fields["bytes"], fields["of"]
            line = f"{fields['device']}   {size(done)} of {size(all_)}   {done / all_:.0%}"
        else:
            line = self._line(fields)
        if self._printer.live:
            self._printer.status([*self._table(fields), line])
        elif event.time - self._shown_at >= 1:
            self._shown_at = event.time
            self._printer.line(f"{self._at(event):>8}  {line}")

    def _table(self, fields: dict[str, Any]) -> Iterable[str]:
        devices = fields.get("devices", ())
        if len(devices) < 2:
            return
        wide = max(len(one["device"]) for one in devices)
        for one in devices:
            left = "" if one["left"] is None else f"   {size(one['left']):>10} dirty"
            yield (
                f"          {one['device']:<{wide}}   pass {one['pass']:>3}"
                f"   {size(one['bytes']):>10}{left}"
            )

    def _line(self, fields: dict[str, Any]) -> str:
        most = max(fields["devices"], key=lambda one: one["bytes"])
        words = [f"pass {most['pass']}", size(fields["bytes"]), f"{size(fields['rate'])}/s"]
        if fields["left"] is not None:
            words.append(f"{size(fields['left'])} dirty")
        if fields["expected_downtime"] is not None:
            words.append(f"downtime would be {seconds(fields['expected_downtime'])}")
        return "   ".join(words)


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def seconds(value: float) -> str:
    """Return a time for people."""
    if value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s"


def shortened(text: str) -> str:
    """Return a sentence that fits onto a screen: a file may hold names as long as it likes."""
    if len(text) <= _MAX_SENTENCE_CHARS:
        return text
    return f"{text[: _MAX_SENTENCE_CHARS - 300]} ... {text[-300:]}"


def reporter(printer: Printer, arguments: Any, done: str = "saved") -> JsonReporter | TextReporter:
    """Return what prints events the way that was asked for."""
    if arguments.json:
        return JsonReporter(printer)
    return TextReporter(printer, quiet=arguments.quiet, done=done)


def print_last(file: TextIO | None, lines: Iterable[str]) -> None:
    """Print lines that come last. Who does not read them changes no exit status.

    Args:
        file: Where to; None if it was closed when this program was started.
        lines: The lines.
    """
    if file is None:
        return
    file.flush()
    with Printer(file.fileno(), live=False) as last:
        for line in lines:
            last.line(line)


def printer(arguments: Any) -> Printer:
    """Return where to print: JSON and text alike on standard output."""
    sys.stdout.flush()
    fd = sys.stdout.fileno()
    live = not arguments.json and os.isatty(fd) and os.environ.get("TERM") != "dumb"
    return Printer(fd, live=live)
