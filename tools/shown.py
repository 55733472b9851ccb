"""What pages show of the repository, outputs and programs: `make docs` writes it anew.

A block is marked by the comment before it, which names the command or the file:

    <!-- output: vfio-migration route RUNNING STOP -->
    ```text
    RUNNING -> RUNNING_P2P -> STOP
    ```

    <!-- file: examples/counter.py -->
    ```python
    ...
    ```

`<!-- output (exit 1): ... -->` is for a command whose answer is no. Durations may differ from run
to run, and so may what a live migration measures; everything else may not. `make test` is not run
from within itself: its block is kept, and test_readme.py compares its headings with the Makefile.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from dataclasses import dataclass
from typing import Final

from clean_run import ROOT, run, script

PAGES: Final = tuple(
    ROOT / name
    for name in (
        *("README.md", "docs/demo.md", "docs/examples.md", "docs/precopy-info.md"),
        "docs/publishing.md",
    )
)
NOT_RUN = ("make test",)
BLOCK = re.compile(
    r"<!-- output(?: \(exit (?P<exit>\d)\))?: (?P<command>[^\n]+?) -->\n"
    r"```(?P<language>\w*)\n(?P<text>.*?)```\n",
    re.DOTALL,
)
FILE = re.compile(
    r"<!-- file: (?P<file>\S+) -->\n```(?P<language>\w*)\n(?P<text>.*?)```\n", re.DOTALL
)
DURATION = re.compile(r" *\b\d+(?:\.\d+)?(?= ?(?:ms|s|seconds?)\b)")
# What a live migration measures: sizes and rates, passes, and counts on the lines that count.
MEASURED = re.compile(r"\b\d+(?:\.\d+)? (?:B|KiB|MiB|GiB)(?:/s)?|(?<=passes)\s+\d+| m?s\b")
COUNTING = re.compile(r"^(?:memory|peers): |^  (?:held against|not restricted)| a recording of ")
PROGRESS = re.compile(r"^ *# #  pass \d+ .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One marked block of output."""

    command: str
    exit_status: int
    text: str


def blocks(page: str) -> list[Block]:
    """Return the marked blocks, in order."""
    return [
        Block(found["command"], int(found["exit"] or 0), found["text"])
        for found in BLOCK.finditer(page)
    ]


def real_output(block: Block) -> str:
    """Run the command of a block and return what it prints.

    Raises:
        RuntimeError: If its exit status is not the one the block guarantees.
    """
    words = shlex.split(block.command)
    with tempfile.TemporaryDirectory() as elsewhere:
        if words == ["make", "demo"]:  # without make, which might want to set up what is running
            result = run(sys.executable, "examples/demo.py")
        elif words[0] == "make":
            result = run(*words)
        else:
            program = sys.executable if words[0] == "python" else script(words[0])
            result = run(program, *words[1:], cwd=elsewhere)
    if result.returncode != block.exit_status:
        raise RuntimeError(
            f"{block.command}: exit status {result.returncode}, not {block.exit_status}\n"
            f"{result.stdout}"
        )
    return result.stdout


def comparable(text: str) -> str:
    """Return a text with what may differ from run to run made alike."""
    alike = MEASURED.sub(" #", DURATION.sub(" #", text))
    lines = [
        re.sub(r"\d[\d,]*", "#", line) if COUNTING.search(line) else line
        for line in PROGRESS.sub("", alike + "\n").splitlines()
    ]
    return "\n".join(lines).rstrip()


def with_files(page: str) -> str:
    """Return a page with the programs that it shows as they are now."""

    def fill(found: re.Match[str]) -> str:
        text = (ROOT / found["file"]).read_text("utf-8")
        return f"<!-- file: {found['file']} -->\n```{found['language']}\n{text}```\n"

    return FILE.sub(fill, page)


def filled(page: str) -> str:
    """Return a page with every block's output as it is now; one that only ran longer is kept."""

    def fill(found: re.Match[str]) -> str:
        block = Block(found["command"], int(found["exit"] or 0), found["text"])
        if block.command in NOT_RUN:
            return found[0]
        output = real_output(block)
        if comparable(output) == comparable(block.text):
            return found[0]
        head = found[0][: found.start("text") - found.start()]
        return f"{head}{output.rstrip()}\n```\n"

    return BLOCK.sub(fill, with_files(page))


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text("utf-8")), "utf-8")
