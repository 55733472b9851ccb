"""VERSION: the message, and what is agreed on with it.

The version data is JSON that a stranger wrote. Its length, its nesting and its numbers are bounded
before it is read, a name given twice is refused, and what is not known is passed over.

Source: docs/interop/vfio-user.rst, VFIO_USER_VERSION.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from vfio_migration.model import json_text
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import LIMITS, WIRE, Data
from vfio_migration.runtime.protocol.messages.shapes import Message, wrong_size

_LAYOUT: Final = struct.Struct("=HH")
_MAX_BYTES: Final = LIMITS["max_version_data"].value
# An object or list in every 16 bytes: more than any peer needs, and few enough for any stack.
_MAX_BRACKETS: Final = _MAX_BYTES // 16
_LARGEST: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class TwinSocket:
    """`twin_socket`: whether, and in a reply which descriptor is the socket."""

    supported: bool = False
    fd_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the sender can do; None where it sent nothing."""

    max_msg_fds: int | None = None
    max_data_xfer_size: int | None = None
    max_dma_maps: int | None = None
    pgsizes: int | None = None
    twin_socket: TwinSocket | None = None
    write_multiple: bool | None = None
    precopy_info: bool | None = None

    @classmethod
    def parse(cls, data: Data, *, padded: bool = False) -> Self | None:
        """Read version data; None if there is none. With or without a terminating NUL.

        Args:
            data: The version data.
            padded: What follows the NUL is padding, and is not looked at.

        Raises:
            MalformedError: It is too long or no JSON, or a capability that is known has a value
            that
                it cannot have.
        """
        if len(data) > _MAX_BYTES:
            raise MalformedError(
                "over_bound", f"version data of {len(data)} bytes, over {_MAX_BYTES}"
            )
        text, _, rest = bytes(data).partition(b"\0")
        if not padded and rest.strip(b"\0"):
            raise _bad("bytes after its NUL")
        if not text:
            return None
        if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
            raise _bad("too many brackets")
        try:
            found = json_text.parse(text.decode("utf-8"), finite=False)
        except json_text.JsonError as error:
            raise _bad(error.problem) from error
        except UnicodeDecodeError as error:
            raise _bad("it is not UTF-8") from error
        capabilities = _typed("version data", found, dict).get("capabilities", {})
        return cls._from(_typed("capabilities", capabilities, dict))

    @classmethod
    def _from(cls, found: dict[str, Any]) -> Self:
        values: dict[str, Any] = {}
        for name in ("max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"):
            if name in found:
                values[name] = _number(name, found[name])
        for name in ("write_multiple", "precopy_info"):
            if name in found:
                values[name] = _typed(name, found[name], bool)
        if "twin_socket" in found:
            twin = _typed("twin_socket", found["twin_socket"], dict)
            values["twin_socket"] = TwinSocket(
                _typed("supported", twin.get("supported", False), bool),
                _number("fd_index", twin["fd_index"]) if "fd_index" in twin else None,
            )
        return cls(**values)

    def pack(self) -> bytes:
        """Return the version data, its NUL included."""
        sent: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TwinSocket):
                twin: dict[str, Any] = {"supported": value.supported}
                if value.fd_index is not None:
                    twin["fd_index"] = value.fd_index
                sent[field.name] = twin
            elif value is not None:
                sent[field.name] = value
        whole = {"capabilities": sent} if sent else {}
        return json.dumps(whole, separators=(",", ":")).encode() + b"\0"


def _bad(what: str) -> MalformedError:
    return MalformedError("version_incompatible", f"version data: {what}")


