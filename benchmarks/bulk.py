"""Bulk: how fast one transaction enqueues many jobs from Python, and what memory that takes."""

import json
import resource
import time

import asyncpg

from benchmarks.scenario import PAYLOAD, Report, Scale, fresh_database, interleaved, settings
from service.jobs import NewJob, enqueue_many, statements

OURS = "bulk enqueue, enqueue_many"
FLOOR = "bulk enqueue, the same SQL from bare asyncpg"
BATCH = 1000


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Ours and the floor in turn, and their ratio."""
    jobs = scale.jobs

    async def ours() -> None:
        async with fresh_database(dsn, settings()) as database:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            started = time.perf_counter()
            async with database.sessions.begin() as session:
                await enqueue_many(session, (NewJob("noop", PAYLOAD) for _ in range(jobs)))
            report.figure(OURS, "jobs/s").runs.append(jobs / (time.perf_counter() - started))
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            report.figure("bulk enqueue, growth of peak memory", "MiB", better="lower").runs.append(
                grown
            )

    async def floor() -> None:
        async with fresh_database(dsn, settings()) as database:
            connection = await database.connect()
            report.figure(FLOOR, "jobs/s").runs.append(jobs / await _bare(connection, jobs))
            await connection.close()

    await interleaved(scale.runs, ours, floor)
    report.ratio("bulk enqueue: ours / floor", OURS, FLOOR)


async def _bare(connection: "asyncpg.Connection[asyncpg.Record]", jobs: int) -> float:
    payload = json.dumps(PAYLOAD)
    started = time.perf_counter()
    async with connection.transaction():
        for _ in range(jobs // BATCH):
            await connection.fetch(
                statements.ENQUEUE_UNSEEN,
                ["noop"] * BATCH,
                [payload] * BATCH,
                *([] for _ in range(8)),
            )
    return time.perf_counter() - started
