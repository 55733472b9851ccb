"""The vfio-user connection in its typed form: commands, features, bounds and answers.

What `vfio_migration.model.spec` is for the state machine this is for the wire: rows that hold data
and nothing else, read from a file (`wire_load`) with every mistake in it reported at once. What a
row may say is what its class has fields for.

Sizes are bytes and do not count the header. A payload is `request` (or `reply`) bytes long; where
`request_item` is not 0, any number of items of that size may follow, as far as the limit named by
`request_bound` allows.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from vfio_migration.model.errors import Named
from vfio_migration.model.spec import Row, Transfer

Forgets = Literal["nothing", "when_served", "when_sent"]
"""When the server forgets what a reply carries, so that no other reply will carry it: not at all,
once the command is served, or once the reply has left as a whole."""

Descriptors = Literal["none", "unused", "one", "many"]
"""How many file descriptors a message is served with; "many" are bounded by `max_msg_fds`.

Descriptors beyond that are closed. "unused" is as "none", for a command with which some peers send
descriptors all the same.
"""

Occasion = Literal[
    "size_below_header",
    "size_over_limit",
    "fds_over_limit",
    "reply_unasked",
    "type_unknown",
    "command_unknown",
    "wrong_direction",
    "version_first",
    "version_again",
    "version_incompatible",
    "not_negotiated",
    "size_wrong",
    "over_bound",
    "flags_unknown",
    "feature_flags_clash",
    "feature_unknown",
    "method_unsupported",
    "method_missing",
    "logging_on",
    "logging_off",
    "out_of_session",
    "nothing_now",
    "map_exists",
    "map_unknown",
    "argument_invalid",
    "holding_full",
    "request_refused",
    "request_failed",
]
"""What a row of `[[answers]]` can be about; the first row of the file that holds decides."""

FROM_THE_TABLE = ("request_refused", "request_failed")
"""Occasions whose errno is a row of the migration table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderField(Row):
    """A field of the header that every message begins with."""

    name: str
    offset: int
    size: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagWord(Row):
    """A word of 32 bits in the header, or in a command or its reply.

    Attributes:
        command: Whose payload has it; None for the header.
        unknown: What a bit that no row of `[[flags]]` names comes to in a command: it is refused,
            or the word is not looked at.
    """

    name: str
    command: str | None = None
    unknown: Literal["refused", "ignored"]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagBits(Row):
    """Bits of a flags word: the word has them if what `mask` selects is `value`.

    Without `value` they are a number of their own.
    """

    word: str
    name: str
    mask: int
    value: int | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagChoice(Row):
    """Bits of a flags word of which at least `least` and at most `most` are set in a command."""

    name: str
    word: str
    among: tuple[str, ...]
    least: int
    most: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Row):
    """What the server allows at most. With a `default` it is sent in VERSION, under its name.

    The default is what a peer that names no number of its own is taken to have named.
    """

    name: str
    value: int
    default: int | None = None
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Row):
    """Something VERSION agrees on that is no limit."""

    name: str
    json: Literal["number", "boolean", "object"]
    default: int
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding(Row):
    """Something a client can make the server keep, and how much of it.

    At its `limit` the server refuses more, reads nothing until there is room again, or keeps less
    detail and states more than is true, where that does no harm. What belongs to the connection
    ends with it; what belongs to the client is dropped as the disconnect row of the migration table
    says.
    """

    name: str
    limit: str | None = None
    full: Literal["refused", "waits", "widened"]
    belongs_to: Literal["client", "connection"]
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Row):
    """A command and its reply.

    Attributes:
        sender: Who sends the command; the other side replies.
        before_version: It may come before a version is agreed.
        does: What it does that the protocol must know of. What informs is served where
            `StreamEnd.precopy_info` of the migration table permits it.
        needs: The option without which it does not exist.
        transfer: What the data session must allow, in the words of `Session.transfer`.
        request_padding: The limit of what may follow a request of a fixed size; it is passed over.
        adds: What a served command adds to.
        removes: What it takes from.
        whole: All of it is checked before any of it is done.
        forgets: When the server forgets what the reply carries.
    """

    name: str
    number: int
    sender: Literal["client", "server"]
    before_version: bool = False
    does: Literal["negotiate", "reset", "feature", "inform", "other"] = "other"
    request: int
    request_item: int = 0
    request_bound: str | None = None
    request_padding: str | None = None
    reply: int
    reply_item: int = 0
    reply_bound: str | None = None
    takes_fds: Descriptors = "none"
    gives_fds: Descriptors = "none"
    needs: str | None = None
    transfer: Transfer = "none"
    adds: str | None = None
    removes: str | None = None
    whole: bool = True
    forgets: Forgets = "nothing"
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature(Row):
    """A device feature, its methods and the sizes of its data. PROBE takes and returns none.

    A reply to GET holds the data of the request and what is added to it (`reply` in all); a reply
    to SET returns the data of the request.

    Attributes:
        get: It has a GET method.
        set: It has a SET method.
        moves: Its data is a migration state, and SET moves the device.
        logging: What it has to do with DMA logging: SET starts or stops it, or it must be on.
        forgets: When the server forgets what a reply to GET carries.
    """

    name: str
    number: int
    get: bool
    set: bool
    get_request: int = 0
    get_reply: int = 0
    get_reply_item: int = 0
    set_request: int = 0
    set_request_item: int = 0
    moves: bool = False
    logging: Literal["none", "starts", "stops", "needs"] = "none"
    forgets: Forgets = "nothing"
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Row):
    """What a message that cannot be served comes to.

    "error": an error reply, or silence if none was asked for; "closes": the same, and then the
    connection ends; "ignored": nothing. An occasion without a row is not looked at.

    Attributes:
        when: The occasion.
        needs: The option without which nobody looks.
    """

    when: Occasion
    needs: str | None = None
    outcome: Literal["error", "closes", "ignored"]
    errno: str | None = None
    reason: str
    source: str


