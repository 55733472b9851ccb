"""`vfio-migration diagram --migration`: the time line of a group."""

from __future__ import annotations

import json

import pytest

from vfio_migration.cli.main import main


def drawn(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["diagram", "--format", "json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def offers(data: dict) -> list[str]:
    return [",".join(lane["capabilities"]) for lane in data["lanes"] if lane["side"] == "source"]


def test_a_migration_is_drawn_with_two_devices(tmp_path, capsys):
    picture = tmp_path / "live.svg"
    assert main(["diagram", "-o", str(picture), "--migration", "live"]) == 0
    assert capsys.readouterr().out == f"{picture}: Migration live: 2 devices\n"
    assert b"point of no return" in picture.read_bytes()


def test_devices_are_stated_as_flags_are(capsys):
    whole = "STOP_COPY,P2P,PRE_COPY"
    assert offers(drawn(capsys, "--migration", "live")) == [whole, whole]
    group = drawn(capsys, "--migration", "offline", "--devices", "STOP_COPY,P2P:1:7")
    assert offers(group) == ["STOP_COPY,P2P", "STOP_COPY", whole]
    assert offers(drawn(capsys, "--migration", "live", "--flags", "3")) == ["STOP_COPY,P2P"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--migration", "life"],
            'migration: "life": there is no such migration in this table; did you mean "live"?',
        ),
        (
            ["--migration", "live", "--devices", "1:5"],
            '--devices: "1:5": plan prepare is for groups with at most 1 device without P2P, and 2 '
            "of the destination lack it: destination-1.sock, destination-2.sock",
        ),
        (
            ["--migration", "live", "--flags", "STOP_COPY"],
            '--flags: "STOP_COPY": plan prepare is for groups with at most 1 device without P2P, '
            "and 2 of the destination lack it: destination-1.sock, destination-2.sock",
        ),
        (
            ["--devices", "7:7"],
            '--devices: "7:7": has no meaning without a migration; add --migration live',
        ),
        (
            ["--migration", "live", "--flags", "7", "--devices", "7"],
            '--flags: "7": is given by --devices already; give each device its capabilities there',
        ),
        (["--migration", "live", "--devices", "7:"], 'flags: "": lacks STOP_COPY'),
    ],
)
def test_what_is_wrong_is_reported(capsys, arguments, message):
    assert main(["diagram", *arguments]) == 2
    assert message in capsys.readouterr().err
