"""What is looked at before anything is begun: whether these devices can be migrated, and together.

What is found unsafe or impossible here is refused, and nothing has been touched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from vfio_migration.model import Spec
from vfio_migration.model.plan import Migration, Plans, exceeds, state_before
from vfio_migration.runtime.client import ClientError, PeerDisconnectedError, RefusedError
from vfio_migration.runtime.coordinator.endpoint import SIDES, Endpoint, Shape, Side
from vfio_migration.runtime.coordinator.errors import CannotMigrateError
from vfio_migration.runtime.coordinator.group import names


def check(
    endpoints: dict[Side, Sequence[Endpoint]],
    migration: Migration,
    spec: Spec,
    plans: Plans,
    asserted: Collection[str] = (),
) -> list[tuple[Endpoint, Endpoint]]:
    """Look at all devices.

    Args:
        endpoints: The devices.
        migration: The row that is to be followed.
        spec: The table.
        plans: The plans.
        asserted: The names of the assertions that the operator answers for.

    Returns:
        The pairs whose destination does not report what it is where it is; see `compare`.

    Raises:
        CannotMigrateError: They cannot be migrated, or not together; states which and why.
        PeerDisconnectedError: A server that was there is not any more.
    """
    for side in SIDES:
        for device in endpoints[side]:
            try:
                device.look()
                _ = device.machine
                check_transfer(device)
            except PeerDisconnectedError:
                raise
            except ClientError as error:
                raise CannotMigrateError(str(error)) from error
    check_limits(endpoints, migration, plans, asserted)
    pairs = list(zip(endpoints["source"], endpoints["destination"], strict=True))
    unseen = []
    for source, destination in pairs:
        check_state(source, migration, spec, plans)
        check_state(destination, migration, spec, plans)
        try:
            compare(source.label, source.shape(), destination)
        except NotSeenError:
            unseen.append((source, destination))
        except PeerDisconnectedError:
            raise
        except ClientError as error:
            raise CannotMigrateError(str(error)) from error
    return unseen


def check_limits(
    endpoints: Mapping[Side, Sequence[Endpoint]],
    migration: Migration,
    plans: Plans,
    asserted: Collection[str] = (),
) -> None:
    """Hold the capabilities of both groups against the limits of the plans they would follow.

    Raises:
        CannotMigrateError: No order of steps would be safe for them.
    """
    for step in migration.steps:
        if step.side is None or step.side not in endpoints or step.plan is None:
            continue
        group = endpoints[step.side]
        names_of = [frozenset(one.machine.names) for one in group]
        limit = exceeds(plans.plan(step.plan), names_of, asserted)
        if limit is not None:
            lacking = [one for one in group if limit.lacks not in one.machine.names]
            hints = [
                f"migrate them without the others, if they do no DMA to each other, or with at "
                f"most {limit.count} of them at a time"
            ]
            if limit.unless is not None:
                row = plans.assertion(limit.unless)
                hints.append(f"or give {row.option}, if you can answer for it: {row.summary}")
            raise CannotMigrateError(
                f"{names(lacking)}: lack {limit.lacks}, and of a group only {limit.count} may: "
                f"with {len(lacking)} no order of steps keeps each from starting DMA to another "
                "that is stopped already (obligation G3)",
                hints,
                refused=True,
            )


def check_transfer(device: Endpoint) -> None:
    """See that migration data can be transferred at all.

    Raises `CannotMigrateError`, and as `client`.

    A server may report that it takes none, and then no stream would ever come to an end.
    """
    if (takes := device.client.transfer) < 1:
        raise CannotMigrateError(
            f"{device.label}: no migration data can be transferred: its max_data_xfer_size is "
            f"{takes}",
            ["have its server offer 1 byte or more in VERSION"],
            refused=True,
        )


def is_put_away(device: Endpoint, spec: Spec) -> bool:
    """Return whether a device is as a migration leaves the side that is not to run.

    Such a device can be migrated to. One that failed, or whose session is still open, cannot.
    """
    failed = device.state == spec.event("arc_failed_for_good").to
    return not (failed or device.may_change()) and device.transfers() == "none"


def check_state(device: Endpoint, migration: Migration, spec: Spec, plans: Plans) -> None:
    """See that a device is where a migration begins.

    A destination is blank. It may run, or be stopped without a session, as a migration leaves the
    side that is not to run.

    Raises:
        CannotMigrateError: It does not.
    """
    assert device.state is not None
    begins = next(
        (
            state_before(plans.plan(step.plan), device.machine)
            for step in migration.steps
            if step.side == device.side and step.plan is not None
        ),
        None,
    )
    if device.state == begins or (device.side == "destination" and is_put_away(device, spec)):
        return
    raise CannotMigrateError(
        f"{device.label}: is in {device.state}, and a {device.side} begins in {begins}",
        [
            "if a migration left it there: vfio-migration recover SRC DST",
            "if a save left it there: vfio-migration recover SRC --keep source",
            "if it holds nothing that is needed: start its server anew",
        ],
        refused=True,
    )


class NotSeenError(Exception):
    """A device that is stopped does not state what it is; where it is loaded it may."""


def compare(label: str, wanted: Shape, device: Endpoint) -> None:
    """See that a destination is of the kind that is wanted.

    Some servers refuse DEVICE_GET_INFO of a device that is stopped, and answer it as soon as the
    device is about to be loaded.

    Args:
        label: Whose kind is wanted.
        wanted: The kind.
        device: The destination.

    Raises:
        NotSeenError: The device is stopped and refuses to state what it is.
        CannotMigrateError: It is of another kind.
        ClientError: It does not answer, or refuses where it should answer.
    """
    try:
        differences = wanted.differences(device.shape())
    except RefusedError as refusal:
        if device.may_change() or device.transfers() != "none":
            raise
        raise NotSeenError from refusal
    if differences:
        raise CannotMigrateError(
            f"{label} and {device.label} are not the same kind of device: "
            + "; ".join(differences),
            ["a guest would not find its device again; take another destination"],
            refused=True,
        )
