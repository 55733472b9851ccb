"""Who dies, or finds no room, in the middle of writing leaves the old file, or nothing."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from container_support import DYING

from support.samples import sample, sampled
from vfio_migration.runtime.files.atomic_file import PREFIX

# Whether a file is there already, and whether the new one has a name while it is written.
WAYS = sample(itertools.product([False, True], repeat=2), apart=3, spread=True)


def lives(folder: Path, kind: str, old: bool, nameless: bool) -> list[dict[str, Any]]:
    arguments = (str(folder), kind, str(int(old)), str(int(nameless)))
    result = subprocess.run(
        [sys.executable, str(DYING), *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@sampled(2)
@pytest.mark.parametrize(("old", "nameless"), WAYS)
def test_killed_at_any_call_it_leaves_the_old_file_or_nothing(
    old: bool, nameless: bool, tmp_path: Path
) -> None:
    *killed, done = lives(tmp_path, "kill", old, nameless)
    assert done["status"] == 0
    assert (done["content"], done["left"]) == ("n", [])
    assert {life["status"] for life in killed} == {-signal.SIGKILL}
    calls = [life["reported"] for life in killed]
    # Prologue, header, two blocks, the end, the digest; each head and content, before and amidst.
    assert calls.count("write") == 2 * (2 + 2 + 2 + 2 + 1)
    assert calls.count("fsync") == 2
    placed = calls.index("fsync", calls.index("fsync") + 1)
    for at, life in enumerate(killed):
        assert life["content"] == ("n" if at >= placed else "o" if old else None), life
        for name, _ in life["left"]:
            assert name.startswith(PREFIX)
        if nameless:
            # Between the two calls that replace, the new file is there, and whole.
            expected = [done["size"]] if life["reported"] == "rename" else []
            assert [size for _, size in life["left"]] == expected, life
        else:
            assert len(life["left"]) <= 1


@pytest.mark.exhaustive
@pytest.mark.parametrize(("old", "nameless"), WAYS)
def test_a_file_that_may_not_grow_leaves_nothing(old: bool, nameless: bool, tmp_path: Path) -> None:
    """The limit for the size of files, at every byte."""
    *failed, done = lives(tmp_path, "limit", old, nameless)
    assert (done["status"], done["turn"], done["content"]) == (0, done["size"], "n")
    assert [life["turn"] for life in failed] == list(range(done["size"]))
    for life in failed:
        assert life["status"] == 1, life
        assert (life["content"], life["left"]) == ("o" if old else None, []), life
        after = f", after {life['turn']} bytes" if life["turn"] else ""
        assert life["reported"] == (
            f"{tmp_path / 'x'}: cannot be written: File too large (EFBIG){after}; "
            "raise the limit (ulimit -f), or take another file system"
        )


FULL = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.path.dirname(sys.argv[2]))
import dying_writer
folder = Path(sys.argv[1])
(folder / "x").write_bytes(b"old")
try:
    dying_writer.write(folder / "x", b"n", replace=True)
except dying_writer.CannotWriteError as error:
    print(error)
print([(p.name, p.read_bytes()) for p in folder.iterdir()])
"""


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=256k none "$1" || exit 77; exec "$2" -c "$3" "$1" "$4"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path, sys.executable, FULL, DYING]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # type: ignore[arg-type]
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip("a file system of one's own is not allowed here")
    reported, left = result.stdout.splitlines()
    assert reported.startswith(
        f"{tmp_path / 'x'}: cannot be written: No space left on device (ENOSPC), after "
    )
    assert reported.endswith(" bytes; make room, or take a place on another file system")
    assert left == "[('x', b'old')]"
