"""The codecs of a saved stream: each block is compressed by itself.

A codec is asked for by name. Only this module knows a compression library, and imports it when its
codec is asked for: the extra "compress" brings the one for "zstd".

What is decompressed may come from a stranger. The size it must have is stated beforehand; a block
that would have another is refused, and no more memory is used than for that size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Protocol

from vfio_migration.model.extras import from_extra

NAMES: Final = ("none", "zlib", "zstd")
"""The codecs there are."""

Data = bytes | bytearray | memoryview


class BadDataError(ValueError):
    """Data that are not what this codec makes of a block of that size."""


class Codec(Protocol):
    """Compresses blocks of at least one byte, each by itself; for one thread at a time.

    Attributes:
        name: One of `NAMES`.
    """

    name: str

    def compress(self, block: Data) -> Data:
        """Return what `decompress` makes the block of again. It may be longer than the block."""
        ...

    def decompress(self, data: Data, size: int) -> Data:
        """Return the block, which must have `size` bytes.

        Raises:
            BadDataError: It has not, or something else is wrong with the data.
        """
        ...


def codec(name: str) -> Codec:
    """Return a codec.

    Raises:
        ValueError: There is none of this name.
        MissingExtraError: Its library is not installed; the message states how to get it.
    """
    makers: dict[str, Callable[[], Codec]] = {"none": _None, "zlib": _Zlib, "zstd": _Zstd}
    if name not in makers:
        raise ValueError(f"{name!r}: is not a codec; there are {', '.join(NAMES)}")
    return makers[name]()


class _None:
    """Blocks as they are."""

    name = "none"

    def compress(self, block: Data) -> Data:
        return block

    def decompress(self, data: Data, size: int) -> Data:
        if len(data) != size:
            raise BadDataError(f"there are {len(data)} bytes, not {size}")
        return data


class _Zlib:
    """The zlib format (RFC 1950), with its Adler-32."""

    name = "zlib"
    # Device state is mostly zeroes and what does not compress: a higher level gains a hundredth
    # and takes longer.
    _LEVEL: Final = 1

    def compress(self, block: Data) -> Data:
        return zlib.compress(block, self._LEVEL)

    def decompress(self, data: Data, size: int) -> Data:
        inflate = zlib.decompressobj()
        try:
            # One byte more than there may be: inflate then goes on to the checksum at the end,
            # and a block that is too long shows. (0 would mean any number.)
            block = inflate.decompress(data, size + 1)
        except zlib.error as error:
            raise BadDataError(str(error)) from error
        if len(block) > size:
            raise BadDataError(f"they make more than {size} bytes")
        if not inflate.eof:
            raise BadDataError(f"they end after {len(block)} bytes of {size}")
        if inflate.unused_data:
            raise BadDataError(f"{len(inflate.unused_data)} bytes follow their end")
        if len(block) != size:
            raise BadDataError(f"they make {len(block)} bytes, not {size}")
        return block


class _Zstd:
    """One Zstandard frame (RFC 8878) that states its size, with its checksum (XXH64)."""

    name = "zstd"
    _LEVEL: Final = 3

    def __init__(self) -> None:
        with from_extra():
            import zstandard

        self._frame = zstandard.get_frame_parameters
        self._error = zstandard.ZstdError
        self._compressor = zstandard.ZstdCompressor(level=self._LEVEL, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def compress(self, block: Data) -> Data:
        return self._compressor.compress(block)

    def decompress(self, data: Data, size: int) -> Data:
        try:
            # The library makes room for what the frame says, whatever limit it is given; so the
            # frame is asked first. Then it is all there is: nothing more is written.
            found = self._frame(data).content_size
            if found != size:
                raise BadDataError(f"they make {_bytes(found)}, not {size}")
            return self._decompressor.decompress(data, allow_extra_data=False)
        except self._error as error:
            raise BadDataError(str(error)) from error


def _bytes(found: int) -> str:
    # CONTENTSIZE_UNKNOWN and CONTENTSIZE_ERROR are -1 and -2 modulo 2**64.
    return "an unknown number of bytes" if found >= 1 << 63 else f"{found} bytes"
