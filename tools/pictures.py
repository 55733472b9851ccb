"""Writes the committed pictures and tables, or checks that they are what would be written.

    python tools/pictures.py [--check] [--output docs]

`--check` compares byte for byte, prints what differs, and fails on any file that is missing, cut
short or of no table any more. It writes nothing.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vfio_migration.diagrams.machine.changes import change_graph
from vfio_migration.diagrams.machine.extract import machine_graph
from vfio_migration.diagrams.plan.extract import migration_view, unnamed
from vfio_migration.diagrams.render import Format, render
from vfio_migration.diagrams.tables import TableFormat, tables
from vfio_migration.model import Machine, Spec, load
from vfio_migration.model.edited import proposals
from vfio_migration.model.history import named
from vfio_migration.model.plan import load_plans

PICTURES = "diagrams"
"""The folder of the pictures. Nothing else may be in it."""

_PICTURE_FORMATS: tuple[Format, ...] = ("svg", "mmd")
_TABLE_FORMATS: tuple[TableFormat, ...] = ("md", "rst")


def slug(machine: Machine) -> str:
    """Return the name of a capability set in file names."""
    return "-".join([machine.spec.name, *machine.names]).lower()


def generate(spec: Spec) -> dict[str, bytes]:
    """Return every generated file of a table, by its path under the folder of the docs."""
    files = {}
    for capabilities in spec.capability_sets():
        machine = spec.machine(capabilities)
        graph = machine_graph(machine)
        for format_ in _PICTURE_FORMATS:
            files[f"{PICTURES}/{slug(machine)}.{format_}"] = render(graph, format_)
    for edit in proposals():
        new, old = named(edit.name), named(edit.base)
        assert new is not None
        assert old is not None
        graph = change_graph(new.machine(), old.machine())
        files[f"{PICTURES}/proposal-{edit.name}.svg"] = render(graph, "svg")
    plans = load_plans(spec)
    for migration in plans.migrations:
        view = migration_view(spec, unnamed([None, None]), migration, plans)
        for format_ in _PICTURE_FORMATS:
            files[f"{PICTURES}/migration-{migration.name}.{format_}"] = render(view, format_)
    for document in _TABLE_FORMATS:
        files[f"tables.{document}"] = tables(spec, document).encode()
    return files


def write(files: dict[str, bytes], output: Path) -> None:
    """Write the files, and remove what else is among the pictures."""
    for name in _strays(files, output):
        (output / name).unlink()
    for name, content in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def differences(files: dict[str, bytes], output: Path) -> Iterator[str]:
    """Yield what is wrong with the files that are there, each as text to print."""
    for name, wanted in files.items():
        path = output / name
        if not path.is_file():
            yield f"{path}: is missing"
            continue
        found = path.read_bytes()
        if found != wanted:
            yield _difference(path, found, wanted)
    for name in _strays(files, output):
        yield f"{output / name}: is not generated from any table"


def _difference(path: Path, found: bytes, wanted: bytes) -> str:
    diff = "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(
            _lines(found), _lines(wanted), f"{path} (as it is)", f"{path} (as it should be)", n=1
        )
    )
    # Bytes that are not text can differ where their text does not.
    return diff.rstrip("\n") or f"{path}: differs in bytes that are no UTF-8"


def _lines(content: bytes) -> list[str]:
    # Not `str.splitlines`: it also splits at, and so hides, a carriage return.
    return [f"{line}\n" for line in content.decode(errors="replace").split("\n")[:-1]] + [
        line for line in [content.decode(errors="replace").split("\n")[-1]] if line
    ]


def _strays(files: dict[str, bytes], output: Path) -> list[str]:
    there = [path for path in (output / PICTURES).rglob("*") if path.is_file()]
    return sorted({path.relative_to(output).as_posix() for path in there} - set(files))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 1 if a check found a difference."""
    parser = argparse.ArgumentParser(
        prog="python tools/pictures.py",
        description="Write the pictures and tables of the docs, or check them.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument(
        "--output", type=Path, default=Path("docs"), metavar="DIR", help="where (default: docs)"
    )
    options = parser.parse_args(arguments)
    files = generate(load())
    if not options.check:
        write(files, options.output)
        sys.stdout.write(f"{len(files)} files written to {options.output}\n")
        return 0
    found = list(differences(files, options.output))
    for text in found:
        sys.stdout.write(f"{text}\n")
    if found:
        sys.stdout.write(
            f"{len(found)} of the generated files differ; run python tools/pictures.py\n"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
