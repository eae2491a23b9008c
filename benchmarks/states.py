"""States under which queues on PostgreSQL go down: drain and start latency, beside an empty queue.

Two databases of one server, the empty and the full, are measured in turn, so that each ratio is of
two runs that saw the machine in the same mood.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from benchmarks.distribution import milliseconds
from benchmarks.drain import PLAIN, drain_filled
from benchmarks.drain import fill as fill_queue
from benchmarks.history import Contents, fill
from benchmarks.latency import RATE_PER_SECOND, waits_on
from benchmarks.scenario import Report, Scale, fresh_database, interleaved, settings
from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, enqueue_many

READERS: Final = 4
READER_PAUSE_SECONDS: Final = 0.02
READER_ROWS: Final = 1000
MOST_IN_FLIGHT: Final = 10_000
CLAIM_SECONDS: Final = 60.0

Around = Callable[[Database], AbstractAsyncContextManager[Any]]


def _nothing(_: Database) -> AbstractAsyncContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class State:
    """What stands in the database, and what goes on beside each measurement."""

    name: str
    contents: Contents = field(default_factory=Contents)
    around: Around = _nothing


def states(scale: Scale) -> list[State]:
    """Every state, as large as `scale` says: at ten million finished jobs, a million scheduled
    ones and 100,000 dead letters.
    """
    in_flight = min(MOST_IN_FLIGHT, scale.jobs // 10)
    return [
        State(f"{scale.history:,} finished jobs", Contents(finished=scale.history)),
        State(f"{scale.history // 10:,} scheduled jobs", Contents(scheduled=scale.history // 10)),
        State(f"{scale.history // 100:,} dead letters", Contents(dead=scale.history // 100)),
        State(f"{READERS} repeatable-read readers", Contents(finished=READER_ROWS), _readers),
        State(f"{in_flight:,} jobs in flight", around=lambda db: _in_flight(db, in_flight)),
    ]


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Each state in turn, every run of it beside one on the empty queue."""
    for state in states(scale):
        async with (
            fresh_database(dsn, settings()) as empty,
            fresh_database(dsn, settings()) as full,
        ):
            await fill(empty, Contents())  # its partitions: they are no state
            await fill(full, state.contents)
            await _measure_state(report, scale, State("empty"), empty, state, full)


async def _measure_state(
    report: Report, scale: Scale, empty: State, beside: Database, state: State, full: Database
) -> None:
    name = f"empty (beside {state.name})"

    async def drain(label: str, state: State, database: Database) -> None:
        # What the runs before left behind is not of this state.
        await _administer(database, "VACUUM finmind_jobs.jobs_live")
        async with state.around(database):
            await fill_queue(database, scale.jobs)
            seconds, _ = await drain_filled(database, scale.jobs)
        report.figure(f"{label}: drain", "jobs/s").runs.append(scale.jobs / seconds)

    async def start(label: str, state: State, database: Database) -> None:
        async with state.around(database):
            waits = await waits_on(database, int(scale.seconds * RATE_PER_SECOND))
        for share, value in zip(("p50", "p99"), milliseconds(waits, 0.5, 0.99), strict=True):
            report.figure(f"{label}: start, {share}", "ms", better="lower").runs.append(value)

    await interleaved(
        scale.runs,
        lambda: drain(name, empty, beside),
        lambda: drain(state.name, state, full),
        lambda: start(name, empty, beside),
        lambda: start(state.name, state, full),
    )
    for what in ("drain", "start, p99"):
        report.ratio(f"{state.name}: {what} / empty", f"{state.name}: {what}", f"{name}: {what}")


@asynccontextmanager
async def _readers(database: Database) -> AsyncIterator[None]:
    """Readers that each hold one snapshot all the while, and read all the while."""

    async def read(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            while True:
                # One row comes back: the readers' cost is the server's, not this process's. And
                # what they read is in their snapshot: the newest ids would cost them more and more.
                await connection.fetch(
                    "SELECT count(payload->>'message') FROM finmind_jobs.background_jobs"
                    " WHERE status = 'SUCCESS' AND id <= $1",
                    4 * READER_ROWS,
                )
                await asyncio.sleep(READER_PAUSE_SECONDS)

    connections = [await asyncpg.connect(database.dsn) for _ in range(READERS)]
    tasks = [asyncio.create_task(read(connection)) for connection in connections]
    try:
        yield
    finally:
        broken = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            connection.terminate()
        for task in broken:
            task.result()


@asynccontextmanager
async def _in_flight(database: Database, jobs: int) -> AsyncIterator[None]:
    """Another worker, whose handlers all wait, `jobs` of them."""
    handlers = Registry()
    release, all_run = asyncio.Event(), asyncio.Event()
    running = 0

    @handlers.handler("hold")
    async def hold(_payload: object) -> None:
        nonlocal running
        running += 1
        if running == jobs:
            all_run.set()
        await release.wait()

    async with database.sessions.begin() as session:
        await enqueue_many(session, (NewJob("hold", {}, queue="held") for _ in range(jobs)))
    options = settings(
        worker_concurrency=jobs,
        worker_queues="held",
        claim_batch_size=PLAIN.settings().claim_batch_size,
    )
    worker = Worker(database, options, handlers=handlers)
    await worker.start()
    try:
        async with asyncio.timeout(CLAIM_SECONDS):
            await all_run.wait()
        yield
    finally:
        release.set()
        await worker.stop()


async def _administer(database: Database, statement: str) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
