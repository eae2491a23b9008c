"""Schedules: a thousand that are due at one moment, from their tick to the start of their handlers.

Target: p99 at most 1 s. The schedules are cron expressions in a zone, each with overlap `skip` and a
ledger; their next tick is moved to one moment a few seconds ahead, as if it were the full minute. The
database, one process that ticks, and its worker share the machine.
"""

import asyncio
import time
from datetime import datetime
from typing import Any, Final

from benchmarks.distribution import milliseconds
from benchmarks.scenario import Report, Scale, fresh_database, settings
from service.db.engine import Database
from service.jobs import Registry, Worker
from service.schedules import managing
from service.schedules.model import Definition
from service.schedules.ticker import Ticker
from service.schedules.timing import Timing

SCHEDULES: Final = 1000
AHEAD_SECONDS: Final = 3
LIMIT_SECONDS: Final = 60.0
JOB_TYPE: Final = "scheduled"


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """`--runs` times."""
    for _ in range(scale.runs):
        waits = await _one_run(dsn)
        p50, p99, longest = milliseconds(waits, 0.5, 0.99, 1.0)
        for name, value in (("p50", p50), ("p99", p99), ("longest", longest)):
            title = f"{SCHEDULES:,} schedules at one moment, tick to start, {name}"
            report.figure(title, "ms", better="lower").runs.append(value)


async def _one_run(dsn: str) -> list[float]:
    """Seconds from the tick to the start of each handler."""
    options = settings()
    waits: list[float] = []
    handlers = Registry()

    @handlers.handler(JOB_TYPE)
    async def run(payload: Any) -> None:
        planned = datetime.fromisoformat(payload["tick"]["planned_at"])
        waits.append(time.time() - planned.timestamp())

    async with fresh_database(dsn, options) as database:
        await _fill(database)
        worker, ticker = Worker(database, options, handlers=handlers), Ticker(database, options)
        await worker.start()
        await ticker.start()
        try:
            await asyncio.sleep(2.0)  # connections, statements, caches
            await _move_ticks(database)
            async with asyncio.timeout(LIMIT_SECONDS):
                while len(waits) < SCHEDULES:  # noqa: ASYNC110 - what it looks at is a list
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
        finally:
            await ticker.stop()
            await worker.stop()
    if len(waits) != SCHEDULES:
        raise RuntimeError(f"{len(waits)} jobs ran for {SCHEDULES} ticks")
    return waits


async def _fill(database: Database) -> None:
    async with database.sessions.begin() as session:
        for number in range(SCHEDULES):
            # Of different rules, whose next ticks cannot be remembered from one to the next.
            timing = Timing(f"{number % 60} {number // 60} 1 1 *", zone="Europe/Berlin")
            definition = Definition(
                timing=timing,
                job_type=JOB_TYPE,
                payload={"number": number},
                queue="default",
                tick_member="tick",
            )
            await managing.create(
                session, f"schedule-{number}", definition, max_schedules=SCHEDULES
            )


async def _move_ticks(database: Database) -> None:
    connection = await database.connect()
    await connection.execute(
        "UPDATE finmind_jobs.schedules SET (next_tick_at, due_at) = (SELECT m, m FROM (SELECT"
        " date_trunc('second', now()) + make_interval(secs => $1)) AS x (m))",
        AHEAD_SECONDS,
    )
    await connection.close()
