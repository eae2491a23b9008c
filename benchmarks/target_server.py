"""A target that answers every request at once, on several ports, in a process of its own; one more never answers."""

import asyncio
import sys
from typing import Final, cast

import uvloop

ANSWER: Final = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
)


class Answers(asyncio.Protocol):
    """Counts the ends of heads: requests whose bodies hold no empty line."""

    def __init__(self) -> None:
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each request whose head is complete."""
        self._seen += data
        ends = self._seen.count(b"\r\n\r\n")
        if ends:
            self._seen = self._seen[self._seen.rindex(b"\r\n\r\n") + 4 :]
            self._transport.write(ANSWER * ends)


async def main(ports: int) -> None:
    """Listen, print the ports, the dead one last, and serve until the input ends."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Answers, "127.0.0.1", 0) for _ in range(ports)]
    servers.append(await loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
