"""The engine in an asyncio program: a service of one's own, whose states are those of the table.

    python examples/embedded_engine.py states.sock &
    echo STOP_COPY | socat - UNIX-CONNECT:states.sock

Each line that a client sends names a state to go to; the answer is where the device is, or why the
request is refused. No state is named in this program: which arcs are taken is the table's business.
"""

import asyncio
import sys

from vfio_migration import Engine, load
from vfio_migration.model import Arc
from vfio_migration.model.spec import Effect
from vfio_migration.runtime import RequestRefusedError, Situation


class Service:
    """What is to be moved; it only counts the arcs it has taken."""

    def __init__(self) -> None:
        self.arcs: list[str] = []

    def take(self, arc: Arc, session: int | None, effect: Effect, /) -> None:
        """Stop, stream or start something here; raise `ArcError` if it cannot be done."""
        self.arcs.append(str(arc))

    def reset(self, to: Situation, /) -> None:
        """Begin anew."""
        self.arcs.clear()


async def serve(socket: str) -> None:
    """Answer requests until the task is cancelled."""
    service = Service()
    engine = Engine(load(), "STOP_COPY,P2P", service)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            service.arcs.clear()
            try:
                engine.set_state(line.decode(errors="replace").strip())
            except (RequestRefusedError, LookupError) as error:
                writer.write(f"refused: {error}\n".encode())
            else:
                writer.write(f"{engine.state} by {', '.join(service.arcs) or 'no arc'}\n".encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, socket)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()  # serve_forever would wait until each client disconnects


if __name__ == "__main__":
    try:
        asyncio.run(serve(sys.argv[1]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
