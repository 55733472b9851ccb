"""How the server decides a message, as formulas over the two tables.

The first row of `[[answers]]` whose occasion is met decides; a message about which no row speaks is
served. What a request for a state comes to is decided by `[[requests]]` of the migration table.
"""

from __future__ import annotations

import errno as errno_module
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import z3

from vfio_migration.model.spec import StreamEnd
from vfio_migration.model.wire import Command, Feature, Occasion, Wire
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.system import Situation, Term
from vfio_migration.verifier.solver.terms import all_of, any_of
from vfio_migration.verifier.systems.device import DeviceSystem

Made = TypeVar("Made")
Choose = Callable[[str, z3.SortRef], Term]

BOOL, INT = z3.BoolSort(), z3.IntSort()
_NUMBER, _TYPE, _VERDICT = z3.BitVecSort(16), z3.BitVecSort(4), z3.BitVecSort(6)


@dataclass(frozen=True)
class Message:
    """What a client sends, every part of it for the solver to choose.

    Attributes:
        type: The type bits of the header.
        number: The command.
        quiet: It asks for no reply.
        size: Its size, header included, as the header has it.
        fds: How many descriptors come with it.
        count: How much data it asks for.
        feature, get, set, probe: The flags of DEVICE_FEATURE.
        odd: Its flags word has a bit that no row names, or bits that are not set together.
        asked: The state asked for.
        incompatible: The server cannot agree to this version.
        invalid: An argument is out of range; for a map it overlaps, or is not there.
        drained: There is no migration data to read when it comes.
        added, removed: What it adds to what the server keeps, and takes from it. A served message
            that wants no reply may stand for a flood of messages like it, told as one.
    """

    type: Term
    number: Term
    quiet: Formula
    size: Term
    fds: Term
    count: Term
    feature: Term
    get: Formula
    set: Formula
    probe: Formula
    odd: Formula
    asked: Term
    incompatible: Formula
    invalid: Formula
    drained: Formula
    added: Term
    removed: Term

    @classmethod
    def chosen(cls, encoding: Encoding, choose: Choose) -> Message:
        """A message of one moment."""
        sorts = {
            "type": _TYPE,
            "number": _NUMBER,
            "feature": _NUMBER,
            "asked": encoding.state_sort,
            **dict.fromkeys(("size", "fds", "count", "added", "removed"), INT),
        }
        names = cls.__dataclass_fields__
        return cls(**{name: choose(name, sorts.get(name, BOOL)) for name in names})