def _typed(what: str, value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise _bad(f"{what} is no {kind.__name__}")
    return value


def _number(what: str, value: Any) -> int:
    number: int = _typed(what, value, int)
    if not 0 <= number <= _LARGEST:
        raise _bad(f"{what} is out of range")
    return number


class _VersionBody(Message):
    __slots__ = ()

    layout = _LAYOUT

    @classmethod
    def _read(cls, payload: Data) -> tuple[int, int, Capabilities | None]:
        if len(payload) < 4:
            raise wrong_size(cls, payload)
        major, minor = _LAYOUT.unpack_from(payload)
        return major, minor, Capabilities.parse(payload[4:], padded=cls.is_reply)


@dataclass(frozen=True, slots=True)
class Version(_VersionBody):
    """A version and capabilities are proposed; `capabilities` None is no version data at all."""

    name = "VERSION"

    major: int
    minor: int
    capabilities: Capabilities | None = None

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        return cls(*cls._read(payload))

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        fixed = _LAYOUT.pack(self.major, self.minor)
        return (fixed,) if self.capabilities is None else (fixed, self.capabilities.pack())


@dataclass(frozen=True, slots=True)
class VersionReply(_VersionBody):
    """What holds from now on."""

    name = "VERSION"
    is_reply = True

    major: int
    minor: int
    capabilities: Capabilities | None = None

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        return cls(*cls._read(payload))

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        fixed = _LAYOUT.pack(self.major, self.minor)
        return (fixed,) if self.capabilities is None else (fixed, self.capabilities.pack())


# --- What is agreed on ----------------------------------------------------------------------------


def _value(name: str) -> int:
    return LIMITS[name].value


def _default(name: str) -> int:
    value = LIMITS[name].default
    assert value is not None, f"limit {name} has no default"
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one side takes, or can do. `Limits()` is all that `model/wire.toml` allows us."""

    max_msg_fds: int = _value("max_msg_fds")
    max_data_xfer_size: int = _value("max_data_xfer_size")
    max_dma_maps: int = _value("max_dma_maps")
    pgsizes: int = WIRE.option("pgsizes").default
    twin_socket: bool = True
    write_multiple: bool = True
    precopy_info: bool = any(row.name == "precopy_info" for row in WIRE.options)

    @classmethod
    def of_peer(cls, capabilities: Capabilities | None) -> Self:
        """Return the limits of a peer that sent this; what it did not send has its default."""
        sent = capabilities or Capabilities()
        return cls(
            max_msg_fds=_or(sent.max_msg_fds, _default("max_msg_fds")),
            max_data_xfer_size=_or(sent.max_data_xfer_size, _default("max_data_xfer_size")),
            max_dma_maps=_or(sent.max_dma_maps, _default("max_dma_maps")),
            pgsizes=_or(sent.pgsizes, WIRE.option("pgsizes").default),
            twin_socket=sent.twin_socket is not None and sent.twin_socket.supported,
            write_multiple=bool(sent.write_multiple),
            precopy_info=bool(sent.precopy_info),
        )

    def agreed(self, peer: Limits) -> Limits:
        """Return what both sides can do. Own limits on messages stay as they are."""
        return Limits(
            max_msg_fds=self.max_msg_fds,
            max_data_xfer_size=self.max_data_xfer_size,
            max_dma_maps=min(self.max_dma_maps, peer.max_dma_maps),
            pgsizes=self.pgsizes & peer.pgsizes or self.pgsizes,
            twin_socket=self.twin_socket and peer.twin_socket,
            write_multiple=self.write_multiple and peer.write_multiple,
            precopy_info=self.precopy_info and peer.precopy_info,
        )

    def proposal(self) -> Capabilities:
        """Return what a client proposes."""
        return Capabilities(
            max_msg_fds=self.max_msg_fds,
            max_data_xfer_size=self.max_data_xfer_size,
            max_dma_maps=self.max_dma_maps,
            pgsizes=self.pgsizes,
            twin_socket=TwinSocket(True) if self.twin_socket else None,
            write_multiple=self.write_multiple or None,
            precopy_info=self.precopy_info or None,
        )

    def options(self) -> frozenset[str]:
        """Return which options of the table are agreed on, by name."""
        return frozenset(row.name for row in WIRE.options if getattr(self, row.name, False) is True)

    def reply(self, proposed: Capabilities | None, twin: int | None) -> Capabilities | None:
        """Return what a server replies: these, so far as they were proposed.

        A list that names no more than the client's is also no longer than it, which matters:
        QEMU's client has no room for a longer one.

        Args:
            proposed: What the client sent.
            twin: The index of the twin socket's descriptor, if there is one.
        """
        if proposed is None:
            return None
        reply: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(proposed, field.name) is not None
        }
        if "twin_socket" in reply:
            reply["twin_socket"] = TwinSocket(twin is not None, twin)
        return Capabilities(**reply)


def _or(sent: int | None, default: int) -> int:
    return default if sent is None else sent
