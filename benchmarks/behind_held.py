"""How long plain jobs wait for their start while 100,000 jobs of one key are held.

A worker in a process of its own runs the plain jobs, 100 a second. Another, in this process, serves the
queue of the held jobs, one at a time, 50 ms each: permits are handed over all the while. The same again without
held jobs, but with as many of them as start.
"""

import asyncio
import time

from benchmarks.distribution import milliseconds
from benchmarks.feeder import Feeder, by_engine
from benchmarks.scenario import Report, Scale, fresh_database, settings
from benchmarks.worker_process import worker_process
from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, configure_queue, enqueue_many

HELD_JOBS = 100_000
STARTED_ALONE = 2000
"""More than start in the time that is measured."""
LIMITED = "limited"
JOB_SECONDS = 0.05
RATE_PER_SECOND = 100
WARM_UP_SECONDS = 2.0
CATCH_UP_SECONDS = 60.0
LIMIT_SECONDS = 600.0
ALONE, BESIDE = "no job is held", f"{HELD_JOBS:,} jobs are held"


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """With held jobs and without them in turn."""
    for _ in range(scale.runs):
        for name, held in ((ALONE, False), (BESIDE, True)):
            p50, p99 = await _one_run(dsn, scale.seconds, held=held)
            for share, value in (("p50", p50), ("p99", p99)):
                title = f"start {share} of plain jobs, {name}"
                report.figure(title, "ms", better="lower").runs.append(value)
    for share in ("p50", "p99"):
        report.ratio(
            f"start {share} of plain jobs, held / none",
            f"start {share} of plain jobs, {BESIDE}",
            f"start {share} of plain jobs, {ALONE}",
        )


async def _one_run(dsn: str, seconds: float, *, held: bool) -> tuple[float, ...]:
    options = settings(worker_queues=LIMITED)
    handlers = Registry()

    @handlers.handler("slow")
    async def slow(_payload: object) -> None:
        await asyncio.sleep(JOB_SECONDS)

    async with fresh_database(dsn, options) as database:
        worker = Worker(database, options, handlers=handlers)
        await _fill(database, held=held)
        await worker.start()
        if held:
            await _all_held(database)
        async with worker_process(database.dsn) as starts:
            load = Feeder(by_engine(database))
            async with load.sending():
                await load.at_rate(RATE_PER_SECOND, WARM_UP_SECONDS, begin=time.monotonic())
                begin = time.monotonic()
                await load.at_rate(RATE_PER_SECOND, seconds, begin=begin)
                end = time.monotonic()
            await starts.reach(load.sent, seconds=CATCH_UP_SECONDS)
            waits = milliseconds(starts.waits(begin, end), 0.5, 0.99)
        await worker.stop()
        return waits


async def _fill(database: Database, *, held: bool) -> None:
    """As many jobs of one key, which run one at a time; or jobs of so many keys that none is held."""
    async with database.sessions.begin() as session:
        await configure_queue(session, LIMITED, max_running_per_key=1)
        jobs = HELD_JOBS if held else STARTED_ALONE
        spread = 0.0 if held else JOB_SECONDS
        await enqueue_many(
            session,
            (
                NewJob(
                    "slow",
                    queue=LIMITED,
                    concurrency_key="customer" if held else f"customer:{number}",
                    delay_seconds=number * spread,
                )
                for number in range(jobs)
            ),
        )


async def _all_held(database: Database) -> None:
    """Wait until the worker has held all that it may not run."""
    connection = await database.connect()
    pending = (
        "SELECT count(*) FROM finmind_jobs.jobs_live WHERE held_for IS NULL AND status = 'PENDING'"
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        while await connection.fetchval(pending):  # noqa: ASYNC110 - it is in the database
            await asyncio.sleep(0.5)
    await connection.execute("CHECKPOINT")
    await connection.close()
