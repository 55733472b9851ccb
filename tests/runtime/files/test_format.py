"""docs/save-format.md, whose bytes do not come from the code, against the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from container_support import DOC, TWO, assembled, block, end, examples, restored, save, total

from vfio_migration.runtime.files import container, container_header
from vfio_migration.runtime.files.compression import NAMES
from vfio_migration.runtime.files.container import ContainerReader, DeviceHeader, Header, Total

EXAMPLES = examples()


def test_the_examples_are_these() -> None:
    assert list(EXAMPLES) == ["Two devices", "One device, compressed"]


def test_the_first_is_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "two.save"
    written = save(path, TWO, (0, b"str"), (1, b"\xaa\xbb"), (0, b"eam"))
    assert written.hex(" ") == EXAMPLES["Two devices"].hex(" ")
    assert restored(path) == [b"stream", b"\xaa\xbb"]
    with ContainerReader(path) as reader:
        assert reader.header == TWO
        assert reader.size == len(written)
        assert reader.check() == (total(b"stream"), total(b"\xaa\xbb"))


def test_the_second_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.save"
    path.write_bytes(EXAMPLES["One device, compressed"])
    assert restored(path) == [bytes(256)]
    with ContainerReader(path) as reader:
        assert reader.header == Header((DeviceHeader("edu"),), codec="zlib")


def test_the_hand_of_the_other_tests_is_right() -> None:
    rows = [
        block(b"stream"),
        block(b"\xaa\xbb", device=1),
        end(total(b"stream"), total(b"\xaa\xbb")),
    ]
    assert assembled(TWO.to_json(), rows) == EXAMPLES["Two devices"]


def test_the_document_and_the_code_name_the_same_numbers() -> None:
    text = DOC.read_text("utf-8")
    assert int(re.search(r"This is version (\d+)\.", text)[1]) == container.VERSION  # type: ignore[index]
    codecs = ", ".join(f"{number} {name}" for number, name in enumerate(NAMES))
    assert f"| {codecs} |" in text
    assert f"1 to {container_header.MAX_HEADER} |" in text
    assert f"| 1 to {container.MAX_BLOCK} |" in text
    assert f"1 to {container_header.MAX_DEVICES} devices" in text
    sizes = (container.PROLOGUE.size, container.RECORD.size, container.TOTAL.size)
    assert sizes == (24, 24, 48)


def test_the_keys_of_the_header_are_those_of_the_document() -> None:
    listed = set(re.findall(r"^\| `([\w.\[\]]+)` \|", DOC.read_text("utf-8"), re.M))
    data = json.loads(TWO.to_json())
    keys = set(data) | {f"devices[].{key}" for key in data["devices"][0]}
    assert listed == keys


def test_an_empty_stream_is_a_stream(tmp_path: Path) -> None:
    save(tmp_path / "x", TWO)
    assert restored(tmp_path / "x") == [b"", b""]
    with ContainerReader(tmp_path / "x") as reader:
        assert reader.check() == (total(), total())


def test_what_may_be_absent_and_what_is_not_known(tmp_path: Path) -> None:
    text = b'{"devices": [{"name": "a", "colour": 3}],\n "codec": "zstd", "later": [1]}'
    path = tmp_path / "x"
    path.write_bytes(assembled(text, [end(total())]))
    with ContainerReader(path) as reader:
        assert reader.header == Header((DeviceHeader("a"),), codec="zstd")
        assert reader.check() == (Total(0, 0, total().digest),)


def test_numbers_of_records_go_round(tmp_path: Path) -> None:
    """Nobody writes 2**32 records here; both sides are reported that they have."""
    path = tmp_path / "x"
    with container.ContainerWriter(path, TWO) as writer:
        writer._number = (1 << 32) - 1
        writer.write(0, b"a")
    at = container.PROLOGUE.size + len(TWO.to_json())
    with ContainerReader(path) as reader:
        assert reader._record(at, (1 << 32) - 1, [0, 0]).kind == container.BLOCK
        assert reader._record(at + 24 + 1, 1 << 32, [1, 0]).kind == container.END
