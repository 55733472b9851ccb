"""The table: what a device that migrates may do, written down once.

`load` reads it, `Spec` is its typed form, `Spec.machine` restricts it to a capability set and
answers what a request leads to. `Trace` is what the prover, the engine and the diagrams give each
other. `digraph` hands a machine to networkx, which is imported only then.
"""

from vfio_migration.model.errors import Mistake, SpecError, UnknownNameError
from vfio_migration.model.extras import MissingExtraError
from vfio_migration.model.graph import digraph
from vfio_migration.model.load import from_data, load, loads
from vfio_migration.model.machine import Machine, Refused, Route
from vfio_migration.model.spec import (
    Activity,
    Arc,
    Capability,
    CapabilitySet,
    Event,
    Operation,
    Profile,
    Refusal,
    RequestRule,
    RoutingRule,
    Session,
    SessionEffect,
    Spec,
    State,
    StreamEnd,
)
from vfio_migration.model.trace import Step, Trace

__all__ = [
    "Activity",
    "Arc",
    "Capability",
    "CapabilitySet",
    "Event",
    "Machine",
    "MissingExtraError",
    "Mistake",
    "Operation",
    "Profile",
    "Refusal",
    "Refused",
    "RequestRule",
    "Route",
    "RoutingRule",
    "Session",
    "SessionEffect",
    "Spec",
    "SpecError",
    "State",
    "Step",
    "StreamEnd",
    "Trace",
    "UnknownNameError",
    "digraph",
    "from_data",
    "load",
    "loads",
]
