"""The table of the connection: held to a list of its own, and refused when it is wrong."""

from __future__ import annotations

import contextlib
import errno
import pickle
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given

from support.strategies import plain
from support.table_edits import ROOT
from vfio_migration.model import SpecError, UnknownNameError, load
from vfio_migration.model.wire import FROM_THE_TABLE, Occasion, Wire
from vfio_migration.model.wire_load import load_wire, wire_from

TABLE = ROOT / "model/wire.toml"
TABLE_DATA = tomllib.loads(TABLE.read_text("utf-8"))

# Written down by hand from the specification: name, number, sender, fixed request, fixed reply.
COMMANDS = """
    VERSION 1 client 4 4
    DMA_MAP 2 client 32 0
    DMA_UNMAP 3 client 24 24
    DEVICE_GET_INFO 4 client 16 16
    DEVICE_GET_REGION_INFO 5 client 32 32
    DEVICE_GET_REGION_IO_FDS 6 client 16 16
    DEVICE_GET_IRQ_INFO 7 client 16 16
    DEVICE_SET_IRQS 8 client 20 0
    REGION_READ 9 client 16 16
    REGION_WRITE 10 client 16 16
    DMA_READ 11 server 16 16
    DMA_WRITE 12 server 16 16
    DEVICE_RESET 13 client 0 0
    REGION_WRITE_MULTI 15 client 8 8
    DEVICE_FEATURE 16 client 8 8
    MIG_DATA_READ 17 client 8 8
    MIG_DATA_WRITE 18 client 8 0
    MIG_PRECOPY_INFO 19 client 8 24
"""

# From the measurements on Linux: number, and whether PROBE+GET and PROBE+SET succeed.
FEATURES = {1: "G", 2: "GS", 6: "S", 7: "S", 8: "G", 9: "G", 12: "S"}


@pytest.fixture(scope="module")
def wire() -> Wire:
    return load_wire()


@pytest.fixture
def data() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text("utf-8"))


def test_commands_are_those_of_the_specification(wire: Wire):
    recorded = [
        f"{row.name} {row.number} {row.sender} {row.request} {row.reply}" for row in wire.commands
    ]
    assert recorded == [line.strip() for line in COMMANDS.strip().splitlines()]


def test_features_are_those_of_linux(wire: Wire):
    recorded = {row.number: "G" * row.get + "S" * row.set for row in wire.features}
    assert recorded == FEATURES


def test_the_header_is_sixteen_bytes(wire: Wire):
    assert [(row.name, row.offset, row.size) for row in wire.header] == [
        ("id", 0, 2), ("command", 2, 2), ("size", 4, 4), ("flags", 8, 4), ("errno", 12, 4)
    ]  # fmt: skip
    assert wire.header_size == 16
    recorded = {(row.word, row.name): (row.mask, row.value) for row in wire.flags}
    assert recorded == {
        ("header", "command"): (15, 0),
        ("header", "reply"): (15, 1),
        ("header", "no_reply"): (1 << 4, 1 << 4),
        ("header", "error"): (1 << 5, 1 << 5),
        ("feature", "index"): (0xFFFF, None),
        ("feature", "get"): (1 << 16, 1 << 16),
        ("feature", "set"): (1 << 17, 1 << 17),
        ("feature", "probe"): (1 << 18, 1 << 18),
        **bits("dma_map", "readable writeable mmap file_io"),
        **bits("dma_unmap", "- all"),
        **bits("device_info", "reset pci"),
        **bits("region_info", "read write mmap caps"),
        **bits("irq_info", "eventfd maskable automasked noresize"),
        **bits(
            "irq_set",
            "data_none data_bool data_eventfd action_mask action_unmask action_trigger",
        ),
        **bits("precopy_info", "reinit"),
    }


def bits(word: str, names: str) -> dict[tuple[str, str], tuple[int, int]]:
    """The bits of a flags word from the lowest; "-" for one that means nothing."""
    found = enumerate(names.split())
    return {(word, name): (1 << n, 1 << n) for n, name in found if name != "-"}


def test_every_command_with_a_flags_word_has_a_row_for_it(wire: Wire):
    """The commands whose payload has flags in the text, and what becomes of unknown ones."""
    assert {row.command: row.unknown for row in wire.words} == {
        None: "ignored",
        "DMA_MAP": "refused",
        "DMA_UNMAP": "refused",
        "DEVICE_GET_INFO": "ignored",
        "DEVICE_GET_REGION_INFO": "ignored",
        "DEVICE_GET_REGION_IO_FDS": "refused",
        "DEVICE_GET_IRQ_INFO": "ignored",
        "DEVICE_SET_IRQS": "refused",
        "DEVICE_FEATURE": "refused",
        "MIG_PRECOPY_INFO": "ignored",
    }
    assert wire.word_of("DMA_MAP") is wire.word("dma_map")
    assert wire.word_of("REGION_READ") is None


def test_every_command_of_a_fixed_size_may_be_followed_by_padding(wire: Wire):
    for row in wire.commands:
        assert (row.request_padding is None) == bool(row.request_item), row.name


