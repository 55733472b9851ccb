"""docs/reviewing.md, done as it is written: from a patch file to a mail that is ready to send."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import c_sources
from support.git_repository import committed, git
from support.table_edits import ROOT
from vfio_migration.model import load

PAGE = (ROOT / "docs/reviewing.md").read_text("utf-8")
[BLOCK] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line.removeprefix("$ ") for line in BLOCK.splitlines()]
MAIL_COLUMNS = 72
NO = 1


@pytest.fixture
def reviewer(tmp_path: Path) -> Path:
    """A folder with a tree of Linux as far as it is read, and the patch that the page names."""
    tree = tmp_path / "linux"
    c_sources.tree(tree, c_sources.linux(load()), "linux", c_sources.header(load()))
    committed(tree)
    steps = c_sources.cells(load()) | {("STOP_COPY", "PRE_COPY_P2P"): "PRE_COPY_P2P"}
    source = tree / c_sources.PLACES["linux"]
    # The patch of somebody who forgets the comment.
    before, comment = source.read_text("utf-8"), "\n".join(c_sources.linux_comment(load()))
    after = c_sources.linux(load(), steps)
    source.write_text(after, "utf-8")
    assert comment in after
    assert after != before
    [name] = re.findall(r"\.\./(\S+\.patch)", BLOCK)
    (tmp_path / name).write_text(git(tree, "diff"), "utf-8")
    git(tree, "checkout", "-q", ".")
    return tmp_path


@pytest.mark.parametrize(
    "more", [" --only T2 T4", pytest.param("", marks=pytest.mark.exhaustive)], ids=["T", "all"]
)
def test_the_page_leads_from_a_patch_to_a_mail(reviewer: Path, more: str) -> None:
    assert [command.split()[0] for command in COMMANDS] == ["cd", "git", "vfio-migration"]
    script = "\n".join([*COMMANDS[:-1], COMMANDS[-1].replace(" > ", f"{more} > ")])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script], cwd=reviewer, env=os.environ | {"PATH": path}, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (NO, b"", b"")
    mail = (reviewer / "linux/verdict.txt").read_text("utf-8")
    assert max(map(len, mail.splitlines())) <= MAIL_COLUMNS
    assert mail.startswith("git:HEAD to .: not compatible, for (5) fails;")
    flowing = " ".join(mail.split())
    for part in (
        "newly violated (of ",
        "T2 newly violated:",
        "STOP_COPY -> PRE_COPY_P2P steps to PRE_COPY_P2P; in the base table it is refused",
        "lists as refused STOP_COPY -> PRE_COPY_P2P, which is an arc of the table",
        "+ STOP_COPY ==> PRE_COPY_P2P is new",
        "Live engines of both tables did this.",
    ):
        assert part in flowing
    # Nobody has the table that was made of the source: its rows are named by their lines.
    line = r"drivers/vfio/vfio_main\.c:\d+"
    assert re.search(rf"{line} refuses STOP_COPY -> PRE_COPY, and {line} \(STOP_COPY", flowing)
    assert "arcs[" not in mail
