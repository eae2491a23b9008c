"""Jobs in groups: a handler whose calls cost 5 ms each, called for one job and for up to 100."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.drain import UNTUNED, Load, bound_seconds, fill
from benchmarks.scenario import Report, Scale, fresh_database, interleaved, settings
from service.db.engine import Database
from service.jobs import ChunkJob, Registry, Worker

CALL_SECONDS = 0.005
CHUNK = 100
TWICE = Load(slots=2 * CHUNK)
"""One chunk fills while another runs."""

SINGLE, SINGLE_IN_TURN = "one job a call", "one job a call, calls in turn"
CHUNKS, CHUNKS_IN_TURN = "chunk=100", "chunk=100, calls in turn"


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Calls that overlap, as those of a service that takes many at once; and calls in turn."""

    def timed(name: str, *, chunk: int | None, in_turn: bool) -> Callable[[], Awaitable[None]]:
        jobs = max(1_000, scale.jobs // 100) if in_turn and chunk is None else scale.jobs

        async def run() -> None:
            seconds = await drain_in_groups(dsn, jobs, chunk=chunk, in_turn=in_turn)
            report.figure(f"drain of 5 ms a call: {name}", "jobs/s").runs.append(jobs / seconds)

        return run

    await interleaved(
        scale.runs,
        timed(SINGLE, chunk=None, in_turn=False),
        timed(CHUNKS, chunk=CHUNK, in_turn=False),
        timed(SINGLE_IN_TURN, chunk=None, in_turn=True),
        timed(CHUNKS_IN_TURN, chunk=CHUNK, in_turn=True),
    )
    for what, single, chunks in (
        ("calls overlap", SINGLE, CHUNKS),
        ("calls in turn", SINGLE_IN_TURN, CHUNKS_IN_TURN),
    ):
        prefix = "drain of 5 ms a call: "
        report.ratio(f"chunk=100 / one job a call, {what}", prefix + chunks, prefix + single)


async def drain_in_groups(dsn: str, jobs: int, *, chunk: int | None, in_turn: bool) -> float:
    """Seconds from the start of one worker with 200 slots until every outcome is recorded."""
    options = settings(worker_concurrency=TWICE.slots)
    async with fresh_database(dsn, options) as database:
        await fill(database, jobs, UNTUNED)
        handlers, done = _handlers(jobs, chunk, asyncio.Semaphore(1 if in_turn else jobs))
        worker = Worker(database, options, handlers=handlers)
        started = time.perf_counter()
        await worker.start()
        async with asyncio.timeout(bound_seconds(jobs)):
            await done.wait()
        await worker.stop()  # returns when every outcome is recorded
        seconds = time.perf_counter() - started
        await _check(database, jobs)
        return seconds


def _handlers(
    jobs: int, chunk: int | None, calls: asyncio.Semaphore
) -> tuple[Registry, asyncio.Event]:
    handlers, done, left = Registry(), asyncio.Event(), [jobs]

    async def call(count: int) -> None:
        async with calls:
            await asyncio.sleep(CALL_SECONDS)
        left[0] -= count
        if not left[0]:
            done.set()

    async def one(_payload: object) -> None:
        await call(1)

    async def group(given: list[ChunkJob[Any]]) -> None:
        await call(len(given))

    handlers.handler("noop", chunk=chunk)(one if chunk is None else group)
    return handlers, done


async def _check(database: Database, jobs: int) -> None:
    connection = await database.connect()
    ended = await connection.fetchval(
        "SELECT count(*) FROM finmind_jobs.background_jobs WHERE status = 'SUCCESS' AND attempts = 1"
    )
    await connection.close()
    if ended != jobs:
        raise RuntimeError(f"{ended} jobs succeeded in their first attempt instead of {jobs}")
