"""Drives PgQueuer the way its documentation calls fast.

Its guide "Performance Tuning" names the knobs: asyncpg rather than psycopg, a larger batch for
short jobs, a pool for producers and a plain connection for each queue manager, and its own
autovacuum settings; its page "Benchmarks" says that asyncpg is about twice as fast as psycopg.
Of its durability levels this keeps the default, `durable`: the others write unlogged tables.
"""

import asyncio
import json

import asyncpg
from pgqueuer import PgQueuer  # type: ignore[import-not-found]
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver  # type: ignore[import-not-found]
from pgqueuer.models import Job  # type: ignore[import-not-found]
from pgqueuer.queries import Queries  # type: ignore[import-not-found]

from benchmarks.peers.driver import Handler, Payload, Peer, main

BATCH = 200
"""Its knob for short jobs; as large as our own claim."""


class PgQueuerPeer(Peer):
    """One queue manager in one process."""

    unfinished = "SELECT FROM pgqueuer"
    kept = "SELECT FROM pgqueuer_log"

    async def open(self, url: str, handle: Handler) -> None:
        self._pool = await asyncpg.create_pool(url, min_size=2, max_size=10)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        await self._queries.install()
        await self._queries.optimize_autovacuum()
        self._connection = await asyncpg.connect(url)
        self._manager = PgQueuer(AsyncpgDriver(self._connection))
        self._running: asyncio.Task[None] | None = None

        async def noop(job: Job) -> None:
            handle(json.loads(job.payload))

        self._manager.entrypoint("noop")(noop)

    async def enqueue(self, payload: Payload) -> None:
        await self._queries.enqueue("noop", json.dumps(payload).encode())

    async def enqueue_many(self, payloads: list[Payload], chunk: int) -> None:
        for at in range(0, len(payloads), chunk):
            bodies = [json.dumps(payload).encode() for payload in payloads[at : at + chunk]]
            await self._queries.enqueue(["noop"] * len(bodies), bodies, [0] * len(bodies))

    async def start(self) -> None:
        self._running = asyncio.create_task(self._manager.run(batch_size=BATCH))

    async def stop(self) -> None:
        self._manager.shutdown.set()
        if self._running:
            await self._running
        await self._connection.close()
        await self._pool.close()


if __name__ == "__main__":
    main(PgQueuerPeer)
