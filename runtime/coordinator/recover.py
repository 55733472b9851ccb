"""Recovers what a migration left behind: who ran it was killed, or could not bring it to its end.

What happened is read from the journal. Without one, nothing is done that a wrong guess would make
worse: a device that runs at each end looks the same whichever of them is the guest's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

from vfio_migration.model import Spec, load
from vfio_migration.model.plan import Plans, default_plans
from vfio_migration.runtime.client import TIMEOUT_S, ClientError, TimedOutError
from vfio_migration.runtime.client.core import ExchangeObserver
from vfio_migration.runtime.coordinator import journal as journals
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator.endpoint import Endpoint, Side
from vfio_migration.runtime.coordinator.errors import (
    CannotMigrateError,
    MigrationFailedError,
    NotTrustedError,
    is_denied,
)
from vfio_migration.runtime.coordinator.events import Report, ignore, report_asserted
from vfio_migration.runtime.coordinator.finish import Finished, Finisher
from vfio_migration.runtime.coordinator.group import check_table
from vfio_migration.runtime.coordinator.journal import Entry, Journal

_ASKED: Final = "--keep {}: it runs because that was asked for; what it holds is not known here"
_GUESSED: Final = (
    "there is no journal of a migration; no destination is known to run, and the source can go on "
    "from where it is ({}); what it holds is not known here"
)
_OTHER: Final[dict[Side, Side]] = {"source": "destination", "destination": "source"}


def recover(
    pairs: Sequence[tuple[str, str | None]],
    *,
    journal: Path | None = None,
    keep: Side | None = None,
    spec: Spec | None = None,
    plans: Plans | None = None,
    report: Report = ignore,
    observers: Iterable[ExchangeObserver] = (),
    timeout_s: float = TIMEOUT_S,
) -> Finished:
    """Bring devices back to exactly one running side.

    Args:
        pairs: The sockets of each device: source, and destination if it is known.
        journal: Where the journal is, if not beside a source.
        keep: Which side is to run, whatever the journal records; the other one is given up.
        spec: The table; that of the package if none is given.
        plans: The plans; those of the package if none are given.
        report: Called with each event.
        observers: Called with every message.
        timeout_s: How many seconds a server may take to answer.

    Raises:
        CannotMigrateError: There is no journal, and it is not known who is to run; or this user
        may
            not connect to one of them.
        MigrationFailedError: There is no journal, and a server does not answer.
        OSError: The journal cannot be written.
    """
    spec = load() if spec is None else spec
    plans = default_plans(spec) if plans is None else plans
    check_table(spec)
    named = [name for pair in pairs for name in pair if name is not None]
    if not named:
        raise CannotMigrateError("there is no device to recover")
    claims.check_names(named)
    with claims.locked(named):
        where = journal if journal is not None else _claimed(named)
        found = _read(where, keep, named)
        if found is not None:
            _check_named(pairs, found, keep)
        # The other devices of the same migration, too: only those that are not locked yet.
        held = {os.path.realpath(name) for name in named}
        others = [] if found is None else found.sockets
        with claims.locked(one for one in others if os.path.realpath(one) not in held):
            finisher = _Recovery(pairs, spec, plans, report, tuple(observers), timeout_s, keep)
            return finisher.finish(where, found)


def _claimed(named: Sequence[str]) -> Path | None:
    """Return the one journal that these sockets belong to.

    Raises:
        CannotMigrateError: They belong to several.
    """
    found = {str(path): path for path in map(claims.claimed, named) if path is not None}
    if len({path.resolve() for path in found.values()}) > 1:
        raise CannotMigrateError(
            f"{', '.join(named)}: belong to several migrations: {', '.join(found)}",
            ["recover one after the other"],
        )
    return next(iter(found.values()), None)


def _read(where: Path | None, keep: Side | None, named: Sequence[str]) -> Journal | None:
    if where is None:
        return None
    try:
        return journals.read(where)
    except NotTrustedError:
        raise
    except CannotMigrateError as error:
        if keep is None or not where.is_file():
            raise
        claimed = [path for path in map(claims.claimed, named) if path is not None]
        if os.path.realpath(where) not in map(os.path.realpath, claimed):
            # It would be removed, whatever it is: a recording, say, that was named by mistake.
            hint = "leave --journal out, or remove it yourself"
            raise CannotMigrateError(error.why, [hint]) from error
        return None  # it is of no use, and will be removed


@dataclass(frozen=True, slots=True)
class _Recovery:
    """What was asked for, once the journal has been read."""

    pairs: Sequence[tuple[str, str | None]]
    spec: Spec
    plans: Plans
    report: Report
    observers: tuple[ExchangeObserver, ...]
    timeout_s: float
    keep: Side | None

    def finish(self, where: Path | None, found: Journal | None) -> Finished:
        entries = _entries(self.pairs) if found is None else _here(found)
        endpoints = _endpoints(entries, self.spec, self.timeout_s, self.observers)
        if self.keep == "destination" and "destination" not in endpoints:
            raise CannotMigrateError("--keep destination: which one is not known: give SRC DST")
        asked: str | None = None
        before: Sequence[Entry] = ()
        try:
            _check_permitted(device for group in endpoints.values() for device in group)
            if self.keep is not None:
                asked, before = _ASKED.format(self.keep), entries
                written = where is not None and where.exists()
                path = where if written else None
                journal = Journal(path, _first(self.plans), _forget(entries), self.keep)
                journal.asserted = () if found is None else found.asserted
                journal.takes_over(written)
            elif found is None:
                guess = _guess(self.pairs, endpoints, self.plans)
                if isinstance(guess, Finished):
                    return guess
                asked, journal = _GUESSED.format(_places(endpoints)), guess
            else:
                journal = found
            report_asserted(journal.asserted, self.plans, self.report)
            given_up = () if self.keep is None else (_OTHER[self.keep],)
            return Finisher(
                endpoints,
                journal,
                self.spec,
                self.plans,
                self.report,
                given_up,
                asked=asked,
                before=before,
                final=True,
            ).finish()
        finally:
            for group in endpoints.values():
                for device in group:
                    device.close()


def _check_permitted(devices: Iterable[Endpoint]) -> None:
    """See that this user may connect to the devices.

    One that does not answer may be taken for gone. One that may not be asked is not gone: it may
    run, and another with it, or hold the state that would be reported to be lost.

    Raises:
        CannotMigrateError: This user may not.
    """
    for device in devices:
        try:
            device.connect()
        except ClientError as error:
            if is_denied(error):
                hint = "recover as the user who serves there, or as root; nothing was done"
                raise CannotMigrateError(f"{error}, and its device may run", [hint]) from error


def _here(found: Journal) -> tuple[Entry, ...]:
    """Return the entries of a journal by names that lead to the sockets from this folder."""
    return tuple(
        replace(one, source=found.here(one.source), destination=found.here(one.destination))
        for one in found.entries
    )


def _first(plans: Plans) -> str:
    return plans.migrations[0].name if plans.migrations else ""


def _forget(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the entries of the processes that serve these devices now."""
    return tuple(Entry(one.source, one.destination, None, None) for one in entries)