def test_defaults_are_those_of_the_specification(wire: Wire):
    recorded = {row.name: row.default for row in (*wire.limits, *wire.options)}
    assert {name: value for name, value in recorded.items() if value is not None} == {
        "max_msg_fds": 1,
        "max_data_xfer_size": 1048576,
        "max_dma_maps": 65535,
        "pgsizes": 4096,
        "twin_socket": 0,
        "write_multiple": 0,
        "precopy_info": 0,
    }


def test_only_version_comes_first(wire: Wire):
    assert [row.name for row in wire.commands if row.before_version] == ["VERSION"]
    assert [row.name for row in wire.commands if row.does == "negotiate"] == ["VERSION"]


def test_data_goes_the_way_the_command_states(wire: Wire):
    moving = {row.name: row.transfer for row in wire.commands if row.transfer != "none"}
    assert moving == {"MIG_DATA_READ": "read", "MIG_DATA_WRITE": "write"}
    assert [row.name for row in wire.commands if row.does == "inform"] == ["MIG_PRECOPY_INFO"]


def test_without_the_option_the_table_is_what_it_was(wire: Wire):
    """All that is proposed needs the option; nothing that was there does."""
    old = wire.without("precopy_info")
    assert {row.name for row in wire.commands} - {row.name for row in old.commands} == {
        "MIG_PRECOPY_INFO"
    }
    assert {row.when for row in wire.answers} - {row.when for row in old.answers} == {"nothing_now"}
    for section in ("header", "limits", "holdings", "features", "choices"):
        assert getattr(old, section) == getattr(wire, section)
    assert "precopy_info" not in {row.name for row in (*old.options, *old.words)}
    assert {row.word for row in old.flags} <= {row.name for row in old.words}


def test_every_occasion_has_an_answer_with_an_errno(wire: Wire):
    assert {row.when for row in wire.answers} == set(get_args(Occasion))
    for row in wire.answers:
        if row.outcome == "ignored" or row.when in FROM_THE_TABLE:
            assert row.errno is None
        else:
            assert getattr(errno, row.errno or "") > 0


def test_errnos_are_those_linux_answers(wire: Wire):
    recorded = {row.when: row.errno for row in wire.answers}
    assert recorded["feature_unknown"] == "ENOTTY"
    assert recorded["method_unsupported"] == recorded["feature_flags_clash"] == "EINVAL"
    assert recorded["map_exists"] == "EEXIST"


def test_the_longest_message_is_known(wire: Wire):
    assert wire.largest_request == 16 + 16 + 1048576
    assert wire.largest_reply == 16 + 32 + 1048576


def test_what_a_disconnect_drops_is_held_for_the_client(wire: Wire):
    """The two tables name the same things."""
    held = {row.name for row in wire.holdings if row.belongs_to == "client"}
    assert held == set(load().event("disconnect").drops)


def test_everything_a_client_can_make_the_server_keep_has_a_limit_that_the_server_reads(wire: Wire):
    """From the table, and not from a number of its own."""
    sources = [path.read_text("utf-8") for path in (ROOT / "runtime").rglob("*.py")]
    for row in wire.holdings:
        assert row.limit is not None
        assert wire.bound(row.name) == wire.limit(row.limit).value > 0
        read = f'WIRE.bound("{row.name}")'
        assert any(read in source for source in sources), f"nothing in runtime/ has {read}"
    with pytest.raises(UnknownNameError, match="dma_maps"):
        wire.bound("dma_map")


def test_rows_are_found_by_name_and_number(wire: Wire):
    assert wire.command(16) is wire.command("DEVICE_FEATURE") is not None
    assert wire.command(14) is None
    assert wire.feature("MIGRATION") is wire.feature(1)
    assert wire.bits("header", "reply").value == 1
    with pytest.raises(UnknownNameError, match="max_msg_fds"):
        wire.limit("max_msg_fd")
    with pytest.raises(UnknownNameError, match="twin_socket"):
        wire.option("twin")


def test_it_is_read_once_and_can_be_pickled(wire: Wire):
    assert load_wire() is wire
    assert load_wire(TABLE) == wire
    assert pickle.loads(pickle.dumps(wire)) == wire


# --- Wrong tables ---------------------------------------------------------------------------------

