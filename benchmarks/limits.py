"""Limits: drains of jobs that come under one, beside the plain drain; and what plain jobs notice of held ones.

All in turn, each a ratio to the plain drain of its round. A drain whose limit is reached all the time is
bounded by its permits too: each is taken, used by a job that does nothing, and freed when that is recorded.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks import behind_held, semaphores
from benchmarks.drain import PLAIN, Load, check, drain_filled, fill
from benchmarks.scenario import Report, Scale, fresh_database, interleaved
from service.db.engine import Database
from service.jobs import Rate, configure_queue
from service.jobs.core.queue_limits import LimitChange

QUEUE = "default"
KEYED = Load(keys=50)
MANY = 1_000_000
"""A limit that is never reached, and a rate a second far above what is done."""
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Jobs, and what is set for their queue."""

    load: Load = PLAIN
    limits: LimitChange = field(default_factory=LimitChange)
    most: int | None = None
    """The limit that is reached: what must never be exceeded, and was reached in the end."""


PLAIN_NAME = "drain: no keys, no limits"
REACHED = "drain: 50 keys, 10 of each at once"
CASES = {
    "drain: 50 keys, no limit": Case(load=KEYED),
    "drain: queue limit, never reached": Case(limits={"max_running": MANY}),
    "drain: 50 keys, limit never reached": Case(load=KEYED, limits={"max_running_per_key": MANY}),
    REACHED: Case(load=KEYED, limits={"max_running_per_key": 10}, most=10),
    "drain: 50 keys, 3 of each at once": Case(
        load=KEYED, limits={"max_running_per_key": 3}, most=3
    ),
    "drain: a rate that is never reached": Case(limits={"rate": Rate(MANY, 1.0)}),
}
PEER = "drain: 10 of each at once, in Solid Queue's way"
PEER_PLAIN = "drain: no keys, in Solid Queue's way"
PEER_SHARE = 10
"""It is given one job for so many of ours: it takes several statements for each."""


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """All drains in turn, then the delays of plain jobs beside held ones."""

    def timed(name: str, case: Case) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            seconds = await _drain(dsn, scale.jobs, case)
            report.figure(name, "jobs/s").runs.append(scale.jobs / seconds)

        return run

    def peer(name: str, keys: int) -> Callable[[], Awaitable[None]]:
        jobs = scale.jobs // PEER_SHARE

        async def run() -> None:
            seconds = await semaphores.drain(dsn, jobs, keys=keys, limit=10)
            report.figure(name, "jobs/s").runs.append(jobs / seconds)

        return run

    cases = {PLAIN_NAME: Case()} | CASES
    await interleaved(
        scale.runs,
        *(timed(name, case) for name, case in cases.items()),
        peer(PEER, KEYED.keys),
        peer(PEER_PLAIN, 0),
    )
    for name in (*CASES, PEER):
        report.ratio(f"{name} / plain", name, PLAIN_NAME)
    report.ratio(f"{PEER} / its plain", PEER, PEER_PLAIN)
    report.ratio("10 of each at once: ours / Solid Queue's way", REACHED, PEER)
    await behind_held.measure(dsn, report, scale)


async def _drain(dsn: str, jobs: int, case: Case) -> float:
    """Seconds of one drain.

    Raises:
        RuntimeError: a job did not run once, a limit was exceeded or not reached, or permits are left over.
    """
    async with fresh_database(dsn, case.load.settings()) as database:
        async with database.sessions.begin() as session:
            await configure_queue(session, QUEUE, **case.limits)
        await fill(database, jobs, case.load)
        async with _watched(database, case.most):
            seconds, handlers = await drain_filled(database, jobs, case.load)
        await check(database, jobs, case.load, succeeded=handlers.succeeded, failed=0)
        return seconds


@asynccontextmanager
async def _watched(database: Database, limit: int | None) -> AsyncIterator[None]:
    """Look at the permits in use now and then, and at the end, when all must be back."""
    most, over = 0, asyncio.Event()
    connection = await database.connect()
    running = "SELECT COALESCE(max(running), 0) FROM finmind_jobs.job_permits"

    async def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, await connection.fetchval(running))
            await asyncio.sleep(LOOK_SECONDS)

    looks = asyncio.create_task(look())
    try:
        yield
    finally:
        over.set()
        await looks
        left = await connection.fetchval(running)
        await connection.close()
    if left or (limit is not None and most != limit):
        raise RuntimeError(
            f"under a limit of {limit}: {most} permits in use at once, {left} left over"
        )
