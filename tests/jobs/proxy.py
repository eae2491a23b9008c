"""A TCP proxy before PostgreSQL: slow, narrow, cut, reset, half-open, or losing one answer."""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time at all: what is closed is reset."""
SLICES_A_SECOND: Final = 50


class Way(StrEnum):
    """One of the two directions."""

    REQUESTS = "requests"
    ANSWERS = "answers"


BOTH: Final = frozenset(Way)


@dataclass(slots=True)
class Road:
    """What befalls the bytes that go one way, of all connections."""

    delay_seconds: float = 0.0
    bytes_per_second: float = float("inf")
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Write `data`, as late and as slowly as told."""
        await self.flowing.wait()
        await asyncio.sleep(self.delay_seconds)
        while data:
            width = self.bytes_per_second
            size = (
                len(data)
                if width > len(data) * SLICES_A_SECOND
                else max(1, int(width / SLICES_A_SECOND))
            )
            writer.write(data[:size])
            await writer.drain()
            data = data[size:]
            if data:
                await asyncio.sleep(size / width)


@dataclass(slots=True, eq=False)
class Pair:
    """One client and its connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    losing: bool = False
    """Whether the next answer is swallowed."""
    deaf: frozenset[Way] = frozenset()
    """Ways that end in nothing: the other side hears no byte and no end of these."""


class Proxy:
    """Passes bytes both ways, until told otherwise."""

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self._pairs: set[Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._lose_answer_to: tuple[bytes, ...] = ()
        self._cut_after = True
        self._roads = {way: Road() for way in Way}
        self.flow()
        self.lost = asyncio.Event()
        """Set once an answer was lost."""

    @property
    def dsn(self) -> str:
        """Where clients connect to."""
        user = f"{self._target.username or 'postgres'}"
        password = f":{self._target.password}" if self._target.password else ""
        return f"postgresql://{user}{password}@127.0.0.1:{self._port}{self._target.path}"

    async def start(self) -> None:
        """Listen; after `cut`, on the port that it had."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Cut every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        await self._end_all()
        await self._server.wait_closed()

    async def reset(self) -> None:
        """Reset every connection, as a router does that forgot them; new ones are welcome."""
        for pair in self._pairs:
            for writer in (pair.client, pair.server):
                if writer.get_extra_info("sockname"):  # a Unix socket has none, and no reset
                    raw: socket.socket = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        await self._end_all()

    async def _end_all(self) -> None:
        for pair in self._pairs:
            pair.client.transport.abort()
            pair.server.transport.abort()
        tasks = list(self._tasks)  # of what is still being connected as well
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def leave_half_open(self, ways: frozenset[Way] = BOTH) -> None:
        """Let what stands now lead nowhere, without a word to either side; new ones are welcome.

        To the server it looks as if the client were still there, whatever became of it.
        """
        for pair in self._pairs:
            pair.deaf = ways

    def slow(
        self,
        ways: frozenset[Way] = BOTH,
        *,
        delay_seconds: float = 0.0,
        bytes_per_second: float = float("inf"),
    ) -> None:
        """Pass on later, or less in a second; until `flow`."""
        for way in ways:
            self._roads[way].delay_seconds = delay_seconds
            self._roads[way].bytes_per_second = bytes_per_second

    def lose_answer_to(self, *texts: bytes, cut: bool = True) -> None:
        """Pass on the next request that holds all of `texts` and swallow its answer.

        Its connection is cut then, or with `cut=False` answers nothing any more.
        """
        self._lose_answer_to = texts
        self._cut_after = cut

    def stall(self, ways: frozenset[Way] = BOTH) -> None:
        """Pass nothing on, of old connections and new ones, as a server that hangs."""
        for way in ways:
            self._roads[way].flowing.clear()

    def flow(self) -> None:
        """Pass on what waited, and go on."""
        for road in self._roads.values():
            road.flowing.set()
        self.slow()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # asyncio's streams complain of a server's task that ends cancelled.
            with suppress(asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            # Also where a reset came before there was a pair: its client would wait for a greeting.
            writer.transport.abort()
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except OSError:
            return
        pair = Pair(writer, server_writer)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, pair))
                group.create_task(self._answers(server_reader, pair))
        except* (OSError, EOFError):
            pass
        finally:
            self._pairs.discard(pair)
            server_writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, pair: Pair) -> None:
        while data := await reader.read(65536):
            if self._lose_answer_to and all(text in data for text in self._lose_answer_to):
                self._lose_answer_to = ()
                pair.losing = True
            if Way.REQUESTS not in pair.deaf:
                await self._roads[Way.REQUESTS].pass_on(data, pair.server)
        await self._ended(pair)

    async def _answers(self, reader: asyncio.StreamReader, pair: Pair) -> None:
        while data := await reader.read(65536):
            if pair.losing:
                self.lost.set()
                if self._cut_after:
                    raise EOFError
                continue
            if Way.ANSWERS not in pair.deaf:
                await self._roads[Way.ANSWERS].pass_on(data, pair.client)
        await self._ended(pair)

    async def _ended(self, pair: Pair) -> None:
        """One side hung up; of a half-open connection the other does not hear of it."""
        if pair.deaf:
            await asyncio.get_running_loop().create_future()
        raise EOFError

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._target.port or 5432
        folder = parse_qs(self._target.query).get("host", [""])[0]
        if folder:
            return await asyncio.open_unix_connection(f"{unquote(folder)}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.hostname or "127.0.0.1", port)

    async def close(self) -> None:
        """Stop for good."""
        with suppress(OSError):
            await self.cut()
