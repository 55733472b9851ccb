"""What goes wrong with the optional packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingDependencyError(ImportError):
    """A package that pictures need is not installed. The message says how to install it."""


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Turn a failing import of `package` into one line that says what to do."""
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"pictures need {package} ({error}): pip install 'vfio-migration[diagrams]'",
            name=package,
        ) from None
