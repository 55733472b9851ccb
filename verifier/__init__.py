"""The prover: the table becomes formulas, obligations become queries, answers become verdicts.

`verify` decides obligations about a `Spec` and returns a `Report`. What a claim of a user's own is
made of (docs/own-claims.md) is exported here too. Importing this package needs z3,
which the extra "verify" brings; `MissingExtraError` states how to get it.
"""

from vfio_migration.model.extras import from_extra

with from_extra():
    from vfio_migration.verifier.obligations.catalogue import OBLIGATIONS
    from vfio_migration.verifier.obligations.own_claims import load_claims, never
    from vfio_migration.verifier.prove import Report, Solving, Variant, decide, select, verify
    from vfio_migration.verifier.solver.encoding import Encoding, Formula
    from vfio_migration.verifier.solver.obligation import (
        Example,
        Obligation,
        Outcome,
        Query,
        Verdict,
    )
    from vfio_migration.verifier.solver.system import Event, Lemma, Situation, System, Term
    from vfio_migration.verifier.systems.device import DeviceSystem

__all__ = [
    "OBLIGATIONS",
    "DeviceSystem",
    "Encoding",
    "Event",
    "Example",
    "Formula",
    "Lemma",
    "Obligation",
    "Outcome",
    "Query",
    "Report",
    "Situation",
    "Solving",
    "System",
    "Term",
    "Variant",
    "Verdict",
    "decide",
    "load_claims",
    "never",
    "select",
    "verify",
]
