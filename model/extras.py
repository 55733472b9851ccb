"""Packages that only an extra of this package brings: what is missing, and how to get it.

How depends on where this package was installed from: an index, a clone, a file, a repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

EXTRAS: Final = {
    "z3": "verify",
    "cvc5": "cvc5",
    "graphviz": "diagrams",
    "pygraphviz": "diagrams",
    "networkx": "graph",
    "zstandard": "compress",
    "tree_sitter": "import",
    "tree_sitter_c": "import",
    "docutils": "import",
    "sphinx": "sphinx",
}
"""The extra that brings a package, by the name under which the package is imported."""
_NAME: Final = "vfio-migration"
_LIBRARY: Final = re.compile(r"^lib[^\s:]*\.so[^\s:]*(?=: cannot open shared object file)")
"""What the dynamic loader names if a shared library is not there."""


class MissingExtraError(ImportError):
    """A package that an extra brings is not installed; the message states how to install it.

    Attributes:
        name: The name under which the package is imported.
    """


@contextmanager
def from_extra() -> Iterator[None]:
    """Turn an import within that fails for want of an extra into `MissingExtraError`."""
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        problem = explanation(error)
        if problem is None:
            raise
        raise MissingExtraError(problem, name=error.name) from None


def explanation(error: ImportError) -> str | None:
    """Return what to do about an import that failed, or None if no extra brings what it lacks."""
    if isinstance(error, MissingExtraError):
        return str(error)
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    if extra is None:
        return None
    package = (error.name or "").partition(".")[0]
    if lacks := _LIBRARY.search(str(error)):
        return (
            f"{package} is installed, but this system lacks the library {lacks[0]} that it needs; "
            "install it as the system does it (Debian's and Ubuntu's minimal images: apt-get "
            "install libglib2.0-0 libxrender1 libxext6 fonts-dejavu-core)"
        )
    absent = isinstance(error, ModuleNotFoundError)
    problem = "is not installed" if absent else f"cannot be imported ({error})"
    return f"{error.name} {problem}; run: {install_command(extra)}"


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, as it was installed itself.

    Args:
        extra: The extra.
    """
    import shlex
    import sys

    words = [sys.executable or "python3", "-m", "pip", "install", *_what(extra, _source())]
    return shlex.join(words)


def _what(extra: str, source: dict[str, dict[str, object] | str]) -> list[str]:
    """Return what pip is to install.

    Args:
        extra: The extra.
        source: Where the package came from, as pip has written it down (PEP 610).
    """
    url, folder, version = (source.get(key) for key in ("url", "dir_info", "vcs_info"))
    requirement = f"{_NAME}[{extra}]"
    if not isinstance(url, str):
        return [requirement]
    if isinstance(folder, dict):
        from urllib.parse import unquote, urlsplit

        place = f"{unquote(urlsplit(url).path)}[{extra}]"
        return ["--editable", place] if folder.get("editable") else [place]
    if isinstance(version, dict):
        url = f"{version.get('vcs')}+{url}@{version.get('commit_id')}"
    return [f"{requirement} @ {url}"]


def _source() -> dict[str, dict[str, object] | str]:
    """Return where this package was installed from; empty if it was an index, or not at all."""
    import json
    from importlib import metadata

    try:
        text = metadata.distribution(_NAME).read_text("direct_url.json")
        found = json.loads(text or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
