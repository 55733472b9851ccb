"""`vfio-migration diagram` for a manual: a width, parts left out, words in files of their own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from vfio_migration.cli.main import main
from vfio_migration.model import Step, Trace

COLUMN = "455pt"


def width_of(path: Path) -> str:
    return ET.fromstring(path.read_bytes()).attrib["width"]


@pytest.mark.parametrize(
    ("given", "points"),
    [
        (COLUMN, "455pt"),
        ("736px", "552pt"),
        ("160mm", "453pt"),
        ("16cm", "453pt"),
        ("6.5in", "468pt"),
    ],
)
def test_a_width_is_taken_in_any_unit_and_never_exceeded(tmp_path, given, points):
    picture = tmp_path / "a.svg"
    assert main(["diagram", "-o", str(picture), "--width", given]) == 0
    assert width_of(picture) == points


@pytest.mark.parametrize(
    "given",
    ["0", "0pt", "-5", "-5pt", "nan", "1e9", "1e9pt", "99999999pt", "455", "455 pt", "9em", ""],
)
def test_what_is_no_width_of_a_page_is_wrong_input(capsys, given):
    with pytest.raises(SystemExit, match="2"):
        main(["diagram", f"--width={given}"])
    assert f"argument --width: {given} is not" in capsys.readouterr().err


@pytest.mark.parametrize("what", [[], ["--migration", "live"]], ids=["machine", "migration"])
def test_a_page_that_is_too_narrow_is_refused_with_what_is_needed(capsys, what):
    assert main(["diagram", "--width", "1pt", *what]) == 2
    found = re.search(
        r'--width: "1pt": is too narrow for this picture; it needs (\d+)pt, for type of 7 points',
        capsys.readouterr().err,
    )
    assert found is not None
    assert main(["diagram", "--width", f"{found[1]}pt", *what]) == 0


def test_caption_and_alternative_text_are_files_of_their_own(tmp_path, capsys):
    picture, words, alternative = (tmp_path / name for name in ("a.svg", "a.txt", "a.alt"))
    line = ["diagram", "-o", str(picture), "--no-title", "--no-legend", "--caption", str(words)]
    assert main([*line, "--alt", str(alternative)]) == 0
    assert "VFIO v2 device migration" not in "".join(
        re.findall(r"<text[^>]*>([^<]*)", picture.read_text("utf-8"))
    )
    assert words.read_text("utf-8").startswith(
        "VFIO v2 device migration: STOP_COPY, P2P, PRE_COPY."
    )
    assert "double line: arc that keeps the data session" in words.read_text("utf-8")
    assert "STOP_COPY to PRE_COPY_P2P" in alternative.read_text("utf-8")
    assert main([*line, "--alt", str(words)]) == 2
    assert "it would be written twice" in capsys.readouterr().err


def test_a_plain_text_has_its_own_lines_in_its_caption(tmp_path):
    words = tmp_path / "a.txt"
    line = ["diagram", "-o", str(tmp_path / "a.dot"), "--plain", "--caption", str(words)]
    assert main(line) == 0
    assert "thick line: arc that keeps the data session" in words.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "a.svg", "--plain"],
            "--plain: has no meaning for svg; end the name of the file in",
        ),
        (["--plain", "--migration", "live"], "--plain: draws a machine and not a time line"),
        (["--plain", "--width", COLUMN], "--width: has no meaning for --plain; whatever draws it"),
        (
            ["--format", "mmd", "--no-title"],
            "--no-title: has no meaning for mmd; whatever draws it",
        ),
    ],
)
def test_an_option_without_a_meaning_is_refused(capsys, arguments, message):
    assert main(["diagram", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_several_devices_is_drawn_whatever_each_of_them_has(tmp_path, spec, capsys):
    run, picture = tmp_path / "run.json", tmp_path / "run.svg"
    trace = Trace(
        spec=spec.name,
        capabilities=(("STOP_COPY",), ("STOP_COPY", "P2P")),
        start=("RUNNING", "RUNNING"),
        steps=(Step(kind="arc", from_="RUNNING", to="STOP", state="STOP"),),
    )
    run.write_text(trace.to_json())
    assert main(["diagram", "--trace", str(run), "-o", str(picture), "--width", COLUMN]) == 0
    assert capsys.readouterr().out == f"{picture}: A run of 2 devices\n"
    for arguments, message in (
        (["--flags", "3"], '--flags: "3": has no meaning for a run of several devices'),
        (["--plain"], "--plain: draws a machine and not a time line"),
    ):
        assert main(["diagram", "--trace", str(run), "--format", "dot", *arguments]) == 2
        assert message in capsys.readouterr().err
