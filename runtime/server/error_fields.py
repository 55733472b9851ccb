"""What a device raised, as fields of the log: its class, its message and where it comes from."""

from __future__ import annotations

from pathlib import PurePath

from vfio_migration.runtime.engine.errors import words


def error_fields(error: BaseException, device: object = None) -> dict[str, str]:
    """Return the fields of the log for what a device raised.

    Args:
        error: The exception.
        device: The device: the line that is named is the innermost one in a method of it.
    """
    fields = {"error": type(error).__name__, "why": words(error)}
    where = _where(error, device)
    if where is not None:
        fields["at"] = where
    cause = error.__cause__
    if cause is not None:
        fields["cause"] = f"{type(cause).__name__}: {words(cause)}"
    return fields


def _where(error: BaseException, device: object) -> str | None:
    found = None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if device is None or found is None or frame.f_locals.get("self") is device:
            code = frame.f_code
            found = f"{code.co_qualname} ({PurePath(code.co_filename).name} line {trace.tb_lineno})"
        trace = trace.tb_next
    return found
