"""Drives PgQueuer the way its documentation calls fast.

Its guide "Performance Tuning" names the knobs: asyncpg rather than psycopg, a larger batch for
short jobs, a pool for producers and a plain connection for each queue manager, and its own
autovacuum settings; its page "Benchmarks" says that asyncpg is about twice as fast as psycopg,
and its own benchmark runs several managers in one process. Of 1, 2 and 5 managers with batches of
10, 50, 200 and 500, two with 200 were the fastest on two cores. Of its durability levels this keeps the default, `durable`: the others write unlogged tables.
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
MANAGERS = 2


class PgQueuerPeer(Peer):
    """Queue managers in one process, each with a connection of its own."""

    unfinished = "SELECT FROM pgqueuer"
    kept = "SELECT FROM pgqueuer_log"

    async def open(self, url: str, handle: Handler) -> None:
        self._pool = await asyncpg.create_pool(url, min_size=2, max_size=10)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        await self._queries.install()
        await self._queries.optimize_autovacuum()
        self._connections = [await asyncpg.connect(url) for _ in range(MANAGERS)]
        self._managers = [PgQueuer(AsyncpgDriver(connection)) for connection in self._connections]
        self._running: list[asyncio.Task[None]] = []

        async def noop(job: Job) -> None:
            handle(json.loads(job.payload))

        for manager in self._managers:
            manager.entrypoint("noop")(noop)

    async def enqueue(self, payload: Payload) -> None:
        await self._queries.enqueue("noop", json.dumps(payload).encode())

    async def enqueue_many(self, payloads: list[Payload], chunk: int) -> None:
        for at in range(0, len(payloads), chunk):
            bodies = [json.dumps(payload).encode() for payload in payloads[at : at + chunk]]
            await self._queries.enqueue(["noop"] * len(bodies), bodies, [0] * len(bodies))

    async def start(self) -> None:
        for manager in self._managers:
            self._running.append(asyncio.create_task(manager.run(batch_size=BATCH)))

    async def stop(self) -> None:
        for manager in self._managers:
            manager.shutdown.set()
        await asyncio.gather(*self._running)
        for connection in self._connections:
            await connection.close()
        await self._pool.close()


if __name__ == "__main__":
    main(PgQueuerPeer)