_Numbered = TypeVar("_Numbered", Command, Feature)


@dataclass(frozen=True, kw_only=True)
class Wire(Row):
    """The whole table of the connection."""

    name: str
    title: str
    header: tuple[HeaderField, ...]
    words: tuple[FlagWord, ...]
    flags: tuple[FlagBits, ...]
    choices: tuple[FlagChoice, ...]
    limits: tuple[Limit, ...]
    options: tuple[Option, ...]
    holdings: tuple[Holding, ...]
    commands: tuple[Command, ...]
    features: tuple[Feature, ...]
    answers: tuple[Answer, ...]

    def command(self, key: str | int) -> Command | None:
        """Return the command of a name or number, or None."""
        return _find(self.commands, key)

    def feature(self, key: str | int) -> Feature | None:
        """Return the feature of a name or index, or None."""
        return _find(self.features, key)

    def answer(self, when: Occasion) -> Answer | None:
        """Return what an occasion comes to, or None if nobody looks."""
        return next((row for row in self.answers if row.when == when), None)

    def agreed_answer(self, when: Occasion, options: Container[str]) -> Answer | None:
        """Return what an occasion comes to under the options agreed on; None if nobody looks."""
        row = self.answer(when)
        return row if row is None or row.needs is None or row.needs in options else None

    def without(self, option: str) -> Wire:
        """Return the table without an option and whatever needs it: as it was before."""
        commands = tuple(row for row in self.commands if row.needs != option)
        names = {row.name for row in commands}
        words = tuple(row for row in self.words if row.command is None or row.command in names)
        known = {row.name for row in words}
        return replace(
            self,
            words=words,
            flags=tuple(row for row in self.flags if row.word in known),
            choices=tuple(row for row in self.choices if row.word in known),
            options=tuple(row for row in self.options if row.name != option),
            commands=commands,
            answers=tuple(row for row in self.answers if row.needs != option),
        )

    def limit(self, name: str) -> Limit:
        """Return the limit called `name`; raise `UnknownNameError` if there is none."""
        return Named("limit", self.limits)[name]

    def holding(self, name: str) -> Holding:
        """Return the holding called `name`; raise `UnknownNameError` if there is none."""
        return Named("holding", self.holdings)[name]

    def bound(self, name: str) -> int:
        """Return how much the server keeps of the holding called `name`; 0 if nothing bounds it.

        Raises:
            UnknownNameError: There is no such holding.
        """
        limit = self.holding(name).limit
        return 0 if limit is None else self.limit(limit).value

    def option(self, name: str) -> Option:
        """Return the option called `name`; raise `UnknownNameError` if there is none."""
        return Named("option", self.options)[name]

    def word(self, name: str) -> FlagWord:
        """Return the flags word called `name`; raise `UnknownNameError` if there is none."""
        return Named("flags word", self.words)[name]

    def word_of(self, command: str) -> FlagWord | None:
        """Return the flags word that a command has, or None."""
        return next((row for row in self.words if row.command == command), None)

    def known_bits(self, word: str) -> int:
        """Return all bits of a flags word that `[[flags]]` names."""
        return functools.reduce(
            operator.or_, (row.mask for row in self.flags if row.word == word), 0
        )

    def bits(self, word: str, name: str) -> FlagBits:
        """Return the bits of a flags word by name; raise `UnknownNameError` if there are none."""
        return Named("flag", (row for row in self.flags if row.word == word))[name]

    @property
    def header_size(self) -> int:
        """How long a header is."""
        return sum(row.size for row in self.header)

    @functools.cached_property
    def largest_request(self) -> int | None:
        """The longest message a client may send, header included; None if nothing bounds it."""
        return self._largest("request", "client")

    @functools.cached_property
    def largest_reply(self) -> int | None:
        """The longest reply the server sends, header included; None if nothing bounds it."""
        return self._largest("reply", "client")

    def _largest(self, part: Literal["request", "reply"], sender: str) -> int | None:
        longest = 0
        for row in self.commands:
            fixed, item, bound = (
                (row.request, row.request_item, row.request_bound)
                if part == "request"
                else (row.reply, row.reply_item, row.reply_bound)
            )
            if row.sender != sender:
                continue
            if item and bound is None:
                return None
            if part == "request" and row.request_padding is not None:
                fixed += self.limit(row.request_padding).value
            longest = max(longest, fixed + (self.limit(bound).value if bound and item else 0))
        return self.header_size + longest

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the rows only: what is computed is computed again."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def _find(rows: tuple[_Numbered, ...], key: str | int) -> _Numbered | None:
    return next((row for row in rows if key in (row.name, row.number)), None)
