"""Open-loop load: jobs at an exact schedule, whatever becomes of those before them."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from benchmarks.scenario import PAYLOAD, bare_insert
from benchmarks.worker_process import JOB_TYPE, SINCE, Starts
from service.db.engine import Database
from service.jobs import NewJob, enqueue_batch

TICK_SECONDS = 0.005
CONNECTIONS = 4
MOST_AT_ONCE = 1000

Send = Callable[[list[float]], Awaitable[None]]
"""Enqueue one job for each of these moments, in one transaction."""


class Feeder:
    """Sends what is due by a few connections; what they cannot take at once waits, and is late."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._due: deque[float] = deque()
        self._more = asyncio.Event()
        self.sent = 0
        self.late: list[float] = []
        """How long after its moment each transaction was begun, in seconds: the oldest job's."""

    @property
    def waiting(self) -> int:
        """Jobs that are due and not on their way."""
        return len(self._due)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send while this is open, and at its end all that is left."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as senders:
            for _ in range(CONNECTIONS):
                senders.create_task(self._deliver(over))
            try:
                yield
            finally:
                over.set()
                self._more.set()

    async def at_rate(self, rate: float, seconds: float, *, begin: float) -> None:
        """Let `rate` jobs a second fall due for `seconds`, in small batches at exact moments."""
        ticks, due = round(seconds / TICK_SECONDS), 0
        for tick in range(ticks):
            moment = begin + tick * TICK_SECONDS
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            upto = round(rate * (tick + 1) * TICK_SECONDS)
            self._add([moment] * (upto - due))
            due = upto

    async def up_to(self, window: int, seconds: float, *, starts: Starts) -> None:
        """Keep `window` jobs between here and their start for `seconds`: as fast as both can."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self._add([now] * max(0, window - (self.sent + self.waiting - starts.count)))
            await asyncio.sleep(TICK_SECONDS)

    def _add(self, moments: list[float]) -> None:
        self._due.extend(moments)
        self._more.set()

    async def _deliver(self, over: asyncio.Event) -> None:
        while not over.is_set() or self._due:
            if not self._due:
                self._more.clear()
                await self._more.wait()
                continue
            count = min(len(self._due), MOST_AT_ONCE)
            batch = [self._due.popleft() for _ in range(count)]
            self.sent += count
            self.late.append(time.monotonic() - batch[0])
            await self._send(batch)


def by_engine(database: Database) -> Send:
    """As an application enqueues: in a transaction of its own, which wakes the worker."""

    async def send(moments: list[float]) -> None:
        async with database.sessions.begin() as session:
            await enqueue_batch(
                session, [NewJob(JOB_TYPE, {**PAYLOAD, SINCE: moment}) for moment in moments]
            )

    return send


@asynccontextmanager
async def bare(database: Database) -> AsyncIterator[Send]:
    """The same SQL from bare asyncpg, which wakes nobody."""
    free: asyncio.LifoQueue[asyncpg.Connection[asyncpg.Record]] = asyncio.LifoQueue()
    connections = [await database.connect() for _ in range(CONNECTIONS)]
    for connection in connections:
        free.put_nowait(connection)

    async def send(moments: list[float]) -> None:
        payloads = [json.dumps({**PAYLOAD, SINCE: moment}) for moment in moments]
        connection = await free.get()
        try:
            await connection.fetch(*bare_insert(JOB_TYPE, payloads))
        finally:
            free.put_nowait(connection)

    try:
        yield send
    finally:
        for connection in connections:
            with suppress(OSError):
                await connection.close()
