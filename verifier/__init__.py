"""The prover: the table becomes formulas, promises become queries, answers become verdicts.

`verify` decides obligations about a `Spec` and returns a `Report`. Importing this package needs z3
(`pip install 'vfio-migration[verify]'`).
"""

from vfio_migration.verifier.catalogue import obligations
from vfio_migration.verifier.encoding import Encoding
from vfio_migration.verifier.obligation import Example, Obligation, Outcome, Query, Verdict
from vfio_migration.verifier.prover import Report, Solving, Variant, decide, select, verify

__all__ = [
    "Encoding",
    "Example",
    "Obligation",
    "Outcome",
    "Query",
    "Report",
    "Solving",
    "Variant",
    "Verdict",
    "decide",
    "obligations",
    "select",
    "verify",
]
