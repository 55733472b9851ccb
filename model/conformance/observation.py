"""A line of a recording in its typed form: what a client saw of a device.

`vfio_migration.runtime.client.recording` writes the lines,
`vfio_migration.model.conformance.observed` holds them against the table. What a line has beyond the
fields below is for people and is not looked at; what has the wrong type is a damaged line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from vfio_migration.model.errors import Mistake, SpecError, closest, did_you_mean, it_has
from vfio_migration.model.spec import Spec

FORMAT: Final = 1
"""The version of the format of recordings; a reader refuses a higher one."""

KIND: Final = "recording"
"""What it is the beginning of, by the first line of a recording."""

MAX_LINE_BYTES: Final = 1 << 20
"""How many bytes a line has at most."""

What = Literal["connected", "command", "reply", "served", "gone", "device", "note"]
"""What a line is about; the first five are `runtime.client.Exchange.what`."""

FromLog = Literal["step", "arrived", "lost"]
"""What only the log of another program states: that a device takes a step, or that the next one of
a request was chosen; that it has come to a state, by a request or by a reset; that lines are
missing."""

CAPABILITIES: Final = "MIGRATION"
"""The feature that holds the capabilities of a device."""

Errno: TypeAlias = str | int | None
"""What was answered: None is success; an error is its name, or its number if it has none where that
was recorded. 0 is an error without an errno, which the text allows."""

METHODS: Final = ("PROBE", "GET", "SET")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a client saw of a device.

    Attributes:
        device: Which device: what the client calls it.
        what: What the line is about.
        at: For a step, where the device is before it, if that is stated.
        target: For a step, the request that it belongs to, if that is stated.
        connection: Which connection of the device, counted from 1.
        id: The id of the message.
        command: Its command.
        no_reply: For a command, that no reply is asked for.
        feature: For DEVICE_FEATURE, which: by name, or by number if the wire table has none.
        methods: For DEVICE_FEATURE, the words of PROBE, GET and SET.
        state: A migration state, asked for or returned, or where a step leads: by name, or by
            number if no state has it.
        flags: A capability set that was reported: names, or a number if they are not the table's.
        size: How much data the message holds; in MIG_DATA_READ, how much it asks for.
        count: The same, for commands that call it so.
        argsz: How long a reply the command takes.
        errno: The error that was answered; see `Errno`.
        malformed: What was wrong with a reply that does not fit its command, in the words of the
            client that recorded it. Nothing else is known of such a reply.
        max_data_xfer_size: In the reply to VERSION, how much data the server takes in one message.
        crc: The CRC-32 of the data that the message holds.
        pair: Of a device that takes part as a destination, the source whose state it is given.
        by: Who ended the connection, "server" or "client", if that is known.
    """

    device: str = ""
    what: What | FromLog
    at: str | int | None = None
    target: str | int | None = None
    connection: int = 1
    id: int = -1
    command: str = ""
    no_reply: bool = False
    feature: str | int | None = None
    methods: tuple[str, ...] = ()
    state: str | int | None = None
    flags: tuple[str, ...] | int | None = None
    size: int | None = None
    count: int | None = None
    argsz: int | None = None
    errno: Errno = None
    malformed: str | None = None
    max_data_xfer_size: int | None = None
    crc: int | None = None
    pair: str | None = None
    by: str | None = None

    @property
    def probe(self) -> bool:
        """Only asks whether it could be done."""
        return "PROBE" in self.methods

    @classmethod
    def of(cls, data: Mapping[str, Any], spec: Spec) -> Observation:
        """Read a line. Raises `SpecError` that names the key that is wrong."""
        what = _take(data, "what", None, str)
        if what not in get_args(What):
            hint = did_you_mean(closest(what, get_args(What))) or it_has(get_args(What))
            raise _wrong(
                "what", data.get("what"), "is not a kind of line that a recording has", hint
            )
        if what == "note":
            return _NOTE
        device = _take(data, "device", None, str)
        connection = _take(data, "connection", 1, int)
        if what not in ("command", "reply"):
            return cls(
                device=device,
                what=what,
                connection=connection,
                pair=_text(data, "pair") if data.get("role") == "destination" else None,
                by=_text(data, "by"),
            )
        return cls(
            device=device,
            what=what,
            connection=connection,
            id=_take(data, "id", None, int),
            command=_take(data, "command", None, str),
            no_reply=_take(data, "no_reply", False, bool),
            feature=_name_or_number(data, "feature"),
            methods=_methods(data),
            state=_state(data, spec),
            flags=_flags(data),
            size=_number(data, "size"),
            count=_number(data, "count"),
            argsz=_number(data, "argsz"),
            errno=_name_or_number(data, "errno"),
            malformed=_text(data, "malformed"),
            max_data_xfer_size=_number(data, "max_data_xfer_size"),
            crc=_crc(data),
        )


_NOTE: Final = Observation(what="note")
_WORDS: Final = {str: "a string", int: "a whole number", bool: "true or false"}


def _take(data: Mapping[str, Any], key: str, default: Any, kind: type[Any]) -> Any:
    value = data.get(key, default)
    # A bool is an int to Python, and to nobody else.
    if type(value) is not kind:
        if key not in data:
            raise _wrong(key, None, "is missing", None)
        raise _wrong(key, value, f"is not {_WORDS[kind]}", None)
    return value


def _number(data: Mapping[str, Any], key: str) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    number: int = _take(data, key, None, int)
    if number < 0:
        raise _wrong(key, number, "is below zero", None)
    return number


def _text(data: Mapping[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else str(_take(data, key, None, str))


def _crc(data: Mapping[str, Any]) -> int | None:
    text = _text(data, "crc")
    if text is None:
        return None
    try:
        return int(text, 16) & 0xFFFFFFFF
    except ValueError:
        raise _wrong("crc", text, "is not a CRC-32 in hexadecimal digits", None) from None


def _name_or_number(data: Mapping[str, Any], key: str) -> str | int | None:
    value = data.get(key)
    if value is None or type(value) in (str, int):
        return value
    raise _wrong(key, value, "is neither a name nor a number", None)


def _state(data: Mapping[str, Any], spec: Spec) -> str | int | None:
    value = _name_or_number(data, "state")
    if isinstance(value, str):
        known = [row.name for row in spec.states]
        if value not in known:
            hint = did_you_mean(closest(value, known)) or it_has(known)
            raise _wrong("state", value, "there is no such state in this table", hint)
    return value


def _methods(data: Mapping[str, Any]) -> tuple[str, ...]:
    if data.get("method") is None:
        return ()
    words = tuple(_take(data, "method", None, str).split())
    for word in words:
        if word not in METHODS:
            hint = did_you_mean(closest(word, METHODS)) or it_has(METHODS)
            raise _wrong("method", word, "is not a method of a feature", hint)
    return words


def _flags(data: Mapping[str, Any]) -> tuple[str, ...] | int | None:
    """Names are a capability set; a number that is there in other commands is just a number."""
    value = data.get("flags")
    if isinstance(value, list):
        for name in value:
            if not isinstance(name, str):
                raise _wrong("flags", name, "is not a name of a capability", None)
        return tuple(value)
    return _number(data, "flags")


def _wrong(place: str, value: object, problem: str, hint: str | None) -> SpecError:
    return SpecError([Mistake(place, value, problem, hint)])
