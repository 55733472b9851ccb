"""A client: stops a served device, reads its whole state into a file, and lets it run again.

    vfio-migration serve edu.sock &
    python examples/read_state.py edu.sock edu.state

`vfio-migration save` does more: it checks what it saves, and survives what fails meanwhile.
"""

import sys
from pathlib import Path

from vfio_migration import Client
from vfio_migration.runtime.client import ClientError, RefusedError

CHUNK = 1 << 20
"""How many bytes are asked for at a time."""


def read_state(socket: str, file: Path) -> int:
    """Write the state of the device into the file; return how many bytes it has."""
    with Client(socket) as client, file.open("wb") as out:
        before = client.state()
        client.set_state("STOP_COPY")
        while client.read_data(CHUNK, out.write) == CHUNK:
            pass  # a short read is the end of the stream
        client.set_state(before)
        return out.tell()


def main(socket: str, file: str) -> int:
    """Read the state and say how large it is; 0 if it is there."""
    try:
        size = read_state(socket, Path(file))
    except RefusedError as error:
        print(f"{socket}: the device refuses: {error}", file=sys.stderr)
    except ClientError as error:
        print(error, file=sys.stderr)
    else:
        print(f"{socket}: {size} bytes of state in {file}")
        return 0
    return 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
