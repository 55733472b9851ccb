"""Another user cannot have a command overwrite a file of ours by a symbolic link."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vfio_migration.cli.main import main
from vfio_migration.runtime.client.recording import Recording
from vfio_migration.runtime.files import trusted_path

NOBODY = 65534
KEPT = "what was there"


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Callable[[Path, Path], None]:
    """Makes a symbolic link that belongs to another user."""

    def plant(link: Path, target: Path) -> None:
        link.symlink_to(target)
        if os.geteuid() == 0:
            os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
        else:
            other = os.geteuid() + 1
            monkeypatch.setattr(os, "geteuid", lambda: other)

    return plant


COMMANDS = {
    "diagram -o": ["diagram", "-o", "{}.dot"],
    "generate -o": ["generate", "promela", "-o", "{}.pml"],
    "verify --junit": ["verify", "--only", "T1", "--junit", "{}.xml"],
    "verify --sarif": ["verify", "--only", "T1", "--sarif", "{}.sarif"],
    "diagram --migration -o": ["diagram", "--migration", "live", "-o", "{}.svg"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_link_of_another_user_is_not_followed(tmp_path, planted, capsys, words, where):
    private, shared = tmp_path / "private", tmp_path / "shared"
    private.mkdir()
    shared.mkdir()
    ending = words[-1].removeprefix("{}")
    target = private / f"x{ending}"
    target.write_text(KEPT, "utf-8")
    if where == "file":
        planted(shared / f"x{ending}", target)
        path = shared / "x"
    else:
        planted(shared / "folder", private)
        path = shared / "folder" / "x"
    assert main([*words[:-1], words[-1].format(path)]) == 2
    assert "a symbolic link there belongs to another user" in capsys.readouterr().err
    assert target.read_text("utf-8") == KEPT
    assert sorted(private.iterdir()) == [target]


@pytest.mark.parametrize("option", ["--traces", "--smtlib"])
def test_a_folder_behind_a_link_of_another_user_is_not_written_to(
    tmp_path, planted, capsys, option
):
    private = tmp_path / "private"
    private.mkdir()
    planted(tmp_path / "link", private)
    assert main(["verify", "--only", "T1", option, str(tmp_path / "link")]) == 2
    assert "belongs to another user" in capsys.readouterr().err
    assert not any(private.iterdir())


def test_a_recording_does_not_follow_a_link_of_another_user(tmp_path, planted):
    target = tmp_path / "target"
    target.write_text(KEPT, "utf-8")
    planted(tmp_path / "run.jsonl", target)
    with pytest.raises(PermissionError, match="belongs to another user"):
        Recording(tmp_path / "run.jsonl")
    assert target.read_text("utf-8") == KEPT


def test_a_recording_is_not_written_into_the_file_of_another_user(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    path.write_text(KEPT, "utf-8")
    monkeypatch.setattr(trusted_path, "trusted", lambda owner: owner != path.stat().st_uid)
    with pytest.raises(PermissionError, match="the file there belongs to another user"):
        Recording(path)
    assert path.read_text("utf-8") == KEPT


def test_a_link_of_our_own_stays_a_link(tmp_path):
    link, target = tmp_path / "run.jsonl", tmp_path / "target"
    link.symlink_to("target")
    with Recording(link) as recording:
        recording.note(None, "begun")
    assert link.is_symlink()
    assert len(target.read_bytes().splitlines()) == 2


def test_a_way_of_too_many_links_ends(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        trusted_path.open_folder(tmp_path / "a")


@pytest.mark.parametrize(
    "path", ["x", "./x", "../{}/x", "/proc/self/cwd/x", "sub/../x", "sub//x/../../x"]
)
def test_every_way_to_write_a_path_leads_to_its_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub" / "x").mkdir(parents=True)
    found = trusted_path.open_folder(path.format(tmp_path.name))
    try:
        assert os.path.samestat(os.fstat(found.folder), tmp_path.stat())
        assert found.name == "x"
        assert found.stat() is None
    finally:
        os.close(found.folder)