def _entries(pairs: Sequence[tuple[str, str | None]]) -> tuple[Entry, ...]:
    return tuple(Entry(one, two or "", None, None) for one, two in pairs)


def _endpoints(
    entries: Sequence[Entry], spec: Spec, timeout_s: float, observers: tuple[ExchangeObserver, ...]
) -> dict[Side, Sequence[Endpoint]]:
    def ends(paths: Sequence[str], side: Side) -> list[Endpoint]:
        return [
            Endpoint(one, side, spec, timeout_s=timeout_s, observers=observers) for one in paths
        ]

    found: dict[Side, Sequence[Endpoint]] = {
        "source": ends([one.source for one in entries], "source")
    }
    if all(one.destination for one in entries):
        found["destination"] = ends([one.destination for one in entries], "destination")
    return found


def _check_named(
    pairs: Sequence[tuple[str, str | None]], found: Journal, keep: Side | None
) -> None:
    """Raise `CannotMigrateError` if the caller and the journal name different devices."""

    def refuse(why: str) -> NoReturn:
        raise CannotMigrateError(why, [found.recovery(*(() if keep is None else ("--keep", keep)))])

    known = {
        os.path.realpath(found.here(one.source)): os.path.realpath(found.here(one.destination))
        for one in found.entries
    }
    names = {os.path.realpath(found.here(one.source)): one.destination for one in found.entries}
    for source, destination in pairs:
        real = os.path.realpath(source)
        if real not in known:
            refuse(f"{source}: is not a source of the migration in {found.path}")
        if destination is not None and os.path.realpath(destination) != known[real]:
            refuse(
                f"{destination}: {found.path} records that {source} was migrated to {names[real]}"
            )


def _guess(
    pairs: Sequence[tuple[str, str | None]],
    endpoints: dict[Side, Sequence[Endpoint]],
    plans: Plans,
) -> Journal | Finished:
    """Return who holds the state, from where the devices are; only if there is no doubt.

    If one side runs and the other is stopped already, there is nothing to do.

    Raises:
        CannotMigrateError: There is.
        MigrationFailedError: A server does not answer; it may be busy.
    """
    for side, group in endpoints.items():
        for device in group:
            try:
                device.look()
                if side == "source":
                    _ = device.machine  # from which it is known where it begins
            except ClientError as error:
                why = f"{error}, and there is no journal of a migration"
                if isinstance(error, TimedOutError):
                    raise MigrationFailedError(why, "undecided", _HINTS) from error
                raise CannotMigrateError(why, _HINTS) from error
    sources, destinations = endpoints["source"], endpoints.get("destination", ())
    entries = _entries(pairs)
    runs = [device.may_change() for device in destinations]
    handed_over = not any(device.may_change() or device.transfers() != "none" for device in sources)
    if handed_over and runs and all(runs):
        return Finished("destination", "it runs, the source is stopped: nothing to do")
    running = all(device.may_change() and device.transfers() == "none" for device in sources)
    quiesced = any(device.state != _initial(device) for device in sources)
    if running and not quiesced and not any(_moves(device) for device in destinations):
        still = ", the destination is stopped" if destinations else ""
        return Finished("source", f"it runs{still}: nothing to do")
    # A source that has handed its state over holds what has been for some time: its destination may
    # have run since, and are stopped for another reason. One that is being loaded is no source.
    loaded = any(device.transfers() == "write" for device in sources)
    # Of a source that is stopped only a destination that does not run states that it may go on.
    unseen = not destinations and not all(device.may_change() for device in sources)
    if not (handed_over or loaded or unseen or any(runs)):
        return Journal(None, _first(plans), entries, "source")
    raise CannotMigrateError(
        "there is no journal of a migration, and it is not known who is to run: "
        f"{_places(endpoints)}",
        _HINTS,
    )


def _places(endpoints: Mapping[Side, Sequence[Endpoint]]) -> str:
    return ", ".join(f"{one.label} in {one.state}" for group in endpoints.values() for one in group)


def _initial(device: Endpoint) -> str:
    return device.machine.spec.initial


def _moves(device: Endpoint) -> bool:
    """Return whether a device runs, or is in the middle of being moved."""
    return device.may_change() or device.transfers() != "none"


_HINTS: Final = (
    "give the place of the journal: --journal FILE",
    "or choose which side is to run, and the other is stopped: --keep source or --keep destination",
)
