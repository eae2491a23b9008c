"""A peer that has limits for each key: the way of Rails' Solid Queue, its SQL on the same server.

A job has a row in `jobs`, and one more where it stands: `ready`, `claimed` or, over its key's limit,
`blocked`. A semaphore is a row that counts the permits of a key that are free. Who ends a job finishes it in one
transaction, signals its semaphore in a second, and lets the next blocked job go in a third, which waits for
the semaphore anew (`SolidQueue::ClaimedExecution#finalize`, `Semaphore`, `BlockedExecution.release_one`,
1.x). Tables and indexes are those of its schema, as far as they are written on the way; times at which semaphores
expire are kept, since their indexes are written with them.

In its favour: each transaction is one statement here, of which it sends two to six; there is no Ruby;
jobs are filled in ready and blocked, where an enqueue waits for the semaphore of each; and
nobody polls, the next jobs are claimed as soon as connections are idle.
"""

import asyncio
import time
from collections import deque
from contextlib import suppress

import asyncpg

from benchmarks.drain import FILL_SECONDS, bound_seconds
from benchmarks.scenario import fresh_database, settings
from service.db.engine import Database

CONNECTIONS = 20
"""Its threads, each with a connection."""

SCHEMA = """
CREATE SCHEMA peer;
SET search_path = peer;
CREATE TABLE jobs (id bigserial PRIMARY KEY, queue_name text NOT NULL, class_name text NOT NULL,
  arguments text, priority int NOT NULL DEFAULT 0, active_job_id text, scheduled_at timestamptz,
  finished_at timestamptz, concurrency_key text, created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON jobs (active_job_id);
CREATE INDEX ON jobs (class_name);
CREATE INDEX ON jobs (finished_at);
CREATE INDEX ON jobs (queue_name, finished_at);
CREATE INDEX ON jobs (scheduled_at, finished_at);
CREATE TABLE ready (id bigserial PRIMARY KEY,
  job_id bigint NOT NULL UNIQUE REFERENCES jobs ON DELETE CASCADE, queue_name text NOT NULL,
  priority int NOT NULL DEFAULT 0, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON ready (priority, job_id);
CREATE INDEX ON ready (queue_name, priority, job_id);
CREATE TABLE claimed (id bigserial PRIMARY KEY,
  job_id bigint NOT NULL UNIQUE REFERENCES jobs ON DELETE CASCADE, process_id bigint,
  created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON claimed (process_id, job_id);
CREATE TABLE blocked (id bigserial PRIMARY KEY,
  job_id bigint NOT NULL UNIQUE REFERENCES jobs ON DELETE CASCADE, queue_name text NOT NULL,
  priority int NOT NULL DEFAULT 0, concurrency_key text NOT NULL, expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON blocked (concurrency_key, priority, job_id);
CREATE INDEX ON blocked (expires_at, concurrency_key);
CREATE TABLE semaphores (id bigserial PRIMARY KEY, key text NOT NULL UNIQUE, value int NOT NULL,
  expires_at timestamptz NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON semaphores (expires_at);
CREATE INDEX ON semaphores (key, value);
"""

FILL = """
WITH made AS (
  INSERT INTO peer.jobs (queue_name, class_name, arguments, active_job_id, scheduled_at, concurrency_key)
  SELECT 'default', 'Noop', repeat('x', 200), md5(n::text), now(),
    CASE WHEN $2 > 0 THEN 'Noop/' || n % $2 END
  FROM generate_series(0, $1::int - 1) AS n ORDER BY n RETURNING id, concurrency_key),
counted AS MATERIALIZED (
  SELECT id, concurrency_key AS key, row_number() OVER (PARTITION BY concurrency_key ORDER BY id) AS nth
  FROM made),
blocked AS (
  INSERT INTO peer.blocked (job_id, queue_name, concurrency_key, expires_at)
  SELECT id, 'default', key, now() + interval '3 minutes' FROM counted WHERE key IS NOT NULL AND nth > $3 ORDER BY id),
semaphores AS (
  INSERT INTO peer.semaphores (key, value, expires_at)
  SELECT key, $3 - least($3, max(nth)), now() + interval '3 minutes'
  FROM counted WHERE key IS NOT NULL GROUP BY key)
INSERT INTO peer.ready (job_id, queue_name)
SELECT id, 'default' FROM counted WHERE key IS NULL OR nth <= $3 ORDER BY id
"""

