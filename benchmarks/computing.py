"""Handlers that compute: in threads, and in one and two processes of their own."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.drain import bound_seconds
from benchmarks.scenario import Report, Scale, fresh_database, interleaved, settings
from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, enqueue_many
from service.jobs.maintenance import partitions

ROUNDS = 500_000
"""Of a loop: some 30 ms of one core."""
SOME_LEFT = "SELECT EXISTS (SELECT FROM finmind_jobs.jobs_live)"
WAYS: tuple[tuple[str, int | None], ...] = (
    ("threads", None),
    ("1 process", 1),
    ("2 processes", 2),
)


def compute(rounds: int) -> int:
    """Hold the interpreter's lock for a while."""
    total = 0
    for n in range(rounds):
        total += n * n
    return total


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """How far it scales, and what an attempt costs that does nothing."""
    for what, rounds, jobs in (
        ("computing 30 ms", ROUNDS, max(40, scale.jobs // 100)),
        ("doing nothing", 0, max(400, scale.jobs // 10)),
    ):
        figures = {processes: f"{what}: {name}" for name, processes in WAYS}

        def timed(
            processes: int | None,
            *,
            rounds: int = rounds,
            jobs: int = jobs,
            figures: dict[int | None, str] = figures,
        ) -> Callable[[], Awaitable[None]]:
            async def run() -> None:
                seconds = await drain(dsn, jobs, rounds, processes)
                report.figure(figures[processes], "jobs/s").runs.append(jobs / seconds)

            return run

        await interleaved(scale.runs, *(timed(processes) for _, processes in WAYS))
        report.ratio(f"{what}: 2 processes / 1", figures[2], figures[1])
        report.ratio(f"{what}: 2 processes / threads", figures[2], figures[None])


async def drain(dsn: str, jobs: int, rounds: int, processes: int | None) -> float:
    """Seconds until all have ended, in processes that run already."""
    options = settings(handler_processes=processes or 1)
    async with fresh_database(dsn, options) as database:
        handlers = Registry()
        register = handlers.handler("compute", executor=None if processes is None else "process")
        register(compute)
        link = database.link()
        await partitions.make_ahead(link, days=7)
        await link.close()
        worker = Worker(database, options, handlers=handlers)
        await worker.start()
        await _run(database, 2 * (processes or 1), rounds)
        started = time.perf_counter()
        await _run(database, jobs, rounds)
        seconds = time.perf_counter() - started
        await worker.stop()
        return seconds


async def _run(database: Database, jobs: int, rounds: int) -> None:
    async with database.sessions.begin() as session:
        await enqueue_many(session, (NewJob("compute", rounds) for _ in range(jobs)))
    connection = await database.connect()
    async with asyncio.timeout(bound_seconds(jobs)):
        while await connection.fetchval(SOME_LEFT):  # noqa: ASYNC110 - looks at other processes' work
            await asyncio.sleep(0.01)
    await connection.close()
