"""Drain: how fast one worker process empties a full queue of no-op jobs, history kept."""

import asyncio
import time

from benchmarks.scenario import PAYLOAD, Report, Scale, fresh_database, interleaved, settings
from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, enqueue_many, partitions, store
from service.jobs.outcomes import SUCCEEDED_EMPTY
from service.jobs.store import NO_FLOOR, ClaimedJob, Floor, Lane, LaneRequest

OURS = "drain, one worker process"
FLOOR = "drain, the same SQL from bare asyncpg"
CONCURRENCY = 400
BATCH = 200


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Ours and the floor in turn, and their ratio."""
    jobs = scale.jobs

    async def ours() -> None:
        report.figure(OURS, "jobs/s").runs.append(jobs / await _drain(dsn, jobs))

    async def floor() -> None:
        report.figure(FLOOR, "jobs/s").runs.append(jobs / await _drain_bare(dsn, jobs))

    await interleaved(scale.runs, ours, floor)
    report.ratio("drain: ours / floor", OURS, FLOOR)


async def fill(database: Database, jobs: int) -> None:
    """Enqueue `jobs` no-op jobs, and let the server come to rest."""
    async with database.sessions.begin() as session:
        await enqueue_many(session, (NewJob("noop", PAYLOAD) for _ in range(jobs)))
    link = database.link()
    # Made once a day by whoever leads; in a new database it would fall into the measurement.
    await partitions.make_ahead(link, days=7)
    await link.fetch("ANALYZE jobs_live")
    await link.fetch("CHECKPOINT")
    await link.close()


async def _drain(dsn: str, jobs: int) -> float:
    handlers = Registry()
    left = jobs
    done = asyncio.Event()

    @handlers.handler("noop")
    async def noop(_payload: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    options = settings(worker_concurrency=CONCURRENCY, claim_batch_size=BATCH)
    async with fresh_database(dsn, options) as database:
        await fill(database, jobs)
        worker = Worker(database, options, handlers=handlers)
        started = time.perf_counter()
        await worker.start()
        await done.wait()
        await worker.stop()  # returns when every outcome is recorded
        return time.perf_counter() - started


async def _drain_bare(dsn: str, jobs: int) -> float:
    """Claim and finish on two connections, as the worker does, and nothing else."""
    async with fresh_database(dsn, settings()) as database:
        await fill(database, jobs)
        claims, settles = database.link(), database.link()
        lane = Lane("default", 2)
        floor, taken = NO_FLOOR, 0
        previous: list[ClaimedJob] = []
        started = time.perf_counter()
        while taken < jobs or previous:
            claimed, _ = await asyncio.gather(
                store.claim(
                    claims,
                    [LaneRequest(lane, floor, BATCH)],
                    ["noop"],
                    limit=BATCH,
                    lease_seconds=30.0,
                    worker_id=1,
                    max_errors=20,
                ),
                store.finish(settles, [(job, SUCCEEDED_EMPTY) for job in previous], max_errors=20),
            )
            taken += len(claimed)
            if claimed:
                floor = min(Floor(job.due_at, job.id) for job in claimed)
            previous = claimed
        seconds = time.perf_counter() - started
        await claims.close()
        await settles.close()
        return seconds
