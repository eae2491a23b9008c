"""Redrive: dead letters put back and run again by one operation, and what live jobs notice of it.

A worker in a process of its own runs the live jobs; another, in this process, carries the operation
out and runs what comes back. Live jobs are timed from the intended moment of their call, first while
nothing else happens, then while the operation runs.
"""

import asyncio
import time
from typing import Any

from benchmarks.distribution import milliseconds
from benchmarks.scenario import Report, Scale, fresh_database, settings
from benchmarks.worker_process import JOB_TYPE, SINCE, worker_process
from service.audit import Actor
from service.db.engine import Database
from service.jobs import Registry, Worker, enqueue
from service.jobs.core.bulk_action import BulkAction, Verb
from service.jobs.core.filters import JobFilters
from service.operations import starting
from service.operations.model import OperationId
from service.operations.runner import bind

RATE_PER_SECOND = 100
QUIET_SECONDS = 5.0
LIMIT_SECONDS = 300.0
_FILL = """
INSERT INTO finmind_jobs.background_jobs (job_type, queue, status, attempts, finished_at, last_error,
  payload, errors)
SELECT 'redriven', 'redriven', 'DEAD_LETTER', 4, clock_timestamp(), 'TimeoutError: no answer',
  jsonb_build_object('invoice', n, 'customer', n % 1000, 'text', repeat('x', 100)),
  jsonb_build_array(jsonb_build_object('event', 'error', 'attempt', 1, 'type', 'TimeoutError',
    'message', 'no answer', 'traceback', repeat('line ', 100)))
FROM generate_series(1, $1) AS n"""


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """`--jobs` dead letters, `--runs` times."""
    for _ in range(scale.runs):
        await _one_run(dsn, report, scale.jobs)
    report.ratio(
        "start p99 of live jobs, redrive / quiet",
        "start p99 of live jobs, during a redrive",
        "start p99 of live jobs, quiet",
    )


async def _one_run(dsn: str, report: Report, jobs: int) -> None:
    options = settings()
    handlers = Registry()

    @handlers.handler("redriven")
    async def run(_payload: Any) -> None:
        return

    async with (
        fresh_database(dsn, options) as database,
        worker_process(database.dsn) as starts,
    ):
        await _fill(database, jobs)
        bind(database, options, to=handlers)
        worker = Worker(database, options, handlers=handlers)
        await worker.start()
        live = asyncio.create_task(_live_jobs(database))
        await asyncio.sleep(2.0)  # connections, statements, caches
        quiet = time.monotonic()
        await asyncio.sleep(QUIET_SECONDS)
        began = time.monotonic()
        await _redrive(database, jobs)
        done = time.monotonic()
        await _all_ran(database, jobs)
        ran = time.monotonic()
        live.cancel()
        await asyncio.wait([live])
        await asyncio.sleep(0.5)
        await worker.stop()
        report.figure("put back by one operation", "s", better="lower").runs.append(done - began)
        report.figure("put back, and run", "s", better="lower").runs.append(ran - began)
        for name, begin, end in (("quiet", quiet, began), ("during a redrive", began, done)):
            p50, p99 = milliseconds(starts.waits(begin, end), 0.5, 0.99)
            for share, value in (("p50", p50), ("p99", p99)):
                title = f"start {share} of live jobs, {name}"
                report.figure(title, "ms", better="lower").runs.append(value)


async def _fill(database: Database, jobs: int) -> None:
    connection = await database.connect()
    await connection.execute(_FILL, jobs)
    await connection.execute("VACUUM ANALYZE finmind_jobs.jobs_dead")
    await connection.close()


async def _live_jobs(database: Database) -> None:
    """One job every hundredth of a second, until cancelled."""

    async def call(when: float) -> None:
        await asyncio.sleep(max(0.0, when - time.monotonic()))
        since = min(when, time.monotonic())
        async with database.sessions.begin() as session:
            await enqueue(session, JOB_TYPE, {SINCE: since}, queue="live")

    begin = time.monotonic()
    number = 0
    async with asyncio.TaskGroup() as calls:
        while True:
            calls.create_task(call(begin + number / RATE_PER_SECOND))
            number += 1
            await asyncio.sleep(begin + number / RATE_PER_SECOND - time.monotonic())


async def _redrive(database: Database, jobs: int) -> None:
    request = starting.OperationRequest(
        action=BulkAction(verb=Verb.RETRY), filters=JobFilters(job_type="redriven")
    )
    async with database.sessions.begin() as session:
        started = await starting.start(session, request, settings(), actor=Actor("benchmark"))
    async with asyncio.timeout(LIMIT_SECONDS):
        while not (found := await _read(database, started.id)).finished_at:  # noqa: ASYNC110 - it is in the database
            await asyncio.sleep(0.05)
    if found.changed != jobs:
        raise RuntimeError(f"{found.changed} of {jobs} were put back: {found.skipped}")


async def _read(database: Database, operation_id: OperationId) -> starting.Operation:
    async with database.sessions() as session:
        return await starting.read(session, operation_id)


async def _all_ran(database: Database, jobs: int) -> None:
    connection = await database.connect()
    query = (
        "SELECT count(*) FROM finmind_jobs.background_jobs"
        " WHERE job_type = 'redriven' AND status = 'SUCCESS'"
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        while await connection.fetchval(query) < jobs:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.25)
    await connection.close()
