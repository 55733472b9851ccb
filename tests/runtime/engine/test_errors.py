"""The errors: whose fault each is, what a peer is answered, what they state and keep."""

from __future__ import annotations

import errno
import inspect
import pickle

import pytest
from engine_support import bring, rig

import vfio_migration.runtime as runtime
from vfio_migration.model import Spec, SpecError, UnknownNameError
from vfio_migration.runtime import (
    ANSWERS,
    ArcError,
    DeviceFailedError,
    DisconnectFailedError,
    EngineError,
    Fault,
    ReenteredError,
    RequestFailedError,
    RequestRefusedError,
    ResetFailedError,
    answer_to,
)
from vfio_migration.runtime.engine.errors import default_errno, errno_name, errno_number

# What the table of answers says, written out a second time: a change must be meant.
EXPECTED = [
    (RequestRefusedError, Fault.PEER, "EINVAL"),
    (DeviceFailedError, Fault.DEVICE, "EIO"),
    (ArcError, Fault.DEVICE, "EIO"),
    (ReenteredError, Fault.CALLER, "EDEADLK"),
    (SpecError, Fault.CALLER, "EINVAL"),
    (BaseException, Fault.BUG, "EREMOTEIO"),
]


def test_the_table_of_answers() -> None:
    assert [(row.error, row.fault, row.errno) for row in ANSWERS] == EXPECTED
    assert {row.fault for row in ANSWERS} == set(Fault)
    assert all(row.summary.endswith(".") for row in ANSWERS)
    assert all(row.number == getattr(errno, row.errno) for row in ANSWERS)
    assert default_errno() == "EIO"


def test_no_row_of_the_table_is_hidden_by_one_before_it() -> None:
    for index, row in enumerate(ANSWERS):
        assert not any(issubclass(row.error, before.error) for before in ANSWERS[:index])


def test_every_error_of_the_package_has_a_row_that_is_not_the_last() -> None:
    errors = [
        value
        for value in vars(runtime).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value is not EngineError
    ]
    assert len(errors) == 7
    for error in errors:
        assert any(issubclass(error, row.error) for row in ANSWERS[:-1]), error


def raised(spec: Spec, kind: str) -> Exception:
    made = rig(spec, None)
    try:
        match kind:
            case "refused":
                bring(made, "STOP_COPY")
                made.engine.set_state("PRE_COPY")
            case "value":
                made.engine.set_state(8)
            case "failed":
                made.device.script = [None, ArcError("stuck", errno="EBUSY")]
                made.engine.set_state("STOP_COPY")
            case "failed for good":
                made.device.script = [KeyError("slip")]
                made.engine.set_state("STOP_COPY")
            case "reset":
                made.device.script = [ArcError(errno=errno.ENODEV)]
                made.engine.reset()
            case "disconnect":
                made.device.script = [OSError(errno.ENOSPC, "full")]
                made.engine.disconnect()
            case "reentered":
                made.engine.add_observer(lambda record: None)
                made.device.take = lambda *_: made.engine.reset()  # type: ignore[method-assign]
                made.engine.set_state("STOP")
            case "name":
                made.engine.set_state("STOPP")
    except Exception as error:  # noqa: BLE001 - it is what is returned
        return error.__cause__ if kind == "reentered" else error  # type: ignore[return-value]
    raise AssertionError(kind)


