"""Family W: what holds of a vfio-user connection, whatever the client sends.

Each is proved by induction over `ConnectionSystem`, and so for connections of any length and any
number of clients one after another. If an induction fails, runs from the start are searched,
shortest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import z3

from vfio_migration.model.spec import Transfer
from vfio_migration.model.wire import Occasion
from vfio_migration.verifier.obligations.wire_listed import as_listed
from vfio_migration.verifier.obligations.wire_served import (
    logging_kept,
    message_of,
    ought_to_be_served,
    wire_listing,
)
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.explain import Model, asked_trace
from vfio_migration.verifier.solver.obligation import Example, Obligation, Query
from vfio_migration.verifier.solver.system import Bad, Situation, Term
from vfio_migration.verifier.solver.terms import all_of, any_of
from vfio_migration.verifier.systems.connection import ConnectionSystem
from vfio_migration.verifier.systems.connection_answers import Message, number_of

DEPTH = 5
"""How many events a search for a run that breaks an obligation goes."""

_MESSAGES = ("served", "refused", "failed", "ignored")

_SLIPS: tuple[Occasion, ...] = (
    "size_below_header",
    "size_over_limit",
    "fds_over_limit",
    "reply_unasked",
    "type_unknown",
    "version_incompatible",
    "size_wrong",
    "over_bound",
    "flags_unknown",
    "feature_flags_clash",
    "map_exists",
    "map_unknown",
    "argument_invalid",
)
"""What a client that takes care avoids, whatever the situation."""

_UNKNOWN: tuple[Occasion, ...] = (
    "reply_unasked",
    "type_unknown",
    "command_unknown",
    "wrong_direction",
    "not_negotiated",
    "version_incompatible",
    "flags_unknown",
    "feature_flags_clash",
    "feature_unknown",
    "method_unsupported",
    "method_missing",
    "logging_on",
    "logging_off",
    "map_exists",
    "map_unknown",
    "argument_invalid",
)
"""What makes a message one that no table has a meaning for."""

_HOPELESS: tuple[Occasion, ...] = (
    "size_below_header",
    "size_over_limit",
    "fds_over_limit",
    "version_incompatible",
)
"""What a refusal may end the connection for."""

Formulas = Callable[[ConnectionSystem], tuple[Bad, Bad]]
"""From the system to the step that must never happen and one that shows the premise hold."""


def _about(
    formulas: Formulas, lemmas: Sequence[str], witness: int
) -> tuple[Callable[[Encoding], Iterable[Query]], Callable[[Encoding], Iterable[Query]]]:
    """Make the queries of an obligation: induction under lemmas, a witness of so many events."""

    def queries(encoding: Encoding) -> Iterator[Query]:
        system = ConnectionSystem.of(encoding)
        bad, premise = formulas(system)
        held = system.lemma(*lemmas)
        yield from system.inductive(held)
        yield from system.never("broken", bad, held)
        yield system.happens("premise", premise, witness)

    def search(encoding: Encoding) -> Iterator[Query]:
        system = ConnectionSystem.of(encoding)
        yield from system.bounded(formulas(system)[0], DEPTH)

    return queries, search


def _careful(system: ConnectionSystem, now: Situation, message: Message) -> Formula:
    """The client made no slip."""
    occasions = system.answers.occasions(now, message)
    return z3.And([z3.Not(occasions[name]) for name in _SLIPS])


# --- the obligations ---


def _w1(system: ConnectionSystem) -> tuple[Bad, Bad]:
    answers = system.answers

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        message = message_of(system, event)
        negotiates = answers.commands(message, lambda row: row.does == "negotiate")
        served = system.is_event(event, "served", "failed")
        too_early = all_of(
            z3.Not(now["agreed"]),
            z3.Or(all_of(served, z3.Not(negotiates)), system.is_event(event, "ask")),
        )
        unwise = all_of(served, negotiates, message.incompatible)
        return z3.Or(too_early, unwise, then["versions"] > 1)

    def premise(now: Situation, event: Term, then: Situation) -> Formula:
        message = message_of(system, event)
        known = answers.commands(message, lambda row: row.does == "reset")
        early = all_of(system.is_event(event, "refused"), z3.Not(now["agreed"]), known)
        return all_of(early, _careful(system, now, message), z3.Not(then["closing"]))

    return bad, premise


def _w2(system: ConnectionSystem) -> tuple[Bad, Bad]:
    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        message = message_of(system, event)
        reply = system.answers.is_type(message, "reply")
        due = z3.If(z3.Or(message.quiet, reply), z3.IntVal(0), z3.IntVal(1))
        given = then["keeps_replies"] - now["keeps_replies"]
        lost = all_of(system.is_event(event, *_MESSAGES), given != due)
        other = all_of(
            system.is_event(event, "ask", "answered", "put_off", "taken_up"),
            then["keeps_replies"] != now["keeps_replies"],
        )
        return z3.Or(lost, other, then["due"] != then["sent"] + then["keeps_replies"])

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        refused = all_of(system.is_event(event, "refused"), message.quiet, now["agreed"])
        return all_of(refused, _careful(system, now, message))

    return bad, premise


def _w3(system: ConnectionSystem) -> tuple[Bad, Bad]:
    wire, answers = system.wire, system.answers
    largest = wire.largest_request

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        message = message_of(system, event)
        payload = message.size - wire.header_size
        too_much = z3.Or(
            answers.misfits(message, payload),
            answers.over_bound(message, payload, unbounded=True),
            message.fds > wire.limit("max_msg_fds").value,
        )
        beyond = [message.size < wire.header_size]
        if largest is not None:
            beyond.append(message.size > largest)
        read_on = all_of(any_of(beyond), z3.Not(then["closing"]))
        return z3.Or(
            all_of(system.is_event(event, "served", "failed"), too_much),
            all_of(system.is_event(event, *_MESSAGES), read_on),
            all_of(system.is_event(event, "ask"), message.count > now["peer"]),
            *(z3.Not(system.fits(then, row.name)) for row in wire.holdings),
        )

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        full = answers.occasions(now, message)["holding_full"]
        one_more = all_of(message.added == 1, _careful(system, now, message))
        return all_of(system.is_event(event, "refused"), now["agreed"], full, one_more)

    return bad, premise


def _w4(system: ConnectionSystem) -> tuple[Bad, Bad]:
    may_change = ("due", "sent", "keeps_replies", "closing")

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        changed = [then[name] != now[name] for name in now if name not in may_change]
        occasions = system.answers.occasions(now, message_of(system, event))
        # Where the next message begins is lost, or nothing can be agreed on: then it is over.
        hopeless = any_of([occasions[name] for name in _HOPELESS])
        changed.append(all_of(then["closing"], z3.Not(now["closing"]), z3.Not(hopeless)))
        return all_of(system.is_event(event, "refused", "ignored"), any_of(changed))

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        held = [now[f"keeps_{row.name}"] > 0 for row in system.wire.holdings if row.full != "waits"]
        message = message_of(system, event)
        sets = all_of(system.answers.sets(message), _careful(system, now, message))
        known = system.encoding.supported(message.asked)
        return all_of(system.is_event(event, "refused"), sets, known, any_of(held))

    return bad, premise


def _pause_options(system: ConnectionSystem) -> list[str]:
    """Return the variables of the options that an answer of its own for a pause is agreed on by."""
    listed: list[str] = wire_listing()["pause"]["options"]
    return [f"has_{name}" for name in listed if name in system.options]


def _w5(system: ConnectionSystem) -> tuple[Bad, Bad]:
    answers, device, encoding = system.answers, system.device, system.encoding
    ways: tuple[Transfer, ...] = ("read", "write")

    def moving(message: Message, way: Transfer) -> Formula:
        return answers.commands(message, lambda row: row.transfer == way)

    def bad(now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        served = system.is_event(event, "served")
        refused = system.is_event(event, "refused")
        pause = answers.comes_from(answers.verdict(now, message), "nothing_now")
        turned_away = z3.And(refused, now["agreed"], _careful(system, now, message), z3.Not(pause))
        # To a client that did not agree to it, or where no more can come, it would be a failure.
        agreed = any_of([now[name] for name in _pause_options(system)])
        due = z3.And(agreed, answers.pauses(now["state"]))
        empty = z3.And(served, moving(message, "read"), message.drained, due)
        informing = answers.commands(message, lambda row: row.does == "inform")
        denied = z3.And(turned_away, z3.Not(answers.lacks_option(now, message)))
        informs = answers.informs(now["state"])
        cases = [
            z3.And(refused, pause, z3.Not(due)),
            empty,
            z3.And(informing, z3.Or(z3.And(served, z3.Not(informs)), z3.And(denied, informs))),
        ]
        for way in ways:
            streams = device.streams(now["state"], way)
            mismatch = z3.Or(all_of(served, z3.Not(streams)), all_of(turned_away, streams))
            cases.append(all_of(moving(message, way), mismatch))
        for row in wire_listing()["data"]:
            command = system.wire.command(row["command"])
            if command is None:
                continue
            there, elsewhere = (
                encoding.one_of(now["state"], [n for n in row[key] if n in encoding.names])
                for key in ("states", "not_states")
            )
            mismatch = z3.Or(all_of(served, elsewhere), all_of(turned_away, there))
            cases.append(all_of(message.number == command.number, mismatch))
        return any_of(cases)

    def premise(_now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        return all_of(system.is_event(event, "served"), moving(message, "read"))

    return bad, premise


def _w6(system: ConnectionSystem) -> tuple[Bad, Bad]:
    answers = system.answers

    def reads_state(message: Message) -> Formula:
        moves = answers.features(message, lambda row: row.moves)
        return all_of(moves, message.get, z3.Not(message.set), z3.Not(message.probe))

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        message = message_of(system, event)
        left = z3.Or(
            then["state"] != now["state"],
            then["open"] != now["open"],
            z3.Not(system.nothing_kept(then)),
        )
        careful = _careful(system, now, message)
        first = all_of(
            z3.Not(now["agreed"]), answers.commands(message, lambda row: row.does == "negotiate")
        )
        later = all_of(
            now["agreed"],
            z3.Or(
                answers.commands(message, lambda row: row.does == "reset"),
                reads_state(message),
                all_of(answers.sets(message), answers.sets_out(now, message)),
            ),
        )
        wanted = all_of(careful, z3.Not(all_of(message.get, message.set)), z3.Or(first, later))
        return z3.Or(
            all_of(system.is_event(event, "disconnect"), left),
            all_of(system.is_event(event, "connect"), z3.Not(system.nothing_kept(then))),
            all_of(system.is_event(event, "refused", "ignored"), wanted),
        )

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        return all_of(system.is_event(event, "disconnect"), now["agreed"], now["open"])

    return bad, premise


def _left_for_good(encoding: Encoding) -> Iterator[Query]:
    """From no state is the way back to the initial one longer than a reset and a request."""
    spec, system = encoding.spec, ConnectionSystem.of(encoding)
    initial, landing = encoding.state(spec.initial), spec.event("reset").to
    state = encoding.variable("state")
    message = system.answers.message("back")

    def by_request(from_: Term) -> Formula:
        goes = system.answers.sets_out({"state": from_}, message)
        return z3.Or(from_ == initial, goes)

    reset = by_request(state if landing is None else encoding.state(landing))

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        name = encoding.read_state(model, state) or "?"
        text = (
            f"a client that finds the device in {name} cannot bring it to {spec.initial}, with a "
            f"reset or without (capabilities {encoding.set_name(word)})"
        )
        return Example(text, asked_trace(encoding, word, name, spec.initial, text))

    known = all_of(system.facts, encoding.supported(state), message.asked == initial)
    back = z3.Or(by_request(state), reset)
    yield Query("stranded", "claim", (known, z3.Not(back)), "unsat", explain)


def _w7(system: ConnectionSystem) -> tuple[Bad, Bad]:
    answers, spec = system.answers, system.encoding.spec
    expected = number_of(wire_listing()["refusal"]["errno"])
    named = [row.errno for row in system.wire.answers]
    named += [row.errno for row in spec.requests]
    named += [row.errno for row in spec.refusals]
    refusals = sorted({number_of(errno) for errno in named} - {0})

    def bad(now: Situation, event: Term, then: Situation) -> Formula:
        moment = str(event).partition("@")[2]
        message = answers.message(moment)
        refused, failed = system.is_event(event, "refused"), system.is_event(event, "failed")
        errno, failure = answers.errno(now, moment), answers.failure(moment)
        named = z3.Int(f"named@{moment}")
        against_table = all_of(
            now["agreed"],
            _careful(system, now, message),
            answers.sets(message),
            z3.Not(message.get),
            answers.refusal(now, message) != 0,
            system.is_event(event, *_MESSAGES),
            z3.Not(all_of(refused, errno == expected)),
        )
        # Whatever errno a device has of its own: the state that is read back says enough.
        back = then["state"] == now["state"]
        there = z3.Or(
            system.device.on_path(now["state"], message.asked, then["state"]),
            system.device.failed(then["state"]),
        )
        misread = z3.Or(all_of(back, then["open"] != now["open"]), z3.Not(there))
        taken_for_refusal = any_of([failure == number for number in (0, *refusals)])
        return z3.Or(
            all_of(refused, errno == 0),
            all_of(failed, failure == 0),
            all_of(failed, named == 0, taken_for_refusal),
            all_of(failed, misread),
            against_table,
        )

    def premise(now: Situation, event: Term, then: Situation) -> Formula:
        """A device answers as a refusal does, and is found elsewhere."""
        moment = str(event).partition("@")[2]
        like_one = answers.failure(moment) == expected
        return all_of(system.is_event(event, "failed"), like_one, then["state"] != now["state"])

    return bad, premise


def _w8(system: ConnectionSystem) -> tuple[Bad, Bad]:
    def bad(now: Situation, event: Term, _then: Situation) -> Formula:
        occasions = system.answers.occasions(now, message_of(system, event))
        unknown = any_of([occasions[name] for name in _UNKNOWN])
        return all_of(system.is_event(event, "served", "failed"), unknown)

    def premise(now: Situation, event: Term, _then: Situation) -> Formula:
        message = message_of(system, event)
        unknown = system.answers.occasions(now, message)["feature_unknown"]
        only_get = all_of(message.get, z3.Not(message.set), z3.Not(message.probe))
        refused = all_of(system.is_event(event, "refused"), now["agreed"], unknown)
        return all_of(refused, only_get, _careful(system, now, message))

    return bad, premise


_W3_QUERIES, _W3_SEARCH = _about(_w3, ("within",), 4)


def _w3_queries(encoding: Encoding) -> Iterator[Query]:
    yield from _W3_QUERIES(encoding)
    system = ConnectionSystem.of(encoding)

    def put_off(_now: Situation, event: Term, then: Situation) -> Formula:
        return all_of(system.is_event(event, "put_off"), then["keeps_put_off_fds"] > 0)

    yield system.happens("put-off", put_off, 4)


_W6_QUERIES, _W6_SEARCH = _about(_w6, ("supported", "nobody"), 4)


def _w6_queries(encoding: Encoding) -> Iterator[Query]:
    yield from _left_for_good(encoding)
    yield from _W6_QUERIES(encoding)


_EVERY = "every run of a server and its clients, whatever they send, under every capability set"

WIRE: tuple[Obligation, ...] = (
    Obligation(
        "W1",
        "Nothing is served and nothing is asked of the client before the version is agreed, and it "
        "is agreed at most once on a connection.",
        _EVERY,
        "induction",
        "Sizes and bounds mean nothing until both sides have agreed on them.",
        *_about(_w1, ("agreed-once",), 2),
        title="The version comes first",
        not_shown="That the two versions agreed on mean the same to both.",
    ),
    Obligation(
        "W2",
        "Every command gets exactly one reply, and none if it asked for none, refused or not; what "
        "is not a command gets none.",
        _EVERY,
        "induction",
        "A client that waits for a reply that never comes hangs; one that gets two is out of step.",
        *_about(_w2, ("counted",), 3),
        title="One reply to each command",
        not_shown="When it comes; a callback of the device may take any time.",
    ),
    Obligation(
        "W3",
        "Sizes, counts and descriptors are bounded: nothing over its bound is served, and what the "
        "server keeps never exceeds a limit that the table states.",
        _EVERY,
        "induction",
        "What a client can make grow without bound, a hostile one will.",
        _w3_queries,
        _W3_SEARCH,
        title="What a client can ask for is bounded",
        not_shown="The memory of the process as such: a bound is on counts and sizes that the "
        "table names.",
    ),
    Obligation(
        "W4",
        "A refused command changes nothing: not the device, not the session, not what was agreed, "
        "not what the server keeps; and the connection goes on, unless where the next message "
        "begins is lost or no version can be agreed on.",
        _EVERY,
        "induction",
        "A client that was refused must be able to go on as if it had not asked.",
        *_about(_w4, (), 4),
        title="A refused command changes nothing",
        not_shown="The log, and the counters of the status socket: both note that something was "
        "refused.",
    ),
    Obligation(
        "W5",
        "Migration data is read in exactly the states that stream out, and written in exactly "
        "those that stream in; how much is left is answered where more may come, and there alone "
        "a client that agreed to it is answered that there is nothing now.",
        _EVERY,
        "induction",
        "Over a socket there is no descriptor to close: the state alone must decide.",
        *_about(_w5, (), 4),
        title="Data moves where states stream",
        not_shown="The content of the data, which S is about.",
    ),
    Obligation(
        "W6",
        "A client that goes away takes its maps and interrupts with it and leaves the device as it "
        "is; the next one negotiates anew, can read the state, and can reach the initial state "
        "with at most one reset.",
        _EVERY,
        "induction",
        "A server whose client was killed in mid-migration once refused every later client.",
        _w6_queries,
        _W6_SEARCH,
        title="A client that goes leaves no trace",
        not_shown="A client that hangs and keeps its connection; the idle timeout of the server "
        "is for that one.",
    ),
    Obligation(
        "W7",
        "By the errno and the state it reads back a client knows what became of its request: what "
        "the migration table refuses is answered as Linux answers it, and no error is zero; after "
        "a failure, whatever errno the device has for it, the state is on the path or the failed "
        "one, and where it is as before, so is the session; a failure for which the device has no "
        "errno is answered as no refusal is.",
        _EVERY,
        "induction",
        "After a refusal nothing has changed; after a failure the state must be read back.",
        *_about(_w7, (), 3),
        title="The errno and the state show what happened",
        not_shown="Devices with an errno of their own that equals a refusal's: there the state "
        "that is read back decides.",
    ),
    Obligation(
        "W8",
        "Only what the table gives a meaning is served: no unknown message, command, flag, feature "
        "or method, none that was not agreed on, and none out of its place.",
        _EVERY,
        "induction",
        "A number that is looked up past the end of a table is how servers are taken over.",
        *_about(_w8, (), 3),
        title="Only what has a meaning is served",
        not_shown="That the code looks at nothing else: the server is held to this by tests with "
        "hostile messages.",
    ),
    Obligation(
        "W9",
        "What ought to be served is served: each command of the specification in every state that "
        "it is for, the reports of capabilities and of the state, and the features that log DMA, "
        "to a client that keeps to the text and asks for no more than a page at a time.",
        _EVERY,
        "induction",
        "A server that refuses everything breaks no rule, and is of no use.",
        *_about(ought_to_be_served, (), 3),
        title="What ought to be served is served",
        not_shown="Commands that a device may lack: they are listed as such and may be refused.",
    ),
    Obligation(
        "W10",
        "DMA is logged from the START that is served to the STOP that is, or to the end of the "
        "connection; nothing else begins or ends that, and a report is served only meanwhile.",
        _EVERY,
        "induction",
        "What is written while nobody logs is never reported, and a client does not notice.",
        *_about(logging_kept, (), 4),
        title="Logging lasts from START to STOP",
        not_shown="What is logged meanwhile: S6. And writes between the start of the device and "
        "START.",
    ),
    Obligation(
        "W11",
        "The table of the connection has what the specifications list: the fields of the header, "
        "commands, features, flags and options, with their numbers, sizes, methods, descriptors "
        "and defaults, and the errnos that a source states; and no limit is so small that it "
        "shuts out a peer that keeps to the text, or has the server wait for ever.",
        "each listed row, cell by cell",
        "exhaustive",
        "A table with another number proves everything else, and no peer understands its server.",
        as_listed,
        title="Numbers and sizes are as listed",
        not_shown="What is our own decision, as how much the server keeps: any number will do "
        "that leaves room.",
    ),
)
"""Family W; W8 to W11 beside what DESIGN.md asks."""
