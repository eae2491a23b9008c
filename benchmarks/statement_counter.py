"""A way to PostgreSQL that counts the statements that take it.

Every server has it, and it counts what no view of the server's tells apart: statements inside a
transaction that stays open, and of one client alone.
"""

import asyncio
import struct
from collections import Counter
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit


class StatementCounter:
    """Listens on loopback and passes everything on to the server of a DSN."""

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.executed: Counter[str] = Counter()
        """How often each text was executed."""

    @property
    def dsn(self) -> str:
        """Where to connect to instead."""
        assert self._server is not None
        login, _, _ = self._target.netloc.rpartition("@")
        port = self._server.sockets[0].getsockname()[1]
        # In clear, or there is nothing to count.
        place = f"{login}@127.0.0.1:{port}{self._target.path}"
        return f"{self._target.scheme}://{place}?sslmode=disable"

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut every connection."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server, requests = await self._connect()
        back = asyncio.create_task(_pass_on(server, answers))
        with suppress(asyncio.IncompleteReadError, OSError):
            await self._count(client, requests)
        back.cancel()
        for writer in (requests, answers):
            writer.close()
        self._tasks.discard(task)

    async def _count(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass the client's messages on one by one, and count those that execute something."""
        texts: dict[bytes, str] = {}
        bound = b""
        start = await client.readexactly(4)
        server.write(start + await client.readexactly(_rest(start)))
        while True:
            head = await client.readexactly(5)
            body = await client.readexactly(_rest(head[1:]))
            server.write(head + body)
            match head[:1]:  # PostgreSQL: Message Formats
                case b"P":  # Parse
                    name, text, _ = body.split(b"\0", 2)
                    texts[name] = text.decode()
                case b"B":  # Bind
                    _, bound, _ = body.split(b"\0", 2)
                case b"E":  # Execute
                    self.executed[texts.get(bound, "")] += 1
                case b"Q":  # Query
                    self.executed[body.rstrip(b"\0").decode()] += 1

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._target.port or 5432
        folder = parse_qs(self._target.query).get("host", [""])[0]
        if folder:
            return await asyncio.open_unix_connection(f"{unquote(folder)}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.hostname or "127.0.0.1", port)


def _rest(length: bytes) -> int:
    """Bytes that follow a length, which counts itself."""
    return int(struct.unpack("!i", length)[0]) - 4


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