GOLDEN = {
    "refused": (
        RequestRefusedError,
        Fault.PEER,
        "EINVAL",
        "STOP_COPY -> PRE_COPY: refused (EINVAL): a stopped saving session cannot go back to "
        "pre-copying; leave it for STOP first",
    ),
    "value": (
        RequestRefusedError,
        Fault.PEER,
        "EINVAL",
        "RUNNING -> 8: refused (EINVAL): no state has this value",
    ),
    "failed": (
        RequestFailedError,
        Fault.DEVICE,
        "EBUSY",
        "RUNNING -> STOP_COPY: arc RUNNING_P2P -> STOP failed (EBUSY); the device is in "
        "RUNNING_P2P",
    ),
    "failed for good": (
        RequestFailedError,
        Fault.DEVICE,
        "EIO",
        "RUNNING -> STOP_COPY: arc RUNNING -> RUNNING_P2P failed (EIO); the device is in ERROR",
    ),
    "reset": (
        ResetFailedError,
        Fault.DEVICE,
        "ENODEV",
        "reset failed (ENODEV); the device is in ERROR",
    ),
    "disconnect": (
        DisconnectFailedError,
        Fault.DEVICE,
        "EIO",
        "disconnect failed (EIO); the device is in ERROR",
    ),
    "reentered": (
        ReenteredError,
        Fault.CALLER,
        "EDEADLK",
        "reset() was called by a callback of the engine it would act on; in the middle of a "
        "request only reading is allowed",
    ),
    "name": (
        UnknownNameError,
        Fault.CALLER,
        "EINVAL",
        'state: "STOPP": there is no such state in this table; did you mean "STOP"?',
    ),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_what_they_state_and_how_they_are_answered(spec: Spec, kind: str) -> None:
    error = raised(spec, kind)
    answer = answer_to(error)
    assert (type(error), answer.fault, answer.errno, str(error)) == GOLDEN[kind]
    assert answer.number == getattr(errno, answer.errno)
    if isinstance(error, EngineError):
        assert (error.errno, error.number) == (answer.errno, answer.number)


@pytest.mark.parametrize("kind", GOLDEN)
def test_they_can_be_pickled(spec: Spec, kind: str) -> None:
    error = raised(spec, kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_every_refusal_carries_its_row(spec: Spec) -> None:
    error = raised(spec, "refused")
    assert isinstance(error, RequestRefusedError)
    [row] = [r for r in spec.refusals if (r.from_, r.to) == ("STOP_COPY", "PRE_COPY")]
    assert (error.source, error.reason, error.errno) == (row.source, row.reason, row.errno)
    error = raised(spec, "value")
    assert isinstance(error, RequestRefusedError)
    [rule] = [r for r in spec.requests if r.when == "value_unknown"]
    assert (error.source, error.reason, error.when) == (rule.source, rule.reason, rule.when)


def test_a_route_that_is_accepted_is_no_refusal(spec: Spec) -> None:
    with pytest.raises(ValueError, match="is not refused"):
        RequestRefusedError(spec.machine().route("RUNNING", "STOP"))


def test_anything_else_is_our_bug() -> None:
    for error in (ZeroDivisionError(), OSError(errno.ENOENT, "gone"), KeyboardInterrupt()):
        assert answer_to(error) is ANSWERS[-1]


def test_a_device_names_its_errno_by_name_or_number() -> None:
    assert ArcError().errno is None
    assert ArcError(errno="ENOSPC").errno == ArcError(errno=errno.ENOSPC).errno == "ENOSPC"
    assert answer_to(ArcError("full", errno="ENOSPC")).number == errno.ENOSPC
    assert answer_to(ArcError("full")).errno == "EIO"
    again = pickle.loads(pickle.dumps(ArcError("full", errno="ENOSPC", for_good=True)))
    assert (str(again), again.errno, again.for_good) == ("full", "ENOSPC", True)


@pytest.mark.parametrize("code", ["EBOGUS", "", "eio", "errorcode", 0, -5, 1 << 20])
def test_an_errno_that_is_none_is_refused(code: str | int) -> None:
    with pytest.raises(ValueError, match="is not an errno of this system"):
        ArcError(errno=code)


def test_errno_names_and_numbers_are_each_others_inverse() -> None:
    for number, name in errno.errorcode.items():
        assert errno_name(number) == name
        assert errno_number(name) == number


@pytest.mark.parametrize("name", ["EDEADLK", "EWOULDBLOCK", "ENOTSUP", "EOPNOTSUPP"])
def test_an_errno_that_shares_its_number_is_one(name: str) -> None:
    assert errno_name(name) == name
    assert errno_number(name) == getattr(errno, name)
