"""A missing extra states how to get it from where the package was installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

from vfio_migration.model import MissingExtraError, extras

PYTHON = f"{sys.executable} -m pip install"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Installed:
    """A distribution that came from somewhere."""

    def __init__(self, source: str | None) -> None:
        self._source = source

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._source


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "'vfio-migration[verify]'"),
        ("no JSON", "'vfio-migration[verify]'"),
        ("[]", "'vfio-migration[verify]'"),
        (
            {"url": "file:///a/clone", "dir_info": {"editable": True}},
            "--editable '/a/clone[verify]'",
        ),
        ({"url": "file:///my%20clone", "dir_info": {}}, "'/my clone[verify]'"),
        (
            {"url": "file:///dist/x.whl", "archive_info": {}},
            "'vfio-migration[verify] @ file:///dist/x.whl'",
        ),
        (
            {"url": "https://host/r.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"'vfio-migration[verify] @ git+https://host/r.git@{COMMIT}'",
        ),
    ],
    ids=["index", "broken", "of no kind", "editable", "folder", "wheel", "repository"],
)
def test_the_command_installs_from_where_the_package_came(
    source: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(source) if isinstance(source, dict) else source
    monkeypatch.setattr(metadata, "distribution", lambda _name: Installed(text))
    assert extras.install_command("verify") == f"{PYTHON} {words}"


def test_a_package_that_is_not_installed_is_got_from_an_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert extras.install_command("all") == f"{PYTHON} 'vfio-migration[all]'"


def test_an_import_that_no_extra_brings_fails_as_it_does() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"), extras.from_extra():
        import nowhere  # noqa: F401


def test_a_package_that_is_broken_states_why() -> None:
    with pytest.raises(MissingExtraError) as caught, extras.from_extra():
        raise ImportError("built for another Python", name="pygraphviz._graphviz")
    message = "pygraphviz._graphviz cannot be imported (built for another Python); run: "
    assert str(caught.value).startswith(message)


def test_a_library_that_the_system_lacks_is_named_and_nothing_is_to_be_installed_again() -> None:
    """What Debian's minimal image answers, where the wheel of pygraphviz needs glib and X11."""
    lacks = "libgobject-2.0.so.0: cannot open shared object file: No such file or directory"
    with pytest.raises(MissingExtraError) as caught, extras.from_extra():
        raise ImportError(lacks, name="pygraphviz._graphviz")
    message = str(caught.value)
    assert message.startswith(
        "pygraphviz is installed, but this system lacks the library libgobject-2.0"
    )
    assert "apt-get install libglib2.0-0" in message
    assert "pip" not in message


@pytest.mark.parametrize(
    ("package", "extra", "code"),
    [
        ("z3", "verify", "import vfio_migration.verifier"),
        ("z3", "verify", "from vfio_migration.verifier.solver import encoding"),
        (
            "networkx",
            "graph",
            "from vfio_migration.model import *; digraph(load().machine())",
        ),
        (
            "zstandard",
            "compress",
            "from vfio_migration.runtime.files.compression import codec; codec('zstd')",
        ),
    ],
)
def test_python_states_how_to_get_what_is_missing(package: str, extra: str, code: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; {code}"
    words = [sys.executable, "-c", program]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    message = f"{package} is not installed; run: {extras.install_command(extra)}"
    assert ended.stderr.splitlines()[-1] == (
        f"vfio_migration.model.extras.MissingExtraError: {message}"
    )


def test_each_extra_is_one_of_the_package() -> None:
    known = metadata.metadata("vfio-migration").get_all("Provides-Extra")
    assert known is not None
    assert set(extras.EXTRAS.values()) <= set(known)
