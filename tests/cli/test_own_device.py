"""`serve --device package.module:Class`: a class of one's own, from the current folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import until

from vfio_migration.runtime.client import Client

DEVICE = '''
from vfio_migration.runtime.kit.pci_device import Bar, Identity, PciDevice

class Nic(PciDevice):
    """A network card.

    It has queues."""
    name = "nic"
    identity = Identity(vendor=0x1234, device=2)
    bars = {0: Bar(4096)}

    def __init__(self, *, queues: int, label: str = "", fast=False, **options):
        if queues > 8:
            raise RuntimeError("too many queues")
        self.queues, self.label, self.fast = queues, label, fast
        super().__init__(**options)

    def reset_device(self): ...
    def save(self): return b""
    def load(self, state, version): ...
    def bar_read(self, bar, offset, size): return self.queues

class Plain(Nic):
    def __init__(self, queues=2):
        super().__init__(queues=queues)

class Positional(Nic):
    def __init__(self, queues, /):
        super().__init__(queues=queues)

class NoDevice: ...

def make(): return NoDevice()

NUMBER = 5
'''
WHERE = "it is looked for in the current folder and where Python has its packages"
DERIVE = "derive it from vfio_migration.runtime.kit.pci_device.PciDevice"
METHODS = (
    "announced_info, close, deadline, disconnect, precopy_info, reset, stop_copy_length, "
    "stream_read, stream_write, take, tick"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with modules of devices, which is the current one; nothing of them is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    Path("own_nic.py").write_text(DEVICE)
    Path("own_lacks.py").write_text("import nothing_such")
    Path("own_fails.py").write_text("\nx = 1/0")
    Path("own_ends.py").write_text("raise SystemExit(3)")
    Path("own_syntax.py").write_text("def (")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("device", "complains"),
    [
        ("own_nope:X", f'"own_nope:X": there is no module own_nope; {WHERE}'),
        ("own_nope.nic:X", f'"own_nope.nic:X": there is no module own_nope; {WHERE}'),
        (
            "own_lacks:X",
            '"own_lacks:X": cannot be imported: ModuleNotFoundError: No module named '
            "'nothing_such' ({here}/own_lacks.py line 1)",
        ),
        (
            "own_fails:X",
            '"own_fails:X": cannot be imported: ZeroDivisionError: division by zero '
            "({here}/own_fails.py line 2)",
        ),
        (
            "own_ends:X",
            '"own_ends:X": cannot be imported: SystemExit: 3 ({here}/own_ends.py line 1)',
        ),
        (
            "own_syntax:X",
            '"own_syntax:X": cannot be imported: SyntaxError: invalid syntax '
            "(own_syntax.py, line 1)",
        ),
        ("own_nic:Nci", '"own_nic:Nci": own_nic has no Nci; did you mean Nic?'),
        ("own_nic:Other", '"own_nic:Other": own_nic has no Other; it has Nic, Plain, Positional'),
        ("own_nic:NUMBER", '"own_nic:NUMBER": is not a device but int; name a class of devices'),
        ("own_nic:NoDevice", f'"own_nic:NoDevice": is not a device: it has no {METHODS}; {DERIVE}'),
        ("own_nic:", '"own_nic:": is not a package.module:Class; mypackage.nic:Nic is'),
        (":Nic", '":Nic": is not a package.module:Class; mypackage.nic:Nic is'),
        (
            "own_nic:Nic",
            '"own_nic:Nic": needs queues; give it: --device own_nic:Nic,queues=VALUE',
        ),
        (
            "own_nic:Nic,queues=9",
            '"own_nic:Nic,queues=9": cannot be made: RuntimeError: too many queues '
            "({here}/own_nic.py line 14)",
        ),
        ("own_nic:Nic,queus=1", '"queus": is not an option of own_nic:Nic; did you mean queues?'),
        (
            "own_nic:Positional",
            '"own_nic:Positional": takes queues by position only; let it be given by name',
        ),
        (
            "own_nic:Nic,spec=1",
            '"spec": is not an option of own_nic:Nic; there are queues, label, fast, max_maps',
        ),
    ],
)
def test_what_is_wrong_with_a_class_is_one_line_and_no_traceback(
    cli, here, device, complains
) -> None:
    ran = cli("serve", here / "nowhere" / "x.sock", "--device", device)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"vfio-migration: error: --device: {complains.replace('{here}', str(here))}\n"


@pytest.mark.parametrize(
    ("word", "complains"),
    [
        ("queues=x", '--device queues: "x": is not a number; 64M and 0x1000 are'),
        ("queues=1,fast=2", '--device fast: "2": is neither yes nor no'),
    ],
)
def test_an_option_is_read_as_its_parameter_is_annotated(cli, here, word, complains) -> None:
    ran = cli("serve", "x", "--device", f"own_nic:Nic,{word}")
    assert ran.err == f"vfio-migration: error: {complains}\n"


def test_what_a_function_makes_is_held_to_be_a_device(cli, here) -> None:
    ran = cli("serve", "x", "--device", "own_nic:make")
    assert ran.status == 2
    assert (
        '"own_nic:make": is not a device: it has no announced_info, capabilities, close,' in ran.err
    )


def test_flags_are_refused_of_a_class_that_does_not_take_them(cli, here) -> None:
    ran = cli("serve", "x", "--device", "own_nic:Plain", "--flags", "STOP_COPY")
    assert ran.err == (
        'vfio-migration: error: --flags: "STOP_COPY": own_nic:Plain takes no capabilities; '
        "leave --flags out\n"
    )


def test_a_class_of_the_current_folder_is_served_with_its_options(here) -> None:
    path, log = here / "nic.sock", here / "log"
    command = [
        sys.executable,
        "-c",
        "from vfio_migration.cli.main import main; raise SystemExit(main())",
    ]
    words = ["--device", "own_nic:Nic,queues=3,label=a", "--flags", "STOP_COPY,P2P"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    with log.open("w") as given:
        process = subprocess.Popen(
            [*command, "serve", path, *words, "--log-format", "json"],
            cwd=here,
            stderr=given,
            env=environment,
        )
    try:
        until(lambda: '"serving"' in log.read_text())
        with Client(path) as client:
            assert client.region_read(0, 0, 4) == b"\x03\0\0\0"
            assert client.capabilities() == 3
    finally:
        process.terminate()
        process.wait(60)
    serving = next(
        line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "serving"
    )
    assert serving["device"] == "own_nic:Nic,queues=3,label=a"


def test_a_description_takes_the_first_sentence_of_a_class(cli, here) -> None:
    ran = cli("serve", "--describe", "--device", "own_nic:Nic", "--binary", "/usr/libexec/nic")
    assert json.loads(ran.out) == {
        "description": "A network card.",
        "type": "nic",
        "binary": "/usr/libexec/nic",
        "tags": ["vfio-migration"],
    }


def test_a_class_without_a_program_of_its_own_is_not_described(cli, here) -> None:
    ran = cli("serve", "--describe", "--device", "own_nic:Nic")
    assert (ran.status, ran.out) == (2, "")
    assert "name it by --binary" in ran.err
