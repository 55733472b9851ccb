"""Journals and claims are believed by whose they are, not by where they are.

In a folder like `/tmp` anybody can leave a file beside a socket. What it states is done to devices,
by root too; so what another user can have written is not followed, and not removed either.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.migration_harness import SPEC, Harness
from vfio_migration.cli import main as command_line
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator.errors import NotTrustedError
from vfio_migration.runtime.coordinator.journal import Entry, Journal
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Saver
from vfio_migration.runtime.files import trusted_path

NOBODY = 65534
Give = Callable[[Path], None]


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Give:
    """Have a file, or a symbolic link itself, belong to another user."""
    check, given = trusted_path.check_owner, set()

    def check_owner(there: os.stat_result, what: str) -> None:
        if (there.st_dev, there.st_ino) in given:
            raise PermissionError(1, f"{what} there belongs to another user ({NOBODY})")
        check(there, what)

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        else:
            there = path.lstat()
            given.add((there.st_dev, there.st_ino))
            monkeypatch.setattr(trusted_path, "check_owner", check_owner)

    return give


@pytest.fixture
def pair(harness: Harness) -> Harness:
    """Two devices in a folder that anybody may write to, and one elsewhere."""
    Path().chmod(0o1777)
    for name in ("s0", "d0", "s1"):
        harness.serve(name)
    return harness


def plant(name: str = "s0.migration") -> Path:
    """Leave a journal by which the source s1 has handed its state over, and is to be stopped."""
    entries = (Entry("s0", "d0", None, None), Entry("s1", "", None, None))
    journal = Journal(Path(name), "live", entries)
    journal.holder = "destination"
    journal._replace(new=True)
    return Path(name)


def test_a_journal_that_another_user_left_in_a_shared_folder_stops_no_device(
    pair: Harness, give_away: Give
) -> None:
    give_away(plant())
    for acts in (
        lambda: recover([("s0", None)], spec=SPEC),
        lambda: recover([("s0", "d0")], spec=SPEC, keep="destination"),
        lambda: recover([("s0", "d0")], spec=SPEC, journal=Path("s0.migration")),
        lambda: pair.coordinator().run(),
        lambda: Saver(["s0"], spec=SPEC).run("file"),
    ):
        with pytest.raises(NotTrustedError, match="belongs to another user"):
            acts()
    assert pair.running == {"s0", "d0", "s1"}
    assert not pair.arcs
    assert Path("s0.migration").exists()


@pytest.mark.parametrize("keep", [None, "source", "destination"])
def test_a_claim_of_another_user_leads_to_no_file_of_ours(
    pair: Harness, give_away: Give, keep
) -> None:
    """With --keep, what a claim led to was removed: it was taken for a journal of no use."""
    kept = Path("kept")
    kept.write_text("not a journal, and needed")
    Path("s0.migration").symlink_to(kept.resolve())
    give_away(Path("s0.migration"))
    with pytest.raises(NotTrustedError, match=r"claim there belongs to another user") as refusal:
        recover([("s0", "d0")], spec=SPEC, keep=keep)
    assert refusal.value.hints[-1] == "if nobody has: rm s0.migration"
    assert kept.read_text() == "not a journal, and needed"
    assert pair.running == {"s0", "d0", "s1"}


def test_a_claim_of_our_own_leads_to_no_journal_of_another_user(
    pair: Harness, give_away: Give
) -> None:
    plant("elsewhere")
    Path("s0.migration").symlink_to(Path("elsewhere").resolve())
    give_away(Path("elsewhere"))
    for keep in (None, "source"):
        with pytest.raises(NotTrustedError, match="belongs to another user"):
            recover([("s0", "d0")], spec=SPEC, keep=keep)
    assert Path("elsewhere").exists()
    assert pair.running == {"s0", "d0", "s1"}


@pytest.mark.parametrize("mode", [0o606, 0o660, 0o622])
def test_a_journal_that_others_can_write_to_is_not_believed(pair: Harness, mode: int) -> None:
    plant().chmod(mode)
    with pytest.raises(NotTrustedError, match=rf"others can write to it \(mode {mode:04o}\)"):
        recover([("s0", None)], spec=SPEC)
    assert pair.running == {"s0", "d0", "s1"}


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_is_no_file_is_no_journal_and_is_not_opened(pair: Harness, kind: str) -> None:
    place = Path("odd")
    with socket.socket(socket.AF_UNIX) as bound:
        {
            "pipe": lambda: os.mkfifo(place),
            "socket": lambda: bound.bind(str(place)),
            "folder": place.mkdir,
        }[kind]()
        with pytest.raises(NotTrustedError, match="and no journal"):
            recover([("s0", None)], spec=SPEC, journal=place)
    assert pair.running == {"s0", "d0", "s1"}


def test_a_journal_of_our_own_is_followed_wherever_it_is(pair: Harness) -> None:
    plant()
    finished = recover([("s0", "d0")], spec=SPEC, keep="source")
    assert finished.outcome == "source"
    assert not Path("s0.migration").exists()


@pytest.mark.parametrize("command", ["recover", "migrate"])
def test_a_journal_behind_a_link_of_another_user_is_not_taken_by_a_command(
    pair: Harness, give_away: Give, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    shutil.move(plant("real"), "private")
    Path("link").symlink_to("private")
    give_away(Path("link"))
    assert command_line.main([command, "s0", "d0", "--journal", "link"]) == 2
    assert "a symbolic link there belongs to another user" in capfd.readouterr().err
    assert pair.running == {"s0", "d0", "s1"}


@pytest.mark.parametrize("command", ["recover", "migrate", "save"])
def test_a_command_states_in_one_message_that_a_claim_belongs_to_another_user(
    pair: Harness, give_away: Give, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    give_away(plant())
    arguments = ["s0", "file" if command == "save" else "d0"]
    assert command_line.main([command, *arguments]) == 2
    reported = capfd.readouterr().err
    assert (
        "is not taken for the claim of a migration: the claim there belongs to another" in reported
    )
    assert claims.beside("s0").name in reported
    assert "Traceback" not in reported