EDITS = {
    "commands[1].number: 1: is already in commands[0]": ("commands", 1, "number", 1),
    'commands[1].name: "VERSION": is already': ("commands", 1, "name", "VERSION"),
    "commands[1].number: 65536: does not fit 16 bits": ("commands", 1, "number", 65536),
    "commands[1].request: -1: does not fit": ("commands", 1, "request", -1),
    'commands[1].sender: "peer": is not allowed here': ("commands", 1, "sender", "peer"),
    'commands[1].adds: "dma_map": there is no such holding in this table; did you mean': (
        "commands", 1, "adds", "dma_map"
    ),
    'commands[9].request_bound: "max_xfer": there is no such limit': (
        "commands", 9, "request_bound", "max_xfer"
    ),
    'commands[13].needs: "write_many": there is no such': ("commands", 13, "needs", "write_many"),
    "commands[1].request_bound: \"max_dma_maps\": bounds nothing": (
        "commands", 1, "request_bound", "max_dma_maps"
    ),
    'commands[12].does: "reset": is already in commands[1]': ("commands", 1, "does", "reset"),
    'answers[0].errno: "EINVALID": is not an errno of this system': (
        "answers",
        0,
        "errno",
        "EINVALID",
    ),
    'answers[1].when: "size_below_header": is already in answers[0]': (
        "answers", 1, "when", "size_below_header"
    ),
    "answers[0].errno: is missing from a row that answers": ("answers", 0, "errno", None),
    'answers[3].errno: "EINVAL": is never used: the row answers nothing': (
        "answers", 3, "errno", "EINVAL"
    ),
    'answers[26].errno: "EIO": is never used: the migration table has it': (
        "answers", 26, "errno", "EIO"
    ),
    "header[1].offset: 4: is not where the field before ends, at 2": ("header", 1, "offset", 4),
    "flags[1]: \"header -> command\": is already in flags[0]": ("flags", 1, "name", "command"),
    "flags[8].word: \"dma\": there is no such flags word": ("flags", 8, "word", "dma"),
    "words[1].command: \"MAP\": there is no such command": ("words", 1, "command", "MAP"),
    "words: has no row with name = \"header\"": ("words", 0, "name", "head"),
    "choices[0].among[1]: \"writable\": is not a flag of dma_map; did you mean \"writeable\"?": (
        "choices", 0, "among", ["readable", "writable"]
    ),
    "choices[0].most: 3: is not between 1 and 2": ("choices", 0, "most", 3),
    "commands[9].request_padding: \"max_padding\": pads nothing": (
        "commands", 9, "request_padding", "max_padding"
    ),
    "commands[1].forgets: \"when_sent\": is never used: its reply has nothing that no other will": (
        "commands", 1, "forgets", "when_sent"
    ),
    "features[0].forgets: \"when_served\": is never used": (
        "features", 0, "forgets", "when_served"
    ),
    "commands[10].whole: false: is never used: it is the client that does it": (
        "commands", 10, "whole", False
    ),
    "features: has no row with moves = true": ("features", 1, "moves", False),
    "holdings: has no row with name = \"replies\"": ("holdings", 4, "name", "answers"),
    "commands[1].sned: is a key that nothing reads": ("commands", 1, "sned", 1),
    "title: \"\": is empty": ("title", None, None, ""),
}  # fmt: skip


@pytest.mark.parametrize(("message", "edit"), list(EDITS.items()), ids=str)
def test_a_wrong_table_is_reported(message: str, edit: tuple[Any, ...], data: dict[str, Any]):
    section, index, key, value = edit
    if index is None:
        data[section] = value
    elif value is None:
        del data[section][index][key]
    else:
        data[section][index][key] = value
    with pytest.raises(SpecError) as caught:
        wire_from(data, "wire.toml")
    assert any(message in str(mistake) for mistake in caught.value.mistakes), str(caught.value)
    assert len(caught.value.mistakes) <= 2


def test_all_mistakes_are_reported_at_once(data: dict[str, Any]):
    data["commands"][0]["sender"] = "nobody"
    data["features"][0]["get"] = 1
    data["answers"][0]["errno"] = "E"
    with pytest.raises(SpecError) as caught:
        wire_from(data)
    places = [mistake.place for mistake in caught.value.mistakes]
    assert places == ["commands[0].sender", "features[0].get", "answers[0].errno"]


def test_no_section_can_be_left_out(data: dict[str, Any]):
    for section in data:
        with pytest.raises(SpecError, match=section):
            wire_from({key: rows for key, rows in data.items() if key != section})


def test_a_table_with_a_row_less_loads_or_is_refused_as_a_table(data: dict[str, Any]):
    for section, rows in data.items():
        for index in range(len(rows) if isinstance(rows, list) else 0):
            with contextlib.suppress(SpecError):
                wire_from({**data, section: rows[:index] + rows[index + 1 :]})


@given(plain(), plain())
def test_garbage_is_refused_as_a_table(value: Any, other: Any):
    commands = list(TABLE_DATA["commands"])
    commands[3] = {**commands[3], "request": value}
    data = {**TABLE_DATA, "commands": commands, "answers": other}
    size = isinstance(value, int) and not isinstance(value, bool)
    if size and other == []:
        # A size and a table without answers may be right: then it must load, or say why not.
        with contextlib.suppress(SpecError):
            wire_from(data)
        return
    with pytest.raises(SpecError):
        wire_from(data)


@given(plain())
def test_a_garbage_file_is_refused_as_a_table(value: Any):
    with pytest.raises(SpecError):
        wire_from(value if isinstance(value, dict) else {"commands": value})


def test_a_file_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(SpecError, match="cannot be read"):
        load_wire(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("commands = [")
    with pytest.raises(SpecError, match="is not valid TOML"):
        load_wire(tmp_path / "bad.toml")
