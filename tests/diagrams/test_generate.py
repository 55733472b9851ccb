"""The committed pictures and tables are those of today's table, and the check cannot be fooled."""

from __future__ import annotations

from pathlib import Path

import pictures
import pytest

from vfio_migration.model import load
from vfio_migration.model.edited import proposals

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files():
    return pictures.generate(load())


@pytest.fixture
def docs(files, tmp_path, monkeypatch):
    # What is tested on them is the comparison, not how long they take to make.
    monkeypatch.setattr(pictures, "generate", lambda _spec: files)
    pictures.write(files, tmp_path)
    return tmp_path


def check(docs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = pictures.main(["--check", "--output", str(docs)])
    return status, capsys.readouterr().out


def test_what_is_committed_is_up_to_date(capsys):
    status, printed = check(ROOT / "docs", capsys)
    assert status == 0, printed
    assert printed == ""


def test_there_is_a_picture_of_each_capability_set_migration_and_proposal(files):
    assert sorted(files) == [
        "diagrams/migration-live.mmd",
        "diagrams/migration-live.svg",
        "diagrams/migration-offline.mmd",
        "diagrams/migration-offline.svg",
        *(f"diagrams/proposal-{edit.name}.svg" for edit in proposals()),
        "diagrams/vfio-v2-stop_copy-p2p-pre_copy.mmd",
        "diagrams/vfio-v2-stop_copy-p2p-pre_copy.svg",
        "diagrams/vfio-v2-stop_copy-p2p.mmd",
        "diagrams/vfio-v2-stop_copy-p2p.svg",
        "diagrams/vfio-v2-stop_copy-pre_copy.mmd",
        "diagrams/vfio-v2-stop_copy-pre_copy.svg",
        "diagrams/vfio-v2-stop_copy.mmd",
        "diagrams/vfio-v2-stop_copy.svg",
        "tables.md",
        "tables.rst",
    ]


def test_check_passes_on_what_was_written(docs, capsys):
    assert check(docs, capsys) == (0, "")


def test_check_fails_on_a_changed_line(docs, capsys):
    path = docs / "tables.md"
    path.write_text(path.read_text("utf-8").replace("is stopped", "lies still", 1), "utf-8")
    status, printed = check(docs, capsys)
    assert status == 1
    assert f"--- {path} (as it is)\n+++ {path} (as it should be)\n" in printed
    assert "lies still" in next(line for line in printed.split("\n") if line.startswith("-|"))
    assert "is stopped" in next(line for line in printed.split("\n") if line.startswith("+|"))


def test_check_fails_on_a_truncated_file(docs, capsys):
    for name in ("diagrams/vfio-v2-stop_copy.svg", "tables.rst"):
        content = (docs / name).read_bytes()
        for cut in (content[:-1], content[: len(content) // 2], b""):
            (docs / name).write_bytes(cut)
            status, printed = check(docs, capsys)
            assert status == 1
            assert name in printed
        (docs / name).write_bytes(content)


def test_check_fails_on_a_carriage_return(docs, capsys):
    path = docs / "tables.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 1))
    status, printed = check(docs, capsys)
    assert status == 1
    assert "@@" in printed


def test_check_fails_on_bytes_that_are_no_text(docs, capsys):
    path = docs / "tables.md"
    path.write_bytes(path.read_bytes() + b"\xff")
    assert check(docs, capsys)[0] == 1


def test_check_fails_on_a_missing_file(docs, capsys):
    path = docs / "diagrams/vfio-v2-stop_copy-p2p.svg"
    path.unlink()
    status, printed = check(docs, capsys)
    assert status == 1
    assert f"{path}: is missing" in printed


def test_check_fails_without_any_file(tmp_path, capsys):
    status, printed = check(tmp_path / "nowhere", capsys)
    assert status == 1
    assert printed.count("is missing") == 14 + len(proposals())


@pytest.mark.parametrize("stray", ["old.svg", "deeper/old.mmd", ".hidden"])
def test_check_fails_on_a_stray_file(docs, capsys, stray):
    path = docs / "diagrams" / stray
    path.parent.mkdir(exist_ok=True)
    path.write_text("left over")
    status, printed = check(docs, capsys)
    assert status == 1
    assert f"{path}: is not generated from any table" in printed


def test_check_writes_nothing(docs, capsys):
    (docs / "tables.md").write_text("changed")
    (docs / "diagrams/old.svg").write_text("stray")
    check(docs, capsys)
    assert (docs / "tables.md").read_text() == "changed"
    assert (docs / "diagrams/old.svg").exists()


def test_writing_repairs_all_of_it(docs, files, capsys):
    (docs / "tables.md").unlink()
    (docs / "diagrams/old.svg").write_text("stray")
    (docs / "diagrams/vfio-v2-stop_copy.svg").write_text("cut")
    (docs / "by-hand.md").write_text("not ours")
    assert pictures.main(["--output", str(docs)]) == 0
    assert capsys.readouterr().out == f"{14 + len(proposals())} files written to {docs}\n"
    assert check(docs, capsys) == (0, "")
    assert (docs / "by-hand.md").read_text() == "not ours"
