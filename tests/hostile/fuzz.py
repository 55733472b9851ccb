"""Coverage-guided fuzzing of `fuzz_targets` with atheris: `make fuzz`.

    python tests/hostile/fuzz.py TARGET [RUNS] [options of libFuzzer] [folders of inputs]

An input that fails is written into build/fuzz; put it into tests/data/fuzz/TARGET, where
`test_fuzz.py` does it again in every `make test`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["vfio_migration"]):
    import fuzz_targets

if __name__ == "__main__":
    name, runs, *options = [*sys.argv[1:], "1000000"][: max(2, len(sys.argv) - 1)]
    atheris.Setup(
        [sys.argv[0], f"-runs={runs}", "-max_len=4096", *options], fuzz_targets.TARGETS[name]
    )
    atheris.Fuzz()
