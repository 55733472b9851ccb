"""Whether what a client saw can have happened: a second checker, on top of `ExplicitDevice`.

It shares no code with `vfio_migration.model`: it takes the raw table, lets `ExplicitDevice` run a
device of every capability set in every situation, and keeps those whose answers are the ones that
were seen. It knows only runs in which each command has its reply before the next is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from support.explicit_device import ExplicitDevice, Now

Line = dict[str, Any]


class At(NamedTuple):
    """A device: its capabilities, state, whether something may be written and the end was read."""

    word: int
    state: str
    fed: bool
    ended: bool


class End(NamedTuple):
    """How a request can end: with success, with one errno, or with any (None)."""

    success: bool
    errno: str | None
    at: At


class Answers:
    """A table, and what a device of it can answer."""

    def __init__(self, data: dict[str, Any], words: tuple[int, ...] = (1, 3, 5, 7)) -> None:
        self.tables = {word: ExplicitDevice(data, word) for word in words}
        self.data = data
        self.values = {row["value"]: row["name"] for row in data["states"]}
        self.judged = {row["name"] for row in data["sessions"] if row.get("judged")}
        grows = {row["name"]: row.get("grows_while") for row in data["sessions"]}
        table = next(iter(self.tables.values()))
        self.final = {
            state
            for state in table.all
            if table.transfer[state] == "read"
            and grows[table.session_of[state]] not in table.may[state]
        }
        self.names = {
            word: [row["name"] for row in data["capabilities"] if row["value"] & word]
            for word in words
        }
        self._ends: dict[tuple[At, str | int], list[End]] = {}

    def first_wrong(self, lines: list[Line]) -> int | None:
        """Return the index of the first line that cannot be, or None."""
        here = {
            At(word, state, True, False)
            for word, table in self.tables.items()
            for state in table.has
        }
        sent: dict[int, Line] = {}
        for index, line in enumerate(lines):
            if line["what"] == "command":
                sent[line["id"]] = line
            elif line["what"] == "reply":
                command = sent.pop(line["id"], None)
                if command is None or command["command"] != line["command"]:
                    return index
                here = set(self._after(here, command, line))
                if not here:
                    return index
            elif line["what"] == "gone":
                here |= {self._lands(at, "arc_failed_for_good") for at in here}
                sent = {}
        return None

    def _after(self, here: set[At], command: Line, reply: Line) -> Iterator[At]:
        errno = reply.get("errno")
        about = (command["command"], command.get("feature"), command.get("method"))
        for at in here:
            match about:
                case ("DEVICE_RESET", None, None):
                    if errno is None:
                        yield self._lands(at, "reset")
                    else:
                        yield from (at, self._lands(at, "arc_failed_for_good"))
                case ("DEVICE_FEATURE", "MIG_DEVICE_STATE", "SET"):
                    for end in self._requests(at, command["state"]):
                        if end.success == (errno is None) and end.errno in (None, errno):
                            yield end.at
                case ("DEVICE_FEATURE", "MIG_DEVICE_STATE", "GET"):
                    if errno is None and reply["size"] == 8 and reply["state"] == at.state:
                        yield at
                case ("DEVICE_FEATURE", "MIGRATION", "GET"):
                    right = errno is None and reply["size"] == 8
                    if right and reply["flags"] == self.names[at.word]:
                        yield at
                case ("MIG_DATA_READ", None, None):
                    got = reply["size"] if errno is None else errno
                    yield from self._read(at, command["size"], got)
                case ("MIG_DATA_WRITE", None, None):
                    into = self.tables[at.word].transfer[at.state] == "write"
                    if into:
                        yield at._replace(fed=at.fed or command["size"] > 0 or errno is not None)
                    elif errno == "EINVAL":
                        yield at
                case _:
                    yield at

    def _read(self, at: At, asked: int, got: int | str) -> Iterator[At]:
        if self.tables[at.word].transfer[at.state] != "read":
            if got == "EINVAL":
                yield at
        elif isinstance(got, str):
            yield at
        elif got <= asked and not (at.ended and got):
            yield at._replace(ended=at.ended or (got < asked and at.state in self.final))

    def _lands(self, at: At, event: str) -> At:
        row = self.tables[at.word].event[event]
        state = row.get("to", at.state)
        return at if state == at.state and row["session"] == "kept" else self._new(at.word, state)

    def _new(self, word: int, state: str) -> At:
        return At(word, state, False, False)

    def _requests(self, at: At, target: str | int) -> list[End]:
        if (at, target) not in self._ends:
            self._ends[at, target] = list(self._walk(at, target))
        return self._ends[at, target]

    def _walk(self, at: At, target: str | int) -> Iterator[End]:
        table = self.tables[at.word]
        if isinstance(target, int):
            target = self.values.get(target, "a value no state has")
        if not table.accepts(at.state, target):
            there = target == at.state and table.row[target].get("settable", True)
            yield End(there, None if there else "EINVAL", at)
            return
        session = 1 if table.streams(at.state) else 0
        now = Now(at.state, open=session, session=session, sessions=1)
        begun = [then for event, then in table.successors(now) if event == ("request", target)]
        queue = begun
        while queue:
            now = queue.pop()
            for (event, _), then in table.successors(now):
                if event == "arc":
                    closed = now.session == 1 and then.session != 1
                    if closed and not at.fed and table.session_of[now.state] in self.judged:
                        continue
                    if then.target is not None:
                        queue.append(then)
                    else:
                        yield End(True, None, self._at(at, then))
                elif event in ("arc_failed", "arc_failed_for_good"):
                    yield End(False, None, self._at(at, then))
                elif event == "stuck":
                    yield End(False, "EINVAL", self._at(at, then))

    def _at(self, at: At, then: Now) -> At:
        if then.session == 1:
            return At(at.word, then.state, at.fed, at.ended)
        return self._new(at.word, then.state)


class Anybody(Answers):
    """The same of a server of anybody's: what the text of vfio-user leaves open, it may do."""

    def first_wrong(self, lines: list[Line]) -> int | None:
        """Return the index of the first line that the text does not allow, or None."""
        here, recorded, recovered = self._anywhere(), None, False
        sent: dict[int, Line] = {}
        for index, line in enumerate(lines):
            if line["what"] == "command":
                sent[line["id"]] = line
            elif line["what"] == "gone":
                here, recorded, recovered, sent = self._anywhere(), None, False, {}
            elif line["what"] == "reply":
                command = sent.pop(line["id"], None)
                if command is None or command["command"] != line["command"]:
                    return index
                errno = line.get("errno")
                about = (command["command"], command.get("feature"), command.get("method"))
                if about == ("DEVICE_FEATURE", "MIGRATION", "GET"):
                    if errno is not None:
                        continue
                    if line["size"] < 8:
                        return index
                    word = next(w for w, names in self.names.items() if names == line["flags"])
                    if recorded not in (None, word):
                        here = self._anywhere((word,))
                    here, recorded = {at for at in here if at.word == word}, word
                elif about == ("DEVICE_FEATURE", "MIG_DEVICE_STATE", "GET"):
                    if errno is not None:
                        continue
                    if line["size"] < 8:
                        return index
                    here = self._reported_state(here, line["state"], recovered=recovered)
                    recovered = False
                else:
                    stuck = all(at.state == "ERROR" for at in here)
                    recovered = about[0] == "DEVICE_RESET" and errno is None and stuck
                    here = self._then(here, about, command, line)
                if not here:
                    return index
        return None

    def _anywhere(self, words: tuple[int, ...] = ()) -> set[At]:
        return {
            At(word, state, True, False)
            for word in words or tuple(self.tables)
            for state in self.tables[word].has
        }

    def _reported_state(self, here: set[At], state: str, *, recovered: bool) -> set[At]:
        found = {at for at in here if at.state == state}
        if not found and state == "ERROR" and not recovered:
            # A device may fail by itself.
            found = {At(at.word, state, True, False) for at in here}
        return found

    def _then(self, here: set[At], about: tuple[Any, ...], command: Line, line: Line) -> set[At]:
        errno = line.get("errno")
        match about[0]:
            case "DEVICE_RESET":
                found = {self._lands(at, "reset") for at in here}
                if errno is not None:
                    found |= here | {self._lands(at, "arc_failed_for_good") for at in here}
                    return found
                return found.union(
                    *(self._anywhere((at.word,)) for at in here if at.state != "ERROR")
                )
            case "MIG_DATA_READ":
                reads = {at for at in here if self._way(at) == "read"}
                if errno is not None or not (reads or line["size"]):
                    return here
                return {
                    then for at in reads for then in self._read(at, command["size"], line["size"])
                }
            case "MIG_DATA_WRITE":
                writes = {at for at in here if self._way(at) == "write"}
                fed = {at._replace(fed=True) for at in writes}
                if errno is not None:
                    return (here - writes) | fed
                if writes or command["size"]:
                    return fed if command["size"] else writes
                return here
            case _ if about[1:] != ("MIG_DEVICE_STATE", "SET"):
                return here
            case _:
                return {then for at in here for then in self._asked(at, command["state"], errno)}

    def _way(self, at: At) -> str:
        return str(self.tables[at.word].transfer[at.state])

    def _asked(self, at: At, target: str | int, errno: str | None) -> set[At]:
        ends = self._requests(at, target)
        if errno is not None:
            found = {end.at for end in ends if not end.success} or {at}
            states = {one.state for one in found}
            return found | {one for one in self._anywhere((at.word,)) if one.state not in states}
        found = {end.at for end in ends if end.success}
        table = self.tables[at.word]
        # The text knows nothing of P2P states, and does not make anybody judge a stream.
        open_ = (at.state, target) == ("STOP_COPY", "PRE_COPY_P2P")
        if isinstance(target, str) and not found and (open_ or table.accepts(at.state, target)):
            found = {one for one in self._anywhere((at.word,)) if one.state == target}
        return found
