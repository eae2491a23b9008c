"""Bulk: how fast one transaction enqueues many jobs from Python, and what memory that takes."""

import asyncio
import json
import sys
import time

import asyncpg

from benchmarks.scenario import (
    PAYLOAD,
    Report,
    Scale,
    bare_insert,
    fresh_database,
    interleaved,
    settings,
)
from service.jobs import NewJob, enqueue_many

OURS = "bulk enqueue, enqueue_many"
FLOOR = "bulk enqueue, the same SQL from bare asyncpg"
MEMORY = "bulk enqueue, growth of memory at its peak"
BATCH = 1000
MEMORY_SECONDS = 1800.0
"""Bound on the process that is measured."""


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Ours and the floor in turn, and their ratio."""
    jobs = scale.jobs

    async def ours() -> None:
        async with fresh_database(dsn, settings()) as database:
            started = time.perf_counter()
            async with database.sessions.begin() as session:
                await enqueue_many(session, (NewJob("noop", PAYLOAD) for _ in range(jobs)))
            report.figure(OURS, "jobs/s").runs.append(jobs / (time.perf_counter() - started))

    async def memory() -> None:
        async with fresh_database(dsn, settings()) as database:
            grown = await _growth_mib(database.dsn, jobs)
        report.figure(MEMORY, "MiB", better="lower").runs.append(grown)

    async def floor() -> None:
        async with fresh_database(dsn, settings()) as database:
            connection = await database.connect()
            report.figure(FLOOR, "jobs/s").runs.append(jobs / await _bare(connection, jobs))
            await connection.close()

    await interleaved(scale.runs, ours, floor, memory)
    report.ratio("bulk enqueue: ours / floor", OURS, FLOOR)


async def _bare(connection: "asyncpg.Connection[asyncpg.Record]", jobs: int) -> float:
    payload = json.dumps(PAYLOAD)
    started = time.perf_counter()
    async with connection.transaction():
        for _ in range(jobs // BATCH):
            await connection.fetch(*bare_insert("noop", [payload] * BATCH))
    return time.perf_counter() - started


async def _growth_mib(dsn: str, jobs: int) -> float:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.bulk_process", dsn, str(jobs)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(MEMORY_SECONDS):
            answer, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"it ended with {process.returncode}")
    return float(answer)
