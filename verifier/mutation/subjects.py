"""The tables that are mutated, and what their mutants are held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from vfio_migration.model import Mistake, Spec, SpecError, from_data
from vfio_migration.model.errors import closest, did_you_mean
from vfio_migration.model.wire import Wire
from vfio_migration.model.wire_load import wire_from
from vfio_migration.verifier.mutation.edits import KINDS, mutants
from vfio_migration.verifier.mutation.equivalence import behaviour
from vfio_migration.verifier.mutation.mutants import Mutant, Table
from vfio_migration.verifier.mutation.row_edits import row_mutants
from vfio_migration.verifier.mutation.wire_edits import (
    WIRE_FORM,
    WIRE_KINDS,
    answered_alike,
    argued,
)
from vfio_migration.verifier.prove import select
from vfio_migration.verifier.solver.encoding import Encoding
from vfio_migration.verifier.solver.obligation import Obligation

_ROWS = "T"
"""The family about the rows of the table; all others are about what they determine."""

_LAST = ("T9",)
"""The obligations that are tried after all others of their family."""

_OF_THE_WIRE = ("W", "S2", "S6")
"""The families and obligations that read the table of the connection."""

_LISTED = ("W11",)
"""Those of them that only compare, and are tried first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject(Generic[Table]):
    """A table to mutate.

    Attributes:
        name: Its name.
        title: Its title.
        original: The table.
        kinds: Every kind of edit, with what it does.
        make: Makes every mutant, always in the same order.
        encode: Encodes a mutant, with all else as it comes with the package.
        loads: Whether a file that holds a mutant is accepted.
        loaded_first: Nothing else is tried of what cannot be loaded.
        equivalent: Whether a mutant cannot be distinguished from the table.
        argued: Why no obligation is to speak of a mutant; None if one is.
        first: The obligations that are tried before that is asked.
        then: Those that are tried after it.
        chosen: All of them, in the order of the catalogue.
    """

    name: str
    title: str
    original: Table
    kinds: Mapping[str, str]
    make: Callable[[], Sequence[Mutant[Table]]]
    encode: Callable[[Table], Encoding]
    loads: Callable[[Table], bool]
    loaded_first: bool
    equivalent: Callable[[Table], bool]
    argued: Callable[[Mutant[Table]], str | None]
    first: tuple[Obligation, ...]
    then: tuple[Obligation, ...]
    chosen: tuple[Obligation, ...]

    def mutants_of(self, kinds: Sequence[str] | None) -> tuple[Mutant[Table], ...]:
        """Return the mutants of some kinds, or of all.

        Raises:
            SpecError: If a name is that of no kind.
        """
        known = list(self.kinds)
        for name in kinds or ():
            if name not in known:
                hint = did_you_mean(closest(name, known)) or f"there are {', '.join(known)}"
                raise SpecError([Mistake("--only", name, "is not a kind of edit", hint)])
        return tuple(each for each in self.make() if kinds is None or each.kind in kinds)


def states_subject(spec: Spec, against: Sequence[str] | None = None) -> Subject[Spec]:
    """Return the table of states and arcs, to be mutated.

    Raises:
        SpecError: If `against` names no obligation.
    """
    chosen = select(against)
    rows = [obligation for obligation in chosen if obligation.id.startswith(_ROWS)]
    present = behaviour(spec)
    return Subject(
        name=spec.name,
        title=spec.title,
        original=spec,
        kinds={kind.name: kind.title for kind in KINDS},
        make=lambda: mutants(spec),
        encode=Encoding,
        loads=can_be_loaded,
        loaded_first=False,
        equivalent=lambda table: behaviour(table) == present,
        argued=lambda _: None,
        first=tuple(sorted(rows, key=lambda obligation: obligation.id in _LAST)),
        then=tuple(obligation for obligation in chosen if obligation not in rows),
        chosen=chosen,
    )


def wire_subject(spec: Spec, wire: Wire, against: Sequence[str] | None = None) -> Subject[Wire]:
    """Return the table of the connection, to be mutated.

    Raises:
        SpecError: If `against` names no obligation.
    """
    chosen = select(against or _OF_THE_WIRE)
    return Subject(
        name=wire.name,
        title=wire.title,
        original=wire,
        kinds=WIRE_KINDS,
        make=lambda: row_mutants(wire, WIRE_FORM),
        encode=lambda table: Encoding(spec, wire=table),
        loads=wire_can_be_loaded,
        loaded_first=True,
        equivalent=lambda table: answered_alike(wire, table, spec),
        argued=lambda mutant: argued(wire, mutant),
        first=(),
        then=tuple(sorted(chosen, key=lambda obligation: obligation.id not in _LISTED)),
        chosen=chosen,
    )


# --- what can be loaded ---


def can_be_loaded(spec: Spec) -> bool:
    """Return whether a file that holds this table of states and arcs is accepted."""
    return _is_accepted(from_data, spec)


def wire_can_be_loaded(wire: Wire) -> bool:
    """Return whether a file that holds this table of the connection is accepted."""
    return _is_accepted(wire_from, wire)


def _is_accepted(read: Callable[[dict[str, Any]], object], table: Any) -> bool:
    try:
        read(as_data(table))
    except SpecError:
        return False
    return True


def as_data(table: Any) -> dict[str, Any]:
    """Return a table as the plain data of a file."""
    return {key: _plain(value) for key, value in dataclasses.asdict(table).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        # What is in no file: keys that are left out, and what is computed.
        kept = {k: v for k, v in value.items() if v is not None and (k, v) != ("via", ())}
        return {key.rstrip("_"): _plain(item) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
