"""What cannot be generated is refused, with the place, the reason and a way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from support import generated
from support.odd_tables import TABLES
from support.table_edits import spec_of, table_data
from vfio_migration.generators import (
    c_files,
    compile_table,
    kselftest_file,
    kunit_file,
    like_file,
    python_file,
    rust_file,
)
from vfio_migration.generators.names import module_of, prefix_of
from vfio_migration.model import Spec, SpecError, load
from vfio_migration.model.edited import find
from vfio_migration.model.plan import load_plans


def with_state_called(name: str) -> Spec:
    """Return the table with one state more, which is alone in a column."""
    data = table_data()
    data["operations"].insert(-1, {**find(data, "operations", "stopped"), "name": "deeper"})
    state = {**find(data, "states", "STOP"), "name": name, "value": 8, "operation": "deeper"}
    data["states"].append(state)
    for pair in (("STOP", name), (name, "STOP")):
        data["arcs"].append({"from": pair[0], "to": pair[1], "summary": "Go.", "source": "test"})
    return spec_of(data)


def with_value(value: int) -> Spec:
    data = table_data()
    find(data, "states", "PRE_COPY")["value"] = value
    return spec_of(data)


def too_many() -> Spec:
    data = table_data()
    for bit in range(3, 12):
        row = {"name": f"MORE_{bit}", "value": 1 << bit, "summary": "More.", "source": "test"}
        data["capabilities"].append(row)
    for number in range(40):
        name = f"FAR_{number}"
        data["operations"].insert(-1, {**find(data, "operations", "stopped"), "name": name.lower()})
        state = {**find(data, "states", "STOP"), "name": name, "value": 8 + number}
        data["states"].append({**state, "operation": name.lower()})
        for pair in (("STOP", name), (name, "STOP")):
            data["arcs"].append({"from": pair[0], "to": pair[1], "summary": "Go.", "source": "t"})
    return spec_of(data)


def c(spec: Spec) -> None:
    c_files(compile_table(spec), "engine", "a test", "0")


def kunit(spec: Spec) -> None:
    kunit_file(compile_table(spec), "a test")


def kselftest(spec: Spec) -> None:
    kselftest_file(compile_table(spec), "a test")


def rust(spec: Spec) -> None:
    rust_file(compile_table(spec), "engine", "a test", "0")


def python(spec: Spec) -> None:
    python_file(compile_table(spec), "a test", "0")


@pytest.mark.parametrize(
    ("write", "spec", "message"),
    [
        (c, lambda: with_state_called("stop-copy"), "as the state STOP_COPY does"),
        (
            python,
            lambda: with_state_called("stop"),
            "as the state STOP does; rename one",
        ),
        (rust, lambda: with_state_called("stop-copy"), "becomes State::StopCopy in Rust"),
        (rust, lambda: with_state_called("Running-P2P"), "as the state RUNNING_P2P does"),
        (kunit, lambda: with_state_called("nr"), "becomes VFIO_DEVICE_STATE_NR in C, as the count"),
        (kselftest, lambda: with_state_called("stop-copy"), "as the state STOP_COPY does"),
        (kunit, lambda: with_value((1 << 32) - 1), "4294967295: does not fit an enumerator of C"),
        (
            kselftest,
            TABLES["gaps"],
            "does not fit the 32 bits of a flags word in Linux; leave a capability out",
        ),
        (c, lambda: with_value((1 << 32) - 1), "4294967295: does not fit an int, as every enum"),
        (c, too_many, "make 4718592 cells: 2048 capability sets of 48 states; there may be"),
        (
            lambda spec: like_file(spec, "libvfio-user", None, "a test"),
            lambda: with_state_called("DEEP"),
            "a char of arcs a state, one bit each; the table has 9 states, and there may be 8",
        ),
        (
            lambda spec: like_file(spec, "linux", None, "a test"),
            TABLES["gaps"],
            "which must be 0, 1, 2, ...; those of this table are 657, 748",
        ),
        (
            lambda spec: c_files(compile_table(spec), "e", "a test", "0", load_plans(spec)),
            TABLES["many-states"],
            "have masks of 32 states; the table has 34",
        ),
    ],
)
def test_a_table(write: Callable[[Spec], object], spec: Callable[[], Spec], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        write(spec())
    assert message in str(refused.value)


@pytest.mark.parametrize("prefix", ["", "9", "a b", "x;", "ä", "_x", "stdint"])
def test_a_prefix_that_begins_no_name(prefix: str) -> None:
    with pytest.raises(SpecError, match="cannot begin a name in C"):
        prefix_of(prefix, "vfio-v2")


@pytest.mark.parametrize("module", ["", "9", "a-b", "mod", "class", "self", "os"])
def test_a_name_that_no_module_has(module: str) -> None:
    with pytest.raises(SpecError, match="cannot be the name of a module"):
        module_of(module, "vfio-v2")


def test_names_are_made_of_the_name_of_the_table() -> None:
    assert prefix_of(None, "linux-6.1") == module_of(None, "linux-6.1") == "linux_6_1"
    assert prefix_of(None, "vfio-v2") == module_of(None, "vfio-v2") == "vfio_v2"
    assert prefix_of("mine_", "vfio-v2") == "mine"


def test_a_large_value_is_no_trouble_for_the_others() -> None:
    spec = with_value((1 << 32) - 1)
    rust(spec)
    python(spec)


def test_the_digest_is_of_the_rows() -> None:
    first = generated.compiled_of("vfio-v2").digest
    assert first == compile_table(load()).digest
    assert first != compile_table(with_value(99)).digest
    assert len(first) == 64


@pytest.mark.parametrize("name", ['"""; A = 1 / 0 #', '"""\\', "a\\N{x}", "\\"])
def test_the_name_of_a_table_is_not_run_as_python(name: str) -> None:
    spec = dataclasses.replace(load(), name=name)
    namespace: dict[str, Any] = {"__name__": "engine"}
    exec(compile(python_file(compile_table(spec), "a test", "0"), "engine.py", "exec"), namespace)
    assert namespace["TABLE"] == name
