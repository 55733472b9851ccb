"""A device, its server and its tests: a counter that interrupts the guest when it is set.

python examples/counter.py counter.sock     serves it
pytest examples/counter.py                  tests it
"""

import signal
import struct
import sys

from vfio_migration import PciDevice, Server
from vfio_migration.runtime.kit import Bar, Identity
from vfio_migration.runtime.testing import device_test_suite
from vfio_migration.runtime.transport.listening import listening


class Counter(PciDevice):
    """One register; its value is all the state that moves."""

    name = "counter"
    identity = Identity(vendor=0x1234, device=0xC0DE)
    bars = {0: Bar(4096)}  # noqa: RUF012 - the kit reads it and changes nothing
    msi = 1

    def reset_device(self) -> None:
        self.count = 0

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return self.count

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        self.count = value
        self.interrupt()

    def save(self) -> bytes:
        return struct.pack("<Q", self.count)

    def load(self, state: bytes, version: int) -> None:
        (self.count,) = struct.unpack("<Q", state)


TestCounter = device_test_suite(Counter)

if __name__ == "__main__":
    with listening(sys.argv[1]) as sock, Server(Counter()) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        server.serve(sock)
