"""A TCP proxy before PostgreSQL that can cut connections, refuse new ones, or lose one answer."""

import asyncio
from contextlib import suppress
from urllib.parse import parse_qs, unquote, urlsplit


class Proxy:
    """Passes bytes both ways, until told otherwise."""

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._lose_answer_to: tuple[bytes, ...] = ()
        self._cut_after = True
        self._flowing = asyncio.Event()
        self._flowing.set()
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
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def lose_answer_to(self, *texts: bytes, cut: bool = True) -> None:
        """Pass on the next request that holds all of `texts` and swallow its answer.

        Its connection is cut then, or with `cut=False` answers nothing any more.
        """
        self._lose_answer_to = texts
        self._cut_after = cut

    def stall(self) -> None:
        """Pass nothing on, of old connections and new ones, as a server that hangs."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on what waited, and go on."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        self._writers |= {writer, server_writer}
        losing = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, server_writer, losing))
                group.create_task(self._answers(server_reader, writer, losing))
        except* (OSError, EOFError):
            pass
        finally:
            for one in (writer, server_writer):
                self._writers.discard(one)
                one.transport.abort()
            self._tasks.discard(task)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if self._lose_answer_to and all(text in data for text in self._lose_answer_to):
                self._lose_answer_to = ()
                losing.set()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if losing.is_set():
                self.lost.set()
                if self._cut_after:
                    raise EOFError
                continue
            writer.write(data)
            await writer.drain()
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
