"""Reads the table of the connection, `model/wire.toml` or another file of its kind."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.load import parse, read_bytes, typed
from vfio_migration.model.wire import Wire
from vfio_migration.model.wire_checks import check_wire

DEFAULT = "wire.toml"


def load_wire(path: str | Path | None = None) -> Wire:
    """Read the table of the connection; without a path, the one that comes with the package.

    Raises:
        SpecError: If the file cannot be read or the table is wrong, with every mistake in it.
    """
    return _default() if path is None else wire_from(parse(read_bytes(path), str(path)), str(path))


def use(path: str | Path) -> Wire:
    """Make a file the table of the connection in this process, for all that is imported after.

    The messages are made of the table when `vfio_migration.runtime.protocol` is imported.

    Raises:
        SpecError: As `load_wire`, or another table is in use already.
    """
    if _default.cache_info().currsize:
        problem = "comes too late: another table of the connection is in use in this process"
        raise SpecError([Mistake("wire", str(path), problem, "choose it before anything else")])
    _chosen.append(load_wire(path))
    return _default()


_chosen: list[Wire] = []
"""What `use` was given."""


@functools.cache
def _default() -> Wire:
    if _chosen:
        return _chosen[-1]
    text = pkgutil.get_data("vfio_migration.model", DEFAULT)
    assert text is not None, "the package is installed without its table"
    return wire_from(parse(text, DEFAULT), DEFAULT)


def wire_from(data: Mapping[str, object], origin: str | None = None) -> Wire:
    """Make a table of the connection of plain data. Raises `SpecError` as `load_wire`."""
    return typed(Wire, check_wire, data, origin)
