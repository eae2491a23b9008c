"""Targets that jobs are sent to: a real HTTP server on loopback that answers as the test tells it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Got:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Target:
    """An HTTP/1.1 server: `answer` makes the bytes of each answer."""

    answer: Callable[[Got], bytes]
    port: int = 0
    connections: int = 0
    requests: list[Got] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """Answers wait for it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                pairs = [line.split(": ", 1) for line in head[1:] if line]
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                got = Got(method, target, headers, body)
                self.requests.append(got)
                if self.hold is not None:
                    await self.hold.wait()
                said = self.answer(got)
                writer.write(said)
                await writer.drain()
                if b"Connection: close" in said:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def answer(
    status: int = 200, body: bytes = b"", *, length: int | None = None, **headers: str
) -> bytes:
    """The bytes of an answer; `Retry_After` stands for the header Retry-After."""
    lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@asynccontextmanager
async def running(
    make: Callable[[Got], bytes] | bytes | None = None,
) -> AsyncIterator[Target]:
    """A target that listens; without an argument it answers 200."""
    made = make if callable(make) else (lambda _got: answer() if make is None else make)
    target = Target(made)
    server = await asyncio.start_server(target.take, "127.0.0.1", 0)
    target.port = server.sockets[0].getsockname()[1]
    try:
        yield target
    finally:
        server.close()
        if target.hold is not None:
            target.hold.set()


@asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """The port of a listener that accepts connections and never says a word."""
    held: list[asyncio.StreamWriter] = []

    async def keep(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in held:
            writer.close()
