"""Coverage-guided fuzzing of `fuzz_targets` with atheris: `make fuzz`.

    python tests/hostile/fuzz.py TARGET RUNS FOLDER

FOLDER keeps the inputs that led somewhere new, from run to run; it begins with those of
tests/data/fuzz/TARGET, which `keep_corpus.py` picks among them. An input that fails is written into
build/fuzz; put it into tests/data/fuzz/TARGET, where `test_fuzz.py` does it again in `make test`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vfio_migration"]):
    import fuzz_targets


def plant(folder: Path) -> None:
    """Write the inputs to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(fuzz_targets.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    for kept in (Path(__file__).parents[1] / "data" / "fuzz" / folder.name).glob("*"):
        (folder / kept.name).write_bytes(kept.read_bytes())


if __name__ == "__main__":
    _, name, runs, folder = sys.argv
    plant(Path(folder))
    options = [f"-runs={runs}", "-max_len=320", "-print_final_stats=1"]
    failed = f"-artifact_prefix={Path(folder).parent}/failed-{name}-"
    atheris.Setup([sys.argv[0], *options, failed, folder], fuzz_targets.TARGETS[name])
    atheris.Fuzz()
