"""A vfio-user connection as a transition system, built from two tables.

A client sends what it likes: any command with any number, size and count of descriptors, with and
without No_reply, before and after a version is agreed, replies that nobody asked for; it stops
reading, goes away and comes back. The server serves or answers as `model/wire.toml` says, and the
device moves as the migration table specifies. Here a request for a state is one step: the device
gets to its target, or to where an arc failed.

An occasion of `[[answers]]` without a row is not looked at, so that what it would have refused is
served: that is how a table can break an obligation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import z3

from vfio_migration.model import Event as EventRow
from vfio_migration.model.wire import Occasion
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.obligation import Example
from vfio_migration.verifier.solver.system import Event, Lemma, Situation, System, Term
from vfio_migration.verifier.solver.terms import all_of, any_of
from vfio_migration.verifier.systems.connection_answers import BOOL, INT, Answers, Choose, Message
from vfio_migration.verifier.systems.connection_trace import traced

_PUT_OFF = ("put_off_commands", "put_off_data", "put_off_fds")
"""The holdings that a command which is put off adds to."""


class ConnectionSystem(System):
    """A server, its device and its clients.

    The variables:
        connected, closing: A client is there; the server will end the connection.
        agreed, versions: A version is agreed; how often one was on this connection.
        peer: The client's max_data_xfer_size.
        has_...: An option was agreed on.
        due, sent: How many replies this connection owes, and how many were sent.
        keeps_...: What the server keeps, by the name of the holding.
        state, open: Where the device is, and whether a data session is open.
        logging: DMA is logged.
        work: What the device was made to do.
    """

    events = (
        "connect",
        "served",
        "refused",
        "failed",
        "ignored",
        "deliver",
        "ask",
        "answered",
        "put_off",
        "taken_up",
        "disconnect",
    )

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.wire = wire = encoding.wire
        self.answers = Answers(encoding, wire)
        self.device = self.answers.device
        needs = [row.needs for row in wire.commands] + [row.needs for row in wire.answers]
        self.options = sorted({name for name in needs if name is not None})
        self.sorts = {
            **dict.fromkeys(("connected", "closing", "agreed", "open", "logging"), BOOL),
            **dict.fromkeys(("versions", "peer", "due", "sent", "work"), INT),
            **{f"has_{name}": BOOL for name in self.options},
            **{f"keeps_{row.name}": INT for row in wire.holdings},
            "state": encoding.state_sort,
        }

    @classmethod
    def of(cls, encoding: Encoding) -> ConnectionSystem:
        """The system of this encoding, made once; so is the wire it is about."""
        return encoding.once(cls.__name__, lambda: cls(encoding))

    @property
    def facts(self) -> Formula:
        """What holds of the device throughout a run."""
        return self.device.facts

    # --- the system ---

    def start(self, now: Situation) -> Formula:
        """A device in the initial state; nobody has ever connected."""
        spec = self.encoding.spec
        zero = [term == 0 for term in now.values() if term.sort() == INT]
        false = [z3.Not(term) for term in now.values() if term.sort() == BOOL]
        return all_of(now["state"] == self.encoding.state(spec.initial), *zero, *false)

    def transitions(self, now: Situation, choose: Choose) -> list[Event]:
        """Everything the client can do to the server, and the server to the client."""
        message = Message.chosen(self.encoding, choose)
        verdict = self.answers.verdict(now, message)
        there = all_of(now["connected"], z3.Not(now["closing"]))
        awaited = all_of(self.answers.is_type(message, "reply"), now["keeps_server_commands"] > 0)
        reads = all_of(
            there, z3.Not(awaited), self._sensible(now, message), self._room(now, "replies")
        )
        single = self._single(message)
        comes = all_of(reads, single)
        replies = {**self._owing(now, message), **self._answering(now, message)}
        served = all_of(reads, verdict == 0, z3.Or(message.quiet, single))
        done = choose("done", INT)
        invalid: tuple[Occasion, ...] = ("argument_invalid", "map_exists", "map_unknown")
        piecemeal = all_of(
            self.answers.commands(message, lambda row: not row.whole),
            any_of([self.answers.comes_from(verdict, when) for when in invalid]),
        )
        return [
            Event("connect", z3.Not(now["connected"]), {"connected": z3.BoolVal(True)}),
            Event(
                "served",
                all_of(served, done >= 0),
                self._served(now, message, choose) | replies,
            ),
            Event(
                "refused",
                all_of(comes, done >= 0, self.answers.comes_to(verdict, "error", "closes")),
                {
                    **replies,
                    "closing": self.answers.comes_to(verdict, "closes"),
                    "work": now["work"] + z3.If(piecemeal, done, z3.IntVal(0)),
                }
                | self._wrongly_refused(now, message, verdict),
            ),
            self._failed(now, message, choose, served, replies),
            Event(
                "ignored",
                all_of(comes, self.answers.comes_to(verdict, "ignored")),
                self._owing(now, message),
            ),
            Event(
                "deliver",
                all_of(now["connected"], now["keeps_replies"] > 0),
                {"keeps_replies": now["keeps_replies"] - 1, "sent": now["sent"] + 1},
            ),
            Event(
                "ask",
                all_of(there, self._may_ask(now, message), self._room(now, "server_commands")),
                {"keeps_server_commands": now["keeps_server_commands"] + 1},
            ),
            Event(
                "answered",
                all_of(there, awaited),
                {"keeps_server_commands": now["keeps_server_commands"] - 1},
            ),
            self._put_off(now, message, all_of(there, z3.Not(awaited))),
            Event(
                "taken_up",
                all_of(there, now["keeps_server_commands"] == 0),
                {f"keeps_{name}": z3.IntVal(0) for name in _PUT_OFF},
            ),
            Event("disconnect", now["connected"], self._after_disconnect(now)),
        ]

    def _wrongly_refused(self, now: Situation, message: Message, verdict: Term) -> dict[str, Term]:
        """What a refusal changes that it must not: nothing, unless a fault is asked for."""
        faults, encoding = self.encoding.faults, self.encoding
        found: dict[str, Term] = {}
        if "refusal-answered-twice" in faults:
            again = self._answering(now, message)["keeps_replies"] - now["keeps_replies"]
            found["sent"] = now["sent"] + again
        if "refusal-forgets-size" in faults:
            found["peer"] = z3.IntVal(0)
        if "refusal-resets" in faults:
            asked = self.answers.comes_from(verdict, "request_refused")
            landed = self._landing(encoding.spec.event("reset"), now["state"], now["open"])
            found |= {name: z3.If(asked, landed[name], now[name]) for name in landed}
        return found

    def _put_off(self, now: Situation, message: Message, comes: Formula) -> Event:
        """A command that has to wait until the client has given memory of the guest is kept.

        It is served or refused after that, and owed a reply from then on. What cannot be read, or
        is longer than any command, is not put off.
        """
        amounts = (z3.IntVal(1), message.size - self.wire.header_size, message.fds)
        kept = {
            f"keeps_{name}": now[f"keeps_{name}"] + amount
            for name, amount in zip(_PUT_OFF, amounts, strict=True)
        }
        largest = self.wire.largest_request
        read = all_of(
            message.size >= self.wire.header_size,
            message.size <= largest if largest is not None else z3.BoolVal(True),
            message.fds >= 0,
            message.fds <= self.wire.limit("max_msg_fds").value,
        )
        waits = all_of(now["agreed"], now["keeps_server_commands"] > 0)
        room = [self._fits_in(kept[f"keeps_{name}"], name) for name in _PUT_OFF]
        return Event(
            "put_off",
            all_of(comes, waits, self.answers.is_type(message, "command"), read, *room),
            kept,
        )

    def _sensible(self, now: Situation, message: Message) -> Formula:
        """What no message can be: counts below zero, more taken than is there."""
        takes = [
            message.removed <= now[f"keeps_{row.removes}"]
            for row in self.wire.commands
            if row.removes is not None
        ]
        counts = (message.size, message.fds, message.count, message.added, message.removed)
        return all_of(*(term >= 0 for term in counts), *takes)

    def _single(self, message: Message) -> Formula:
        """The message stands for itself, and not for a flood of messages like it."""
        many = self.answers.commands(message, lambda row: row.takes_fds == "many")
        return z3.If(many, message.added <= message.fds, message.added == 1)

    def _room(self, now: Situation, name: str) -> Formula:
        """There is room in a holding at whose limit the server waits."""
        return self._fits_in(now[f"keeps_{name}"] + 1, name)

    def _fits_in(self, amount: Term, name: str) -> Formula:
        """So much is within the limit of a holding, if the server waits there."""
        row = self.wire.holding(name)
        if row.limit is None or row.full != "waits":
            return z3.BoolVal(True)
        return amount <= self.wire.limit(row.limit).value

    def _owing(self, now: Situation, message: Message) -> dict[str, Term]:
        """A command that did not ask for silence is owed a reply."""
        owed = all_of(z3.Not(message.quiet), z3.Not(self.answers.is_type(message, "reply")))
        return {"due": now["due"] + z3.If(owed, z3.IntVal(1), z3.IntVal(0))}

    def _answering(self, now: Situation, message: Message) -> dict[str, Term]:
        silent = z3.Or(message.quiet, self.answers.is_type(message, "reply"))
        some = z3.If(silent, z3.IntVal(0), z3.IntVal(1))
        return {"keeps_replies": now["keeps_replies"] + some}

    def _served(self, now: Situation, message: Message, choose: Choose) -> dict[str, Term]:
        encoding = self.encoding
        negotiates = self.answers.commands(message, lambda row: row.does == "negotiate")
        resets = self.answers.commands(message, lambda row: row.does == "reset")
        setting = all_of(message.set, z3.Not(message.probe))
        starts = all_of(
            setting, self.answers.features(message, lambda row: row.logging == "starts")
        )
        stops = all_of(setting, self.answers.features(message, lambda row: row.logging == "stops"))
        moves = all_of(self.answers.sets(message), self.answers.sets_out(now, message))
        arrived = self.answers.reached(now, message)
        reset = self._landing(encoding.spec.event("reset"), now["state"], now["open"])
        forgotten = resets if "reset-ends-logging" in encoding.faults else z3.BoolVal(False)
        state = z3.If(moves, arrived, now["state"])
        return {
            "agreed": z3.Or(now["agreed"], negotiates),
            "versions": now["versions"] + z3.If(negotiates, z3.IntVal(1), z3.IntVal(0)),
            "peer": z3.If(negotiates, choose("offer", INT), now["peer"]),
            **{
                f"has_{name}": z3.If(negotiates, choose(f"has_{name}'", BOOL), now[f"has_{name}"])
                for name in self.options
            },
            **{
                f"keeps_{row.name}": self.answers.kept(now, message, row.name)
                for row in self.wire.holdings
            },
            "state": z3.If(resets, reset["state"], state),
            "open": z3.If(
                resets, reset["open"], z3.If(moves, self.device.streams(arrived), now["open"])
            ),
            "logging": all_of(z3.Or(now["logging"], starts), z3.Not(z3.Or(stops, forgotten))),
            "work": now["work"] + choose("done", INT),
        }

    def _failed(
        self,
        now: Situation,
        message: Message,
        choose: Choose,
        served: Formula,
        replies: dict[str, Term],
    ) -> Event:
        """An arc fails: the device is where the path had got, or where the table has it land."""
        spec, device = self.encoding.spec, self.device
        stop = choose("stop", self.encoding.state_sort)
        for_good = choose("for_good", BOOL)
        on_the_way = all_of(
            self.answers.sets(message),
            self.answers.sets_out(now, message),
            stop != message.asked,
            stop != self.encoding.none,
            device.on_path(now["state"], message.asked, stop),
        )
        session = z3.If(stop == now["state"], now["open"], device.streams(stop))
        back, lost = (
            self._landing(spec.event("arc_failed"), stop, session),
            self._landing(spec.event("arc_failed_for_good"), stop, session),
        )
        landed = {name: z3.If(for_good, lost[name], back[name]) for name in back}
        if "failure-unanswered" in self.encoding.faults:
            replies = replies | {"keeps_replies": now["keeps_replies"]}
        if "failure-loses-session" in self.encoding.faults:
            landed |= {"open": z3.BoolVal(False)}
        named = choose("named", INT)  # an errno that the device has for it, or 0
        return Event("failed", all_of(served, on_the_way, named >= 0), {**replies, **landed})

    def _landing(self, row: EventRow, state: Term, session: Formula) -> dict[str, Term]:
        """What a row of [[events]] makes of a device in this state."""
        return {
            "state": state if row.to is None else self.encoding.state(row.to),
            "open": z3.BoolVal(False) if row.session == "ended" else session,
        }

    def _may_ask(self, now: Situation, message: Message) -> Formula:
        """The server sends a command of its own, no larger than the client allows."""
        may = []
        for row in self.wire.commands:
            if row.sender == "server":
                bounds = [now["peer"] for bound in (row.request_bound, row.reply_bound) if bound]
                within = [message.count <= bound for bound in bounds]
                early = z3.BoolVal(row.before_version)
                may.append(
                    all_of(message.number == row.number, z3.Or(now["agreed"], early), *within)
                )
        return all_of(any_of(may), message.count >= 0)

    def _after_disconnect(self, now: Situation) -> dict[str, Term]:
        """Nothing of a connection outlives it but what the disconnect row keeps."""
        spec = self.encoding.spec
        row = spec.event("disconnect")
        stays = {"work"} | {
            f"keeps_{holding.name}"
            for holding in self.wire.holdings
            if holding.belongs_to == "client" and holding.name not in row.drops
        }
        cleared: dict[str, Term] = {
            name: z3.IntVal(0) if sort == INT else z3.BoolVal(False)
            for name, sort in self.sorts.items()
            if sort in (INT, BOOL) and name not in stays
        }
        return cleared | self._landing(row, now["state"], now["open"])

    # --- lemmas ---

    @functools.cached_property
    def lemmas(self) -> dict[str, Lemma]:
        """What proofs about the connection lean on, by name."""
        encoding = self.encoding
        found = [
            Lemma(
                "supported",
                "the device is in a state its capability set has",
                lambda now: encoding.supported(now["state"]),
            ),
            Lemma(
                "agreed-once",
                "a version is agreed once on a connection, or not at all",
                lambda now: now["versions"] == z3.If(now["agreed"], z3.IntVal(1), z3.IntVal(0)),
            ),
            Lemma(
                "counted",
                "each reply that is due was sent or waits to be sent",
                lambda now: all_of(
                    now["due"] == now["sent"] + now["keeps_replies"], now["keeps_replies"] >= 0
                ),
            ),
            Lemma(
                "within",
                "what the server keeps is within its limits",
                lambda now: z3.And(
                    [
                        all_of(now[f"keeps_{row.name}"] >= 0, self.fits(now, row.name))
                        for row in self.wire.holdings
                    ]
                ),
            ),
            Lemma(
                "nobody",
                "nothing is kept for a client that is not there",
                lambda now: z3.Or(now["connected"], self.nothing_kept(now)),
            ),
        ]
        return {lemma.name: lemma for lemma in found}

    def lemma(self, *names: str) -> list[Lemma]:
        """The lemmas of these names."""
        return [self.lemmas[name] for name in names]

    def fits(self, now: Situation, name: str) -> Formula:
        """The server keeps no more than it states it does, or nothing if it does not state."""
        limit = self.wire.holding(name).limit
        return now[f"keeps_{name}"] <= (0 if limit is None else self.wire.limit(limit).value)

    def nothing_kept(self, now: Situation) -> Formula:
        """The server keeps nothing for the client."""
        return all_of(
            z3.Not(now["agreed"]), *(now[f"keeps_{row.name}"] == 0 for row in self.wire.holdings)
        )

    # --- back from z3 ---

    def example_of(
        self, model: z3.ModelRef, run: Sequence[Situation], events: Sequence[str]
    ) -> Example:
        """Return a run as a trace."""
        return traced(self.answers, model, run, events)
