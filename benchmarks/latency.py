"""Latency: from the intended call of enqueue to the start of the handler, on an idle worker."""

import asyncio
import statistics
import time

from benchmarks.distribution import milliseconds
from benchmarks.scenario import Report, Scale, fresh_database, interleaved, settings
from benchmarks.worker_process import JOB_TYPE, SINCE, worker_process
from service.db.engine import Database
from service.jobs import Intake, NewJob, Registry, Worker, enqueue

RATE_PER_SECOND = 100
ELSEWHERE = "enqueue to start at 100/s, another process"


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Jobs at a fixed rate, timed from the intended moment of the call; and one round trip."""

    async def ours() -> None:
        async with fresh_database(dsn, settings()) as database:
            waits = sorted(await waits_on(database, int(scale.seconds * RATE_PER_SECOND)))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            figure = report.figure(f"enqueue to start at 100/s, {name}", "ms", better="lower")
            figure.runs.append(1000 * waits[int(share * (len(waits) - 1))])

    async def elsewhere() -> None:
        waits = await _waits_elsewhere(dsn, int(scale.seconds * RATE_PER_SECOND))
        for name, value in zip(("p50", "p99"), milliseconds(waits, 0.5, 0.99), strict=True):
            figure = report.figure(f"{ELSEWHERE}, {name}", "ms", better="lower")
            figure.runs.append(value)

    async def floor() -> None:
        async with fresh_database(dsn, settings()) as database:
            connection = await database.connect()
            await connection.execute("CREATE TABLE t (id bigserial PRIMARY KEY, body text)")
            times = []
            for _ in range(200):
                started = time.perf_counter()
                await connection.execute("INSERT INTO t (body) VALUES ('x')")
                times.append(time.perf_counter() - started)
            await connection.close()
        figure = report.figure("one INSERT and its commit, bare asyncpg, p50", "ms", better="lower")
        figure.runs.append(1000 * statistics.median(times))

    await interleaved(scale.runs, ours, elsewhere, floor)


async def waits_on(database: Database, jobs: int) -> list[float]:
    """From the intended moment of the call to the start in the same process, in seconds.

    Without the warm-up.
    """
    handlers = Registry()
    started_at: dict[int, float] = {}
    all_started = asyncio.Event()

    @handlers.handler("stamp")
    async def stamp(payload: dict[str, int]) -> None:
        started_at[payload["n"]] = time.perf_counter()
        if len(started_at) == jobs:
            all_started.set()

    options = settings()
    worker, intake = Worker(database, options, handlers=handlers), Intake(database, options)
    await worker.start()
    await asyncio.sleep(1.0)  # idle, and its statements prepared by nothing yet
    since: dict[int, float] = {}

    async def call(number: int, when: float) -> None:
        await asyncio.sleep(max(0.0, when - time.perf_counter()))
        since[number] = min(when, time.perf_counter())  # timers go off early too
        await intake.submit(NewJob("stamp", {"n": number}))

    begin = time.perf_counter() + 0.1
    async with asyncio.TaskGroup() as calls:
        for number in range(jobs):
            calls.create_task(call(number, begin + number / RATE_PER_SECOND))
    async with asyncio.timeout(60):
        await all_started.wait()
    await worker.stop()
    await intake.stop()
    # The first second warms up: connections, statements, caches.
    return [started_at[n] - since[n] for n in range(min(RATE_PER_SECOND, jobs // 2), jobs)]


async def _waits_elsewhere(dsn: str, jobs: int) -> list[float]:
    """The same for the call of an application and a worker in a process of its own."""
    async with fresh_database(dsn, settings()) as database, worker_process(database.dsn) as starts:
        await asyncio.sleep(1.0)  # idle, as above

        async def call(when: float) -> None:
            await asyncio.sleep(max(0.0, when - time.monotonic()))
            since = min(when, time.monotonic())
            async with database.sessions.begin() as session:
                await enqueue(session, JOB_TYPE, {SINCE: since})

        begin = time.monotonic() + 0.1
        async with asyncio.TaskGroup() as calls:
            for number in range(jobs):
                calls.create_task(call(begin + number / RATE_PER_SECOND))
        await starts.reach(jobs, seconds=60)
        warm_up = min(RATE_PER_SECOND, jobs // 2) / RATE_PER_SECOND
        return starts.waits(begin + warm_up, begin + jobs)
