"""What importing the model brings with it, and what loading a table costs."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_importing_the_model_brings_neither_pydantic_nor_networkx() -> None:
    code = "import sys, vfio_migration.model; print(sorted({name.split('.')[0] for name in sys.modules}))"  # noqa: E501
    brought = run(code)
    for heavy in ("pydantic", "pydantic_core", "networkx", "difflib", "importlib_resources", "z3"):
        assert f"'{heavy}'" not in brought


def test_loading_brings_pydantic_but_no_networkx() -> None:
    code = "import sys, vfio_migration.model as m; m.load().machine(); print('networkx' in sys.modules, 'pydantic' in sys.modules)"  # noqa: E501
    assert run(code) == "False True"


def test_every_name_of_the_room_is_there() -> None:
    import vfio_migration.model as model

    assert sorted(model.__all__, key=str.casefold) == sorted(set(model.__all__), key=str.casefold)
    for name in model.__all__:
        assert getattr(model, name).__module__.startswith("vfio_migration.model") or name in (
            "CapabilitySet",
        )