class Answers:
    """What the two tables specify for a message.

    Attributes:
        encoding: The migration table in z3.
        wire: The table of the connection.
        device: What a device does.
    """

    def __init__(self, encoding: Encoding, wire: Wire) -> None:
        self.encoding = encoding
        self.wire = wire
        self.device = DeviceSystem.of(encoding)
        self._made: dict[tuple[object, ...], tuple[object, object]] = {}

    def _once(self, kind: str, now: Situation, message: Message, make: Callable[[], Made]) -> Made:
        """Make what is stated of a message in a situation once: formulas are dear to build."""
        parts = (message.number, now["state"], now.get("agreed"))
        key = (kind, *(None if term is None else term.get_id() for term in parts))
        if key not in self._made:
            # With the terms, whose numbers could be given to others if they were forgotten.
            self._made[key] = (parts, make())
        return cast("Made", self._made[key][1])

    def message(self, moment: int | str) -> Message:
        """The message of one moment."""
        return Message.chosen(self.encoding, lambda name, sort: z3.Const(f"{name}@{moment}", sort))

    def commands(self, message: Message, wanted: Callable[[Command], bool]) -> Formula:
        """The command is one of these."""
        return any_of([message.number == row.number for row in self.wire.commands if wanted(row)])

    def features(self, message: Message, wanted: Callable[[Feature], bool]) -> Formula:
        """The message is about one of these features."""
        found = [message.feature == row.number for row in self.wire.features if wanted(row)]
        about = self.commands(message, lambda row: row.does == "feature")
        return all_of(about, any_of(found))

    def is_type(self, message: Message, name: str) -> Formula:
        """The type bits say this."""
        return message.type == self.wire.bits("header", name).value

    def sets(self, message: Message) -> Formula:
        """The message is a SET_STATE."""
        moving = self.features(message, lambda row: row.moves)
        return all_of(moving, message.set, z3.Not(message.probe))

    def sets_out(self, now: Situation, message: Message) -> Formula:
        """No row of [[requests]] stops the request for a state."""
        return z3.Not(any_of([holds for holds, _ in self.requests(now, message)]))

    def reached(self, now: Situation, message: Message) -> Term:
        """Where the device gets on the way to the state asked for: there, if all is well."""
        path = self.encoding.follow(now["state"], message.asked)
        last = path[0]
        for term in path[1:]:
            last = z3.If(term == self.encoding.none, last, term)
        return last

    def requests(self, now: Situation, message: Message) -> list[tuple[Formula, int]]:
        """How [[requests]] decides: per row in their order, that it holds, and its errno or 0."""
        return self._once("requests", now, message, lambda: self._requests(now, message))

    def _requests(self, now: Situation, message: Message) -> list[tuple[Formula, int]]:
        encoding, state, asked = self.encoding, now["state"], message.asked
        spec = encoding.spec
        leaving = sorted({line.from_ for line in encoding.lines})
        conditions = {
            "value_unknown": z3.Not(encoding.one_of(asked, encoding.names)),
            "target_unsupported": z3.Not(encoding.supported(asked)),
            "target_not_settable": z3.Not(encoding.settable(asked)),
            "already_there": asked == state,
            "no_way_out": z3.Not(encoding.one_of(state, leaving)),
            "no_path": self.reached(now, message) != asked,
        }
        decided: list[tuple[Formula, int]] = []
        for row in spec.requests:
            if row.when == "pair_refused":
                decided += [
                    (
                        all_of(
                            state == encoding.state(pair.from_), asked == encoding.state(pair.to)
                        ),
                        number_of(pair.errno),
                    )
                    for pair in spec.refusals
                ]
            else:
                errno = number_of(row.errno) if row.outcome == "refused" else 0
                decided.append((conditions[row.when], errno))
        return decided

    def refusal(self, now: Situation, message: Message) -> Term:
        """The errno with which the migration table refuses a request for a state, or 0."""
        errno: Term = z3.IntVal(0)
        for holds, number in reversed(self.requests(now, message)):
            errno = z3.If(holds, z3.IntVal(number), errno)
        return errno

    # --- how a message is decided ---

    def occasions(self, now: Situation, message: Message) -> dict[Occasion, Formula]:
        """When each occasion of [[answers]] is met."""
        return self._once("occasions", now, message, lambda: self._occasions(now, message))

    def _occasions(self, now: Situation, message: Message) -> dict[Occasion, Formula]:
        wire, agreed = self.wire, now["agreed"]
        payload = message.size - wire.header_size
        command, feature = self.commands, self.features
        about = command(message, lambda row: row.does == "feature")
        unprobed = all_of(about, z3.Not(message.probe))
        setting = all_of(unprobed, message.set)
        transfers = [
            all_of(
                command(message, lambda row, way=way: row.transfer == way),  # type: ignore[misc]
                z3.Not(self.device.streams(now["state"], way)),
            )
            for way in ("read", "write")
        ]
        largest = wire.largest_request
        return {
            "size_below_header": message.size < wire.header_size,
            "size_over_limit": message.size > (largest or 0) if largest else z3.BoolVal(False),
            "fds_over_limit": message.fds > wire.limit("max_msg_fds").value,
            "reply_unasked": self.is_type(message, "reply"),
            "type_unknown": z3.Not(
                z3.Or(self.is_type(message, "command"), self.is_type(message, "reply"))
            ),
            "command_unknown": z3.Not(command(message, lambda _: True)),
            "wrong_direction": command(message, lambda row: row.sender == "server"),
            "version_first": all_of(
                z3.Not(agreed), z3.Not(command(message, lambda row: row.before_version))
            ),
            "version_again": all_of(agreed, command(message, lambda row: row.does == "negotiate")),
            "version_incompatible": all_of(
                command(message, lambda row: row.does == "negotiate"), message.incompatible
            ),
            "not_negotiated": self.lacks_option(now, message),
            "size_wrong": self.misfits(message, payload),
            "over_bound": self.over_bound(message, payload),
            "flags_unknown": all_of(message.odd, self.looks_at_flags(message)),
            "feature_flags_clash": all_of(unprobed, message.get, message.set),
            "feature_unknown": all_of(about, z3.Not(feature(message, lambda _: True))),
            "method_unsupported": self.lacks_method(message),
            "method_missing": all_of(unprobed, z3.Not(message.get), z3.Not(message.set)),
            "logging_on": all_of(
                setting, feature(message, lambda row: row.logging == "starts"), now["logging"]
            ),
            "logging_off": all_of(
                unprobed,
                feature(message, lambda row: row.logging == "needs"),
                z3.Not(now["logging"]),
            ),
            "out_of_session": any_of([*transfers, self.uninformed(now, message)]),
            "nothing_now": z3.And(
                command(message, lambda row: row.transfer == "read"),
                message.drained,
                self.pauses(now["state"]),
            ),
            "map_exists": z3.And(
                message.invalid,
                command(message, lambda row: row.adds is not None and row.removes is None),
            ),
            "map_unknown": all_of(
                message.invalid,
                command(message, lambda row: row.removes is not None and row.adds is None),
            ),
            "argument_invalid": all_of(
                message.invalid,
                command(message, lambda row: (row.adds is None) == (row.removes is None)),
            ),
            "holding_full": self.overfills(now, message),
            "request_refused": all_of(self.sets(message), self.refusal(now, message) != 0),
        }

    def pauses(self, state: Term) -> Formula:
        """A stream that is read in this state comes to a temporary end."""
        return self._ends(state, lambda end: end.kind == "temporary")

    def informs(self, state: Term) -> Formula:
        """In this state a client may ask how much is left to read."""
        return self._ends(state, lambda end: end.precopy_info)

    def _ends(self, state: Term, wanted: Callable[[StreamEnd], bool]) -> Formula:
        spec = self.encoding.spec
        ends = {row.name: spec.stream_end(row.name) for row in spec.states}
        names = [name for name, end in ends.items() if end is not None and wanted(end)]
        return self.encoding.one_of(state, names)

    def uninformed(self, now: Situation, message: Message) -> Formula:
        """The command asks how much is left to read where no more can come."""
        asks = self.commands(message, lambda row: row.does == "inform")
        return z3.And(asks, z3.Not(self.informs(now["state"])))

    def lacks_option(self, now: Situation, message: Message) -> Formula:
        """The command belongs to an option that was not agreed on."""
        return any_of(
            [
                all_of(message.number == row.number, z3.Not(now[f"has_{row.needs}"]))
                for row in self.wire.commands
                if row.needs is not None
            ]
        )

    def looks_at_flags(self, message: Message) -> Formula:
        """The command has a flags word of which not every value is taken."""
        looked_at = {row.command for row in self.wire.words if row.unknown == "refused"}
        return self.commands(message, lambda row: row.name in looked_at)

    def misfits(self, message: Message, payload: Term) -> Formula:
        """The payload is not as long as the command, or the data of the feature, must be."""
        wrong = []
        for fixed in sorted({row.request for row in self.wire.commands}):
            exact = self.commands(
                message,
                lambda row, n=fixed: row.request == n and not _may_be_longer(row),  # type: ignore[misc]
            )
            least = self.commands(
                message,
                lambda row, n=fixed: row.request == n and _may_be_longer(row),  # type: ignore[misc]
            )
            wrong += [all_of(exact, payload != fixed), all_of(least, payload < fixed)]
        (carrier,) = (row for row in self.wire.commands if row.does == "feature")
        for row in self.wire.features:
            about = all_of(
                self.features(message, lambda other, this=row: other is this),  # type: ignore[misc]
                z3.Not(message.probe),
            )
            for method, least_data in (
                (message.get, row.get_request),
                (message.set, row.set_request),
            ):
                if least_data:
                    wrong.append(all_of(about, method, payload < carrier.request + least_data))
        return any_of(wrong)

    def over_bound(self, message: Message, payload: Term, *, unbounded: bool = False) -> Formula:
        """More data comes, or is asked for, than the limit of the command allows.

        With `unbounded`, also if the command has no limit and data comes at all.
        """
        over = []
        for row in self.wire.commands:
            here = message.number == row.number
            padding = row.request_padding
            for item, bound, amount in (
                (row.request_item, row.request_bound, payload - row.request),
                (padding is not None, padding, payload - row.request),
                (row.reply_item, row.reply_bound, message.count),
            ):
                if item and bound is not None:
                    over.append(all_of(here, amount > self.wire.limit(bound).value))
                elif item and unbounded:
                    over.append(all_of(here, amount > 0))
        return any_of(over)

    def lacks_method(self, message: Message) -> Formula:
        """The feature has not all methods that the flags name."""
        return z3.Or(
            all_of(message.get, self.features(message, lambda row: not row.get)),
            all_of(message.set, self.features(message, lambda row: not row.set)),
        )

    def kept(self, now: Situation, message: Message, name: str) -> Term:
        """How much of a holding is kept once the message is served."""
        adds = self.commands(message, lambda row: row.adds == name)
        removes = self.commands(message, lambda row: row.removes == name)
        zero = z3.IntVal(0)
        return (
            now[f"keeps_{name}"]
            + z3.If(adds, message.added, zero)
            - z3.If(removes, message.removed, zero)
        )

    def overfills(self, now: Situation, message: Message) -> Formula:
        """The command would make the server keep more than it has agreed to."""
        full = []
        for row in self.wire.holdings:
            if row.limit is not None and row.full == "refused":
                adds = self.commands(message, lambda command, name=row.name: command.adds == name)  # type: ignore[misc]
                limit = self.wire.limit(row.limit).value
                full.append(all_of(adds, self.kept(now, message, row.name) > limit))
        return any_of(full)

    def verdict(self, now: Situation, message: Message) -> Term:
        """Which row of [[answers]] decides, counted from 1; 0 if the message is served."""
        return self._once("verdict", now, message, lambda: self._verdict(now, message))

    def _verdict(self, now: Situation, message: Message) -> Term:
        occasions = self.occasions(now, message)
        verdict: Term = z3.BitVecVal(0, _VERDICT.size())
        for index, row in reversed(list(enumerate(self.wire.answers, start=1))):
            if row.when in occasions:
                met = occasions[row.when]
                if row.needs is not None:
                    met = z3.And(met, now[f"has_{row.needs}"])
                verdict = z3.If(met, z3.BitVecVal(index, _VERDICT.size()), verdict)
        return verdict

    def comes_to(self, verdict: Term, *outcomes: str) -> Formula:
        """The deciding row has one of these outcomes."""
        rows = enumerate(self.wire.answers, start=1)
        return any_of([verdict == index for index, row in rows if row.outcome in outcomes])

    def comes_from(self, verdict: Term, when: Occasion) -> Formula:
        """The deciding row is the one about this occasion."""
        rows = enumerate(self.wire.answers, start=1)
        return any_of([verdict == index for index, row in rows if row.when == when])

    def errno(self, now: Situation, moment: int | str) -> Term:
        """The errno of the error that answers the message of a moment; 0 if there is none."""
        message = self.message(moment)
        verdict = self.verdict(now, message)
        errno: Term = z3.IntVal(0)
        for index, row in enumerate(self.wire.answers, start=1):
            number = (
                self.refusal(now, message)
                if row.when == "request_refused"
                else z3.IntVal(number_of(row.errno))
            )
            errno = z3.If(verdict == index, number, errno)
        return errno

    def failure(self, moment: int | str) -> Term:
        """The errno that answers a request of which an arc failed; 0 if it is not answered.

        A device may have one of its own for it: any.
        """
        if self.wire.answer("request_failed") is None:
            return z3.IntVal(0)
        named = z3.Int(f"named@{moment}")
        back, for_good = (
            number_of(self.encoding.spec.event(name).errno)
            for name in ("arc_failed", "arc_failed_for_good")
        )
        tables = z3.If(z3.Bool(f"for_good@{moment}"), z3.IntVal(for_good), z3.IntVal(back))
        return z3.If(named > 0, named, tables)


def _may_be_longer(row: Command) -> bool:
    """Return whether something may follow the fixed part of a command."""
    return bool(row.request_item) or row.request_padding is not None


def number_of(errno: str | None) -> int:
    """The number of an errno; 0 for none."""
    return 0 if errno is None else int(getattr(errno_module, errno))