CLAIM = """
WITH gone AS (
  DELETE FROM peer.ready WHERE id = ANY (ARRAY(
    SELECT id FROM peer.ready WHERE queue_name = 'default'
    ORDER BY priority, job_id LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING job_id),
put AS (INSERT INTO peer.claimed (job_id, process_id) SELECT job_id, 1 FROM gone RETURNING id, job_id)
SELECT put.id, put.job_id, j.concurrency_key, j.arguments
FROM put JOIN peer.jobs j ON j.id = put.job_id ORDER BY put.job_id
"""

FINISH = """
WITH gone AS (DELETE FROM peer.claimed WHERE id = $1 RETURNING job_id)
UPDATE peer.jobs j SET finished_at = now(), updated_at = now() FROM gone WHERE j.id = gone.job_id
"""

SIGNAL = """
UPDATE peer.semaphores SET value = value + 1, expires_at = now() + interval '3 minutes'
WHERE key = $1 AND value < $2 RETURNING true
"""

RELEASE_ONE = """
WITH next AS MATERIALIZED (
  SELECT id, job_id, queue_name, priority FROM peer.blocked WHERE concurrency_key = $1
  ORDER BY priority, job_id LIMIT 1 FOR UPDATE SKIP LOCKED),
waited AS (
  UPDATE peer.semaphores SET value = value - 1, expires_at = now() + interval '3 minutes'
  WHERE key = $1 AND value > 0 AND EXISTS (SELECT FROM next) RETURNING key),
gone AS (
  DELETE FROM peer.blocked b USING next, waited WHERE b.id = next.id
  RETURNING b.job_id, b.queue_name, b.priority)
INSERT INTO peer.ready (job_id, queue_name, priority) SELECT job_id, queue_name, priority FROM gone
"""


async def drain(dsn: str, jobs: int, *, keys: int, limit: int) -> float:
    """Seconds in which one process drains `jobs` jobs of so many keys, or without keys.

    Raises:
        RuntimeError: some job did not end, or a permit is left over.
    """
    async with fresh_database(dsn, settings()) as database:
        connection = await database.connect()
        await connection.execute(SCHEMA)
        await connection.execute(FILL, jobs, keys, limit, timeout=FILL_SECONDS)
        await connection.execute("ANALYZE", timeout=FILL_SECONDS)
        await connection.execute("CHECKPOINT", timeout=FILL_SECONDS)
        process = _Process(database, jobs, limit)
        async with asyncio.timeout(10 * bound_seconds(jobs)):
            seconds = await process.drain()
        wrong = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM peer.jobs WHERE finished_at IS NULL),"
            " (SELECT count(*) FROM peer.semaphores WHERE value <> $1)",
            limit,
        )
        await connection.close()
        if wrong is None or any(wrong):
            raise RuntimeError(f"jobs that did not end, semaphores that are not back: {wrong}")
        return seconds


class _Process:
    """Threads that run what one of them claims for all that are idle."""

    def __init__(self, database: Database, jobs: int, limit: int) -> None:
        self._database = database
        self._left = jobs
        self._limit = limit
        self._claimed: deque[asyncpg.Record] = deque()
        self._changed = asyncio.Condition()
        self._idle = 0

    async def drain(self) -> float:
        connections = [await self._database.connect() for _ in range(CONNECTIONS + 1)]
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            claims = tasks.create_task(self._claim(connections[0]))
            threads = [tasks.create_task(self._thread(one)) for one in connections[1:]]
            await asyncio.wait(threads)
            claims.cancel()
        seconds = time.perf_counter() - started
        for connection in connections:
            with suppress(OSError):
                await connection.close()
        return seconds

    async def _claim(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._idle > len(self._claimed))
                wanted = self._idle - len(self._claimed)
            found = await connection.fetch(CLAIM, wanted)
            async with self._changed:
                self._claimed.extend(found)
                self._changed.notify_all()
            await asyncio.sleep(0)

    async def _thread(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while True:
            async with self._changed:
                self._idle += 1
                self._changed.notify_all()
                await self._changed.wait_for(lambda: self._claimed or not self._left)
                self._idle -= 1
                if not self._claimed:
                    return
                job = self._claimed.popleft()
            await connection.execute(FINISH, job["id"])
            key = job["concurrency_key"]
            if key is not None and await connection.fetchval(SIGNAL, key, self._limit):
                await connection.execute(RELEASE_ONE, key)
            self._left -= 1
