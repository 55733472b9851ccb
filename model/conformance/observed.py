"""What clients saw of their devices, held against the specification: which step first breaks it.

A client sees no arcs, only answers. So what is followed is the set of all situations a device can
be in after what was answered: any, at the beginning; after a request that failed, any on its path
up to the arc that may have failed, or where a failure for good leads. Whatever concerns states is
asked of the migration table, and whatever concerns messages of the table of the connection.

Commands are served in the order in which they were sent, says vfio-user. An answer that overtakes
that of a request for a state may be given in the middle of that request, or after it.

What a device is held to, `model/conformance.toml` says: each check is named where it is made, and
one to which this kind of device is not held widens what it can do instead of being broken.

`docs/recording.md` states what can be seen in this way and what cannot.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vfio_migration.model.conformance.followed import (
    REPORTED,
    Because,
    FirstViolationError,
    Followed,
    Judge,
    Violation,
    is_errno,
    outcome,
)
from vfio_migration.model.conformance.grades import HOUSE
from vfio_migration.model.conformance.observation import CAPABILITIES, Observation
from vfio_migration.model.conformance.situations import Points, Rules, known_sets
from vfio_migration.model.conformance.stream_comparison import StreamComparison
from vfio_migration.model.spec import CapabilitySet, Spec
from vfio_migration.model.wire import Command, Feature, Occasion, Wire
from vfio_migration.model.wire_load import load_wire

__all__ = ["Conformance", "Violation"]


@dataclass(slots=True, eq=False)
class _Sent:
    """A command whose reply has not come.

    Attributes:
        order: Its place among all commands of its device.
        command: What was sent.
        target: The state asked for, if that is what it does.
        resets: It resets the device.
        feeds: It writes migration data.
        logs: It may turn DMA logging on or off.
        late: It was served long ago: nothing of its reply is held any more.
    """

    order: int
    command: Observation
    target: str | int | None = None
    resets: bool = False
    feeds: bool = False
    logs: bool = False
    late: bool = False

    @property
    def changes(self) -> bool:
        return self.target is not None or self.resets or self.feeds


@dataclass(slots=True)
class _Device:
    """A device and its connection.

    Attributes:
        name: What it is called.
        followed: Where it can be.
        connected: A version is agreed on.
        pending: The commands that wait for a reply, in order.
        ids: Which of them have an id; ids may be used again before a reply comes.
        unwanted: The commands that want no reply, by id.
        changing: Those that may change something and have no reply yet, or get none; in order.
        sent: How many commands were sent.
        features: Which features it has, as far as it has reported.
        logging: Whether DMA is logged, if that is known.
        logs: What may have turned that on or off and has no reply yet, or gets none; in order.
        takes: How much data it takes in one message, if it has reported.
        connection: Which of its connections this is about.
        waiting: The others, which it does not serve yet, each with its VERSION.
        shared: It has served two at a time: what comes of it nobody knows.
        refused: The state and the target of the request that was refused last, if the table
            accepts it.
        refusals: How many times in succession that was.
    """

    name: str
    followed: Followed
    connected: bool = False
    pending: dict[int, _Sent] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    unwanted: dict[int, _Sent] = field(default_factory=dict)
    changing: list[_Sent] = field(default_factory=list)
    sent: int = 0
    features: dict[str, bool] = field(default_factory=dict)
    logging: bool | None = None
    logs: list[_Sent] = field(default_factory=list)
    takes: int | None = None
    connection: int = 1
    waiting: dict[int, Observation] = field(default_factory=dict)
    shared: bool = False
    refused: tuple[str, str | int] | None = None
    refusals: int = 0

    def forget_refusals(self) -> None:
        """Something else has happened."""
        self.refused, self.refusals = None, 0

    def wait(self, sent: _Sent) -> None:
        """Have a command wait for its reply."""
        waiting = self.ids.setdefault(sent.command.id, [])
        waiting.append(sent.order)
        self.pending[sent.order] = sent
        if len(waiting) > _SAME_ID:
            del self.pending[waiting.pop(0)]

    def answered(self, seen: Observation) -> _Sent | None:
        """Take out the command that a reply is to: the oldest of its id, and of its name if any."""
        waiting = self.ids.get(seen.id, [])
        if not waiting:
            return None
        names = [self.pending[order].command.command for order in waiting]
        at = names.index(seen.command) if seen.command in names else 0
        sent = self.pending.pop(waiting.pop(at))
        if not waiting:
            del self.ids[seen.id]
        return sent

    def drop(self) -> None:
        """Wait for nothing any more."""
        self.pending, self.ids, self.unwanted = {}, {}, {}


_SAME_ID = 64
"""How many commands of one id wait at a time: more are of a recording that leaves replies out."""


class Conformance:
    """Holds observations, one by one, against the tables.

    Args:
        spec: The migration table.
        wire: The table of the connection; that of the package if none is given.
        capabilities: What the devices offer, if that is known; else it is found out.
        kind: What kind of devices they are: what they are held to.

    Attributes:
        spec: As given.
        wire: As given.
        held: How many answers of which kind were held against the tables.
        unrestricted: How many of which kind neither table restricts.
        notes: How many lines were remarks of the recorder.
        judge: What the devices are held to.
        stream_comparison: What was read from which device, and written into which.
        remarks: What was found in the last line besides its violation: signs of a known defect, and
            what is wrong with a migration.
    """

    def __init__(
        self,
        spec: Spec,
        wire: Wire | None = None,
        *,
        capabilities: CapabilitySet | None = None,
        kind: str = HOUSE,
    ) -> None:
        self.spec = spec
        self.wire = load_wire() if wire is None else wire
        self.held: Counter[str] = Counter()
        self.unrestricted: Counter[str] = Counter()
        self.notes = 0
        self._given = capabilities is not None
        self._words = known_sets(spec, capabilities)
        self.judge = Judge(kind)
        self.stream_comparison = StreamComparison()
        self.remarks: list[Violation] = []
        self._rules = Rules(spec)
        self._rows = {row.name: row for row in self.wire.commands}
        self._devices: dict[str, _Device] = {}

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that were seen, in the order in which they were."""
        return tuple(self._devices)

    def states(self, device: str) -> tuple[str, ...]:
        """Return the states a device can be in now, in the order of the table."""
        here = {point.state for point in self._device(device).followed.points}
        return tuple(row.name for row in self.spec.states if row.name in here)

    def observe(self, seen: Observation) -> Violation | None:
        """Take an observation in; return what is wrong with it, or None.

        After a violation nothing is known of the device, so that one can go on.
        """
        self.remarks = []
        if seen.what == "note":
            self.notes += 1
            return None
        if seen.what == "lost":
            self._lost(seen.device)
            return None
        if seen.what == "device":
            self.stream_comparison.takes_part(seen.device, seen.pair)
        device = self._device(seen.device)
        if self._is_of_another(device, seen):
            return None
        try:
            if seen.what == "command":
                self._sent(device, seen)
            elif seen.what == "reply":
                self._replied(device, seen)
            elif seen.what == "connected":
                device.connected = True
                self.held["connections"] += 1
            elif seen.what == "gone":
                self._ended_upon_command(device, seen)
                self._disconnected(device)
            elif seen.what == "served":
                self.unrestricted["DMA by messages"] += 1
            elif seen.what == "step":
                self.held["steps"] += 1
                device.followed.stepped(seen.at, seen.state, seen.target, seen.errno)
            elif seen.what == "arrived":
                self.held["states reached"] += 1
                assert seen.state is not None
                device.followed.arrived(seen.state)
        except FirstViolationError as broken:
            violation = Violation(
                device=seen.device,
                step=broken.step,
                reason=broken.because.reason,
                situations=device.followed.situations(),
                allowed=broken.allowed,
                row=broken.because.row,
                source=broken.because.source,
                check=broken.because.check,
            )
            device.followed.forget()
            if seen.what == "reply" and "GET" in seen.methods and seen.state is not None:
                device.followed.reported(seen.state)
            device.features, device.logging = {}, None
            for sent in (*device.pending.values(), *device.changing):
                sent.late = True
            device.changing = []
            return violation
        return None

    def _lost(self, name: str) -> None:
        """Know nothing any more of a device, or of any if it has no name."""
        self.unrestricted["changes that are not shown"] += 1
        for device in self._devices.values() if not name else (self._device(name),):
            device.followed.forget()
            device.drop()
            device.changing, device.logging = [], None

    def _device(self, name: str) -> _Device:
        device = self._devices.get(name)
        if device is None:
            followed = Followed(self._rules, self._words, given=self._given, judge=self.judge)
            device = self._devices[name] = _Device(name, followed)
        return device

    def _is_of_another(self, device: _Device, seen: Observation) -> bool:
        """Return whether a line is of another connection than the one that is served, and held."""
        if seen.connection != device.connection:
            row = self._rows.get(seen.command)
            negotiates = row is not None and row.does == "negotiate"
            answered = seen.what == "reply" and seen.errno is None
            if not device.connected and not device.pending:
                self._serves(device, seen.connection)
            elif seen.what == "command" and negotiates:
                device.waiting[seen.connection] = seen
            elif seen.what == "gone":
                device.waiting.pop(seen.connection, None)
            elif answered and negotiates and seen.connection in device.waiting:
                self._serves(device, seen.connection)
            elif seen.what == "reply":
                device.shared = True
        other = device.shared or seen.connection != device.connection
        if other:
            self.stream_comparison.doubt(device.name)
            self.unrestricted["messages of several clients at a time"] += 1
        return other

    def _serves(self, device: _Device, connection: int) -> None:
        """It is the turn of another connection: that before has hung up, or waits as well."""
        if device.connected:
            self._disconnected(device)  # and nobody has stated it
        for sent in device.pending.values():
            device.waiting[device.connection] = sent.command
        device.connection = connection
        device.drop()
        if (waiting_command := device.waiting.pop(connection, None)) is not None:
            self._sent(device, waiting_command)

    # --- commands and their replies ---

    def _sent(self, device: _Device, seen: Observation) -> None:
        row = self._rows.get(seen.command)
        if row is not None and row.does == "negotiate" and (device.connected or device.pending):
            self._disconnected(device)  # and nobody has stated it
        device.sent += 1
        sent = _Sent(device.sent, seen)
        if row is not None:
            sent.resets = sent.logs = row.does == "reset"
            sent.feeds = row.transfer == "write" and bool(seen.size)
            if row.does == "feature" and seen.methods == ("SET",):
                about = None if seen.feature is None else self.wire.feature(seen.feature)
                sent.target = seen.state if about is not None and about.moves else None
                sent.logs = about is not None and about.logging in ("starts", "stops")
        if seen.no_reply:
            device.unwanted[seen.id] = sent
        else:
            device.wait(sent)
        if sent.changes:
            device.changing.append(sent)
        if sent.logs:
            device.logs.append(sent)
        if seen.no_reply and sent.feeds:
            self.stream_comparison.doubt(device.name)  # whether it was taken nobody will know

    def _replied(self, device: _Device, seen: Observation) -> None:
        sent = device.answered(seen) or self._unwanted(device, seen)
        if sent is None:
            reason = f"no command with id {seen.id} waits for a reply"
            raise self._unasked(seen, reason, "nothing", "reply_unasked")
        if seen.command != sent.command.command:
            was = sent.command.command
            reason = f"the command with id {seen.id} was {was}"
            raise self._unasked(seen, reason, f"one to {was}", "reply_to_another")
        if sent in device.changing:
            device.changing.remove(sent)
        if sent in device.logs:
            device.logs.remove(sent)
            if sent.late or sent.resets:  # whether a reset ends it no specification states
                device.logging = None
        row = self._rows.get(seen.command)
        if seen.malformed is not None:
            self._malformed(device, row, sent, seen)
        if row is not None and row.transfer == "write" and not sent.command.no_reply:
            done = seen.errno is None
            self.stream_comparison.wrote(device.name, sent.order, sent.command, accepted=done)
        if sent.late and row is not None and row.transfer == "read":
            self.stream_comparison.doubt(device.name)
        if sent.late:
            self.unrestricted["replies that others had overtaken"] += 1
        elif row is None:
            self.unrestricted[seen.command] += 1
        elif self._too_early(device, row) and self.judge.holds("before_version"):
            self._must_be(sent.command, seen, "version_first", "before_version")
        elif row.does == "negotiate":
            device.connected = device.connected or seen.errno is None
            device.takes = seen.max_data_xfer_size
        elif row.does == "reset":
            self.held["resets"] += 1
            self._complete(device, sent)
            device.forget_refusals()
            if seen.errno is None:
                self.stream_comparison.was_reset(device.name)
            else:
                self._sign(device, "reset_refused", _answered(sent.command, seen))
            device.followed.was_reset(seen.errno)
        elif row.transfer != "none":
            self.held["data read" if row.transfer == "read" else "data written"] += 1
            self._complete(device, sent)
            self._transferred(device, row, sent, seen)
        elif row.does == "feature":
            self._feature(device, sent, seen)
        else:
            self.unrestricted[row.name] += 1

    def _moves_data(self, sent: _Sent) -> bool:
        row = self._rows.get(sent.command.command)
        return row is not None and row.transfer != "none"

    def _too_early(self, device: _Device, row: Command) -> bool:
        return not device.connected and not row.before_version

    def _unwanted(self, device: _Device, seen: Observation) -> _Sent | None:
        """Return the command to which a reply comes that was sent with No_reply."""
        sent = device.unwanted.get(seen.id)
        if sent is None or sent.command.command != seen.command:
            return None
        if self.judge.holds("reply_unwanted"):
            raise self._unasked(seen, "no reply is asked for", "nothing", "reply_unwanted")
        return device.unwanted.pop(seen.id)

    def _malformed(
        self, device: _Device, row: Command | None, sent: _Sent, seen: Observation
    ) -> None:
        """A reply that does not fit its command states nothing else."""
        self.held["malformed replies"] += 1
        self.stream_comparison.doubt(device.name)
        named, source = seen.command, "docs/interop/vfio-user.rst: Header"
        if row is not None:
            named, source = row.name, row.source
        step = f"{_named(sent.command)} is answered with a reply that does not fit it"
        because = Because(str(seen.malformed), f"[[commands]] {named}", source, "reply_malformed")
        raise FirstViolationError(step, because, ["a reply that fits, or an error"])

    def _complete(self, device: _Device, sent: _Sent) -> None:
        """Take account of what was sent before and not answered: it was served before, too."""
        for one in device.pending.values():  # in the order in which they were sent
            if one.order > sent.order:
                break
            one.late = True
        while device.changing and device.changing[0].order < sent.order:
            before = device.changing.pop(0)
            device.followed.points = self._during(device, device.followed.points, before)

    def _during(self, device: _Device, points: Points, sent: _Sent) -> Points:
        """Return where a device can be before, while and after a command is served."""
        if sent.target is not None:
            return device.followed.while_asked(points, sent.target)
        if sent.resets:
            return device.followed.while_reset(points)
        return points | device.followed.fed(points)

    def _disconnected(self, device: _Device) -> None:
        """The client is gone: what it asked for last may have been done or not."""
        self.held["disconnections"] += 1
        if any(self._moves_data(one) for one in device.pending.values()):
            self.stream_comparison.doubt(device.name)
        self.stream_comparison.interrupted(device.name)
        for one in device.changing:
            device.followed.points = self._during(device, device.followed.points, one)
        device.followed.client_disconnected()
        device.connected, device.logging, device.takes = False, None, None
        device.drop()
        device.changing, device.logs = [], []
        device.forget_refusals()

    # --- migration data ---

    def _transferred(self, device: _Device, row: Command, sent: _Sent, seen: Observation) -> None:
        command, followed = sent.command, device.followed
        asked, got = command.size or 0, seen.size or 0
        inside = followed.inside(row.transfer)
        if seen.errno is not None:
            pauses = frozenset(one for one in inside if self._rules.pauses(one.state))
            answer = self.wire.answer("nothing_now") if row.transfer == "read" else None
            if pauses and answer is not None and is_errno(seen.errno, answer.errno):
                device.forget_refusals()
                followed.points = followed.fed(pauses) | (followed.points - inside)
                return
            self._transfer_failed(device, row, command, seen)
            return
        if not inside:
            moved = got if row.transfer == "read" else asked
            check = "data_outside_session" if moved else "outside_session_answer"
            if self.judge.holds(check, row.source):
                source = row.source if moved else ""
                raise self._not_refused(command, seen, "out_of_session", check, source)
            return
        device.forget_refusals()
        if row.transfer == "write":
            followed.points = followed.fed(inside) if asked else inside
            return
        if got > asked:
            step = f"{_named(command)} of {asked} bytes is answered with {got} bytes"
            named = f"[[commands]] {row.name}"
            because = Because("more than was asked for", named, row.source, "more_than_asked")
            raise FirstViolationError(step, because, [f"at most {asked} bytes"])
        final = got < asked and all(self._rules.ends_for_good(one.state) for one in inside)
        followed.was_read(asked, got)
        self.stream_comparison.was_read(device.name, sent.order, seen, final=final)

    def _transfer_failed(
        self, device: _Device, row: Command, command: Observation, seen: Observation
    ) -> None:
        """In a session a device may be unable to; outside of one our server has one answer."""
        followed, asked = device.followed, command.size or 0
        inside = followed.inside(row.transfer)
        if inside == followed.points and row.transfer == "read" and asked <= self._max_read(device):
            self._sign(device, "read_refused", _answered(command, seen))
        found = followed.fed(inside)
        fits = any(is_errno(seen.errno, one) for one in self._errnos(device, asked))
        if fits or not self.judge.holds("outside_session_answer"):
            found |= followed.points - inside
        if not found:
            raise self._not_refused(command, seen, "out_of_session", "outside_session_answer")
        followed.points = found

    def _max_read(self, device: _Device) -> int:
        most = self.wire.limit("max_data_xfer_size").value
        return min(most, device.takes or most)

    def _errnos(self, device: _Device, asked: int) -> set[str | None]:
        """Return what may be answered out of session: a row before that one may hold as well."""
        answer, bound = self.wire.answer("out_of_session"), self.wire.answer("over_bound")
        errnos = set() if answer is None else {answer.errno}
        if bound is not None and asked > self._max_read(device):
            errnos.add(bound.errno)
        return errnos

    # --- features ---

    def _feature(self, device: _Device, sent: _Sent, seen: Observation) -> None:
        command = sent.command
        row = None if command.feature is None else self.wire.feature(command.feature)
        if row is None:
            self.unrestricted["features that the table of the connection lacks"] += 1
            return
        clash = {"GET", "SET"} <= set(command.methods) and not command.probe
        if not clash and self._is_absent(device, row, sent, seen):
            return
        if seen.errno is not None and sent.target is None and not self.judge.holds("feature_fails"):
            # Why it fails nobody has to say, and so nobody knows what it has or has not done.
            self.held["features that fail"] += 1
            if row.logging in ("starts", "stops"):
                device.logging = None
            return
        occasion: Occasion | None = None
        if clash:
            occasion = "feature_flags_clash"
        elif _lacks(row, command):
            occasion = "method_unsupported"
        elif not command.methods:
            occasion = "method_missing"
        if occasion is not None:
            self.held["features"] += 1
            if self.judge.holds("feature_answer"):
                self._must_be(command, seen, occasion, "feature_answer")
        elif command.probe:
            self.held["features"] += 1
            self._must_succeed(row, command, seen)
        elif "GET" in command.methods:
            self._got(device, row, sent, seen)
        elif sent.target is not None:
            self.held["requests for a state"] += 1
            self._complete(device, sent)
            self._requested(device, sent, seen)
        else:
            self._logged(device, row, sent, seen)

    def _requested(self, device: _Device, sent: _Sent, seen: Observation) -> None:
        """A request for a state was answered."""
        assert sent.target is not None
        followed, here = device.followed, device.followed.points
        accepted = any(self._rules.way(one, sent.target).failing for one in here)
        followed.requested(sent.target, seen.errno)
        step = _answered(sent.command, seen)
        if seen.errno is not None:
            if accepted:
                self._refused_again(device, here, sent.target, step)
            return
        device.forget_refusals()
        waiting = any(one.feeds for one in device.pending.values())
        for found in self.stream_comparison.moved(device.name, followed.fates, waiting=waiting):
            self._remark(device, found.check, step, found.reason, found.allowed, here)

    def _refused_again(self, device: _Device, here: Points, target: str | int, step: str) -> None:
        """A request that the table accepts was refused; remark it if that goes on and on."""
        states = {one.state for one in here}
        # After a refusal a device may be anywhere. One that has not reported otherwise is where it
        # was.
        known = device.refused is not None and device.refused[0] in states
        state = device.refused[0] if device.refused and known else min(states)
        if len(states) > 1 and not known:
            return
        if device.refused != (state, target):
            device.refused, device.refusals = (state, target), 0
        device.refusals += 1
        if device.refusals == self.judge.grades.check("path_refused_again").times:
            reason = f"in {state} it has refused this {device.refusals} times in succession"
            self._remark(device, "path_refused_again", step, reason, (), here)

    def _is_absent(self, device: _Device, row: Feature, sent: _Sent, seen: Observation) -> bool:
        """Return whether the feature is absent. A device cannot have it once and lack it then."""
        if not self.judge.holds("feature_comes_and_goes"):
            return False
        known = device.features.get(row.name)
        answer = self.wire.answer("feature_unknown")
        absent = answer is not None and seen.errno == answer.errno
        if absent and sent.command.methods == ("SET",) and known is not False:
            # What is set may also fail with this error, as it may with any.
            if known is None and sent.target is not None:
                self._complete(device, sent)
                device.followed.points = self._during(device, device.followed.points, sent)
            return known is None
        if known is None:
            device.features[row.name] = not absent
        elif known is absent:
            assert answer is not None
            now, before = "no such feature", "it"
            if not absent:
                now, before = "this feature", "no such feature"
            because = Because(
                f"by this answer the device has {now}, and by an earlier one it has {before}",
                f"[[answers]] {answer.when}",
                answer.source,
                "feature_comes_and_goes",
            )
            allowed = ["any other answer"] if absent else [f"refused ({answer.errno})"]
            raise FirstViolationError(_answered(sent.command, seen), because, allowed)
        return absent

    def _got(self, device: _Device, row: Feature, sent: _Sent, seen: Observation) -> None:
        command, capabilities = sent.command, row.name == CAPABILITIES
        if row.moves or capabilities:
            self._must_succeed(row, command, seen)
        if seen.errno is None:
            self._check_size(row, command, seen)
        if row.moves:
            self.held["states returned"] += 1
            if seen.state is not None:
                self._reported_state(device, sent, seen.state)
        elif capabilities:
            self.held["capabilities returned"] += 1
            if seen.flags is not None:
                device.followed.reported_flags(seen.flags)
        else:
            self._logged(device, row, sent, seen)

    def _reported_state(self, device: _Device, sent: _Sent, state: str | int) -> None:
        points, overtakes = device.followed.points, False
        for one in device.changing:
            if one.order < sent.order and not one.feeds:
                # It may still be under way: what is reported now does not show what comes of
                # it.
                points, overtakes = self._during(device, points, one), True
        found = device.followed.reported_state(state, points)
        if not overtakes:
            device.followed.points, device.followed.because = found, REPORTED

    def _check_size(self, row: Feature, command: Observation, seen: Observation) -> None:
        if seen.size is None or command.argsz is None:
            return
        item, more = row.get_reply_item, seen.size - row.get_reply
        if more == 0 or (item and more > 0 and more % item == 0):
            return
        # What does not fit argsz is left out, all of it.
        fixed = self._rows[command.command].reply
        if seen.size == 0 and (item or command.argsz < fixed + row.get_reply):
            return
        check = "feature_long" if more > 0 else "feature_short"
        if not self.judge.holds(check, row.source):
            return
        items = f" and items of {item}" if item else ""
        size = f"{row.get_reply} bytes{items}"
        step = f"{_named(command)} is answered with {seen.size} bytes of data"
        because = Because(f"its data is {size}", f"[[features]] {row.name}", row.source, check)
        raise FirstViolationError(step, because, [size])

    def _logged(self, device: _Device, row: Feature, sent: _Sent, seen: Observation) -> None:
        """Hold DMA logging: whether it is on, and so who may start it and who may ask."""
        command = sent.command
        while row.logging != "none" and device.logs and device.logs[0].order < sent.order:
            # It was served before, and with what success will not be held any more.
            before, device.logging = device.logs.pop(0), None
            before.late = before.late or not before.resets
        if row.logging == "none" or seen.errno is not None:
            self.unrestricted[f"feature {row.name}"] += 1
            return
        self.held["DMA logging"] += 1
        if row.logging == "starts" and device.logging:
            self._must_be(command, seen, "logging_on", "logging_twice")
        if row.logging == "needs" and device.logging is False:
            self._must_be(command, seen, "logging_off", "report_without_logging")
        device.logging = row.logging != "stops"

    # --- what is wrong ---

    def _must_succeed(self, row: Feature, command: Observation, seen: Observation) -> None:
        if seen.errno is not None:
            reason, named = "no row of [[answers]] refuses it", f"[[features]] {row.name}"
            because = Because(reason, named, row.source, "feature_fails")
            raise FirstViolationError(_answered(command, seen), because, ["success"])

    def _must_be(
        self, command: Observation, seen: Observation, occasion: Occasion, check: str
    ) -> None:
        """Hold an answer against the row that demands one."""
        answer = self.wire.answer(occasion)
        if answer is None or not self.judge.holds(check, answer.source):
            return
        if not is_errno(seen.errno, answer.errno):
            raise self._not_refused(command, seen, occasion, check)

    def _not_refused(
        self,
        command: Observation,
        seen: Observation,
        occasion: Occasion,
        check: str,
        source: str = "",
    ) -> FirstViolationError:
        answer = self.wire.answer(occasion)
        assert answer is not None
        because = Because(
            answer.reason, f"[[answers]] {answer.when}", source or answer.source, check
        )
        return FirstViolationError(_answered(command, seen), because, [f"refused ({answer.errno})"])

    def _unasked(
        self, seen: Observation, reason: str, allowed: str, check: str
    ) -> FirstViolationError:
        because = Because(reason, "[[answers]] reply_unasked", "", check)
        return FirstViolationError(f"a reply to {_named(seen)}", because, [allowed])

    # --- what is remarkable ---

    def _sign(self, device: _Device, check: str, step: str) -> None:
        self._remark(device, check, step, self.judge.grades.check(check).text)

    def _remark(
        self,
        device: _Device,
        check: str,
        step: str,
        reason: str,
        allowed: tuple[str, ...] = (),
        points: Points | None = None,
    ) -> None:
        self.remarks.append(
            Violation(
                device=device.name,
                step=step,
                reason=reason,
                situations=device.followed.situations(points),
                allowed=allowed,
                check=check,
            )
        )

    def _ended_upon_command(self, device: _Device, seen: Observation) -> None:
        """Remark that the other side ended the connection and left a command unanswered."""
        if seen.by != "server" or not device.pending:
            return
        first = next(iter(device.pending.values())).command
        reason = f"{len(device.pending)} commands have no reply, {_named(first)} first"
        if len(device.pending) == 1:
            reason = f"{_named(first)} has no reply"
        self._remark(device, "ended_upon_command", "the server ends the connection", reason)


def _named(command: Observation) -> str:
    """Return which command it is."""
    if command.feature is None:
        return command.command
    about = f"{' '.join(command.methods)} {command.feature}"
    return (
        about
        if command.state is None or "SET" not in command.methods
        else f"{about} {command.state}"
    )


def _answered(command: Observation, seen: Observation) -> str:
    return f"{_named(command)} is answered with {outcome(seen.errno)}"


def _lacks(row: Feature, command: Observation) -> bool:
    return ("GET" in command.methods and not row.get) or ("SET" in command.methods and not row.set)
