"""A TCP proxy of the test's own, on loopback: cuts the connections through it, and keeps its address while the server
behind it comes and goes. `python -m chaos.proxy TARGET...` prints a port for each target (a port, or a socket's path).
"""

import asyncio
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, field

HOST = "127.0.0.1"
CHUNK = 1 << 16
CUT = b"cut"


@dataclass(slots=True)
class Proxy:
    """One target, and the connections to it that are open."""

    target: str
    port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """With a reset, as a failing network device does. What is on its way is lost. Returns how many."""
        connections = list(self._open)
        for writer in connections:
            _reset(writer)
        return len(connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await self._connect()
        except OSError:
            _reset(writer)
            return
        self._open |= {writer, back}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, back))
                both.create_task(_pump(there, writer))
        finally:
            self._open -= {writer, back}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.isdigit():
            return await asyncio.open_connection(HOST, int(self.target))
        return await asyncio.open_unix_connection(self.target)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until one side is done; then the other is too."""
    with suppress(OSError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    with suppress(OSError):
        target.close()


async def serve(targets: list[str]) -> None:
    """Obeys lines on standard input: "cut N" cuts all connections to the Nth target. Ends with its input."""
    proxies = [Proxy(target) for target in targets]
    for proxy in proxies:
        await proxy.start()
    sys.stdout.write(" ".join(str(proxy.port) for proxy in proxies) + "\n")
    sys.stdout.flush()
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while order := await orders.readline():
        word, _, number = order.strip().partition(b" ")
        if word == CUT:
            proxies[int(number)].cut()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
