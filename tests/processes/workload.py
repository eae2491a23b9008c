"""Enqueues jobs as clients would, waits for them, and checks rows and kept counts."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import asyncpg

from service.db.engine import Database
from service.jobs import NewJob, enqueue_many, get_job_stats
from service.jobs.core.job import JobStatus
from tests.processes.fleet import until

WRITERS = 4
TRANSACTION_JOBS = 250


def flaky_jobs(count: int, *, seconds: float = 0.0, queues: int = 1) -> Iterator[NewJob]:
    """Jobs of which every fifth fails in its first attempt."""
    for number in range(count):
        payload = {"number": number, "fails": number % 5 == 0, "seconds": seconds}
        yield NewJob("test.flaky", payload, queue=f"q{number % queues}")


async def enqueue_all(dsn: str, jobs: Iterator[NewJob]) -> None:
    """Enqueue from several connections at once, in many transactions, as clients would."""

    async def write() -> None:
        connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
        try:
            while batch := [job for _, job in zip(range(TRANSACTION_JOBS), jobs, strict=False)]:
                async with connection.transaction():
                    await enqueue_many(connection, batch)
        finally:
            await connection.close()

    await asyncio.gather(*(write() for _ in range(WRITERS)))


async def statuses(connection: "asyncpg.Connection[asyncpg.Record]") -> Counter[str]:
    """Rows by status, counted."""
    rows = await connection.fetch("SELECT status, count(*) FROM background_jobs GROUP BY 1")
    return Counter({row[0]: row[1] for row in rows})


async def all_succeed(
    connection: "asyncpg.Connection[asyncpg.Record]", count: int, seconds: float
) -> None:
    """Wait until `count` jobs are SUCCESS; fails at once where one has ended otherwise."""

    async def done() -> bool:
        found = await statuses(connection)
        bad = found.keys() - {"PENDING", "RUNNING", "SUCCESS"}
        assert not bad, f"ended otherwise: {found}"
        return found["SUCCESS"] >= count

    await until(done, seconds, what=f"end of {count} jobs")


async def check_each_succeeded_once(database: Database, *, count: int) -> None:
    """Check that every job is there once, as SUCCESS, and that the kept counts match the rows."""
    async with database.sessions() as session:
        stats = await get_job_stats(session)
    connection = await database.connect()
    try:
        assert await statuses(connection) == {"SUCCESS": count}
        assert await connection.fetchval("SELECT count(DISTINCT id) FROM background_jobs") == count
        rows = await connection.fetch("SELECT queue, count(*) FROM background_jobs GROUP BY 1")
    finally:
        await connection.close()
    expected = dict.fromkeys(JobStatus, 0) | {JobStatus.SUCCESS: count}
    assert (stats.by_status, stats.total, stats.total_exact) == (expected, count, True)
    assert stats.by_queue == {row[0]: row[1] for row in rows}
