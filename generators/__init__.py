"""The engine as source in C, Rust and Python, with the proof that it fits; and tests for Linux.

`compile_table` turns a table into what every language needs; `c_files`, `rust_file` and
`python_file` write it down; `answers` has the engine of this package answer every request there is,
and a program beside each engine gives the same answers, byte for byte. `kunit_file` and
`kselftest_file` write what asks the function and the drivers of Linux, `next_steps_comment` and
`next_steps_array` the next steps alone, as Linux has them.
"""

from vfio_migration.generators.answers import answers
from vfio_migration.generators.c_engine import c_files
from vfio_migration.generators.c_evidence import c_evidence
from vfio_migration.generators.c_like import LIKE, like_file
from vfio_migration.generators.c_next_steps import next_steps_array, next_steps_comment
from vfio_migration.generators.compiled import Compiled, compile_table
from vfio_migration.generators.kselftest import kselftest_file
from vfio_migration.generators.kunit import kunit_file
from vfio_migration.generators.python_engine import python_evidence, python_file
from vfio_migration.generators.rust_engine import rust_evidence, rust_file

__all__ = [
    "LIKE",
    "Compiled",
    "answers",
    "c_evidence",
    "c_files",
    "compile_table",
    "kselftest_file",
    "kunit_file",
    "like_file",
    "next_steps_array",
    "next_steps_comment",
    "python_evidence",
    "python_file",
    "rust_evidence",
    "rust_file",
]
