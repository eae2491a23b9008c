"""A transaction held open for minutes under a steady load: what its dead rows do to starts and drain.

While it holds an XID and a snapshot, PostgreSQL may remove no row that has gone since, nor any
index entry of one: they pile up in front of the jobs that are due. That is so in every database of the
server: an XID holds back the vacuum of all of them. So the drains without a hold come before it begins,
and what is held against them are medians, of runs that did not see the machine in the same mood.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from benchmarks import feeder
from benchmarks.distribution import milliseconds
from benchmarks.drain import drain_filled, drain_filled_bare, fill
from benchmarks.feeder import Feeder
from benchmarks.scenario import Report, Scale, Series, fresh_database, interleaved, settings
from benchmarks.worker_process import Starts, worker_process
from service.db.engine import Database

RATE_PER_SECOND = 1000
HELD_SECONDS = 120
"""Of holding for each second of the scale: ten minutes at the default of five."""
BESIDE_SECONDS = 12
"""The same for the load before the hold, and for that after it."""
LAST_SECONDS = 60.0
"""The end of the hold, whose starts are told apart."""
WARM_UP_SECONDS = 2.0
CATCH_UP_SECONDS = 120.0
MOST_WITHOUT_FLOORS = 15_000
"""Jobs: without floors each takes much longer."""
FLOOR_P99 = f"start at {RATE_PER_SECOND}/s, bare asyncpg, no hold, p99"
HELD, EMPTY = "at the end of the hold", "no hold"
Drain = Callable[[Database, int], Awaitable[tuple[float, float]]]
"""Seconds until all was done, and until the first job was begun where that is known, or 0."""
BEGUN = "drain, from its first job on"
COLUMNS = (
    "second",
    "held",
    "started jobs/s",
    "p50 ms",
    "p99 ms",
    "backlog",
    "dead rows",
    "table MiB",
    "indexes MiB",
)
SIZES = """
SELECT n_dead_tup::float8, (pg_table_size(relid) / 1048576.0)::float8,
  (pg_indexes_size(relid) / 1048576.0)::float8
FROM pg_stat_user_tables WHERE relname = 'jobs_live'
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen in one moment."""

    at: int
    """On the clock of the waits, in whole seconds."""
    held: bool
    backlog: int
    sizes: tuple[float, ...]


@dataclass(slots=True)
class Watch:
    """A look each second at one worker process under the steady load."""

    database: Database
    load: Feeder
    starts: Starts
    held: bool
    looks: list[Look] = field(default_factory=list)

    async def run(self) -> None:
        """Look until cancelled."""
        connection = await self.database.connect()
        try:
            second = math.ceil(time.monotonic())
            while True:
                # Timers go off early too: what is left of this second would be slept for again.
                await asyncio.sleep(second - time.monotonic())
                sizes = await connection.fetchrow(SIZES)
                assert sizes is not None
                backlog = self.load.sent + self.load.waiting - self.starts.count
                self.looks.append(Look(second, self.held, backlog, tuple(sizes)))
                second = max(second + 1, math.ceil(time.monotonic()))
        finally:
            connection.terminate()

    async def for_seconds(self, seconds: float) -> tuple[float, float]:
        """The steady load for that long; from when until when."""
        begin = time.monotonic()
        await self.load.at_rate(RATE_PER_SECOND, seconds, begin=begin)
        return begin, begin + seconds

    def rows(self, first_second: int) -> list[tuple[float, ...]]:
        """The looks as rows of the series, with what was started in the second before each.

        A second that was over before the look of the one before had its answer has no row.
        """
        rows = []
        for look in self.looks:
            waits = self.starts.waits(look.at - 1, look.at)
            rate = self.starts.started_between(look.at - 1, look.at)
            times = milliseconds(waits, 0.5, 0.99)
            second = first_second + look.at - self.looks[0].at
            rows.append((second, float(look.held), rate, *times, look.backlog, *look.sizes))
        return rows


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Drains on empty databases; the load through the hold, once; drains at its end.

    These want the machine for themselves: the steady load pauses for them, and the series too.
    """
    beside = max(1.0, BESIDE_SECONDS * scale.seconds)
    await _floor(dsn, report, beside)
    await _drains_empty(dsn, report, scale)
    series = Series("held transaction", COLUMNS)
    report.series.append(series)
    async with fresh_database(dsn, settings()) as database, AsyncExitStack() as hold:
        async with _watched(database, held=False) as watch:
            before = await watch.for_seconds(beside)
            await hold.enter_async_context(_held(database))
            watch.held = True
            during = await watch.for_seconds(HELD_SECONDS * scale.seconds)
        last = max(during[0], during[1] - LAST_SECONDS), during[1]
        for name, phase in (("before", before), ("during", during), ("end of", last)):
            _tell_starts(report, name, watch.starts, phase)
        series.rows += watch.rows(0)
        await _drains_held(database, report, scale)
        async with _watched(database, held=True) as watch:
            await hold.aclose()
            watch.held = False
            after = await watch.for_seconds(beside)
        _tell_starts(report, "after", watch.starts, after)
        series.rows += watch.rows(int(series.rows[-1][0]) + 1)
    for name in ("during", "end of", "after"):
        report.ratio(f"start p99 {name} / before the hold", _p99(name), _p99("before"))


async def _floor(dsn: str, report: Report, seconds: float) -> None:
    """The same load with the same SQL from bare asyncpg, on an empty database."""
    async with (
        fresh_database(dsn, settings()) as database,
        worker_process(database.dsn, bare=True) as starts,
        feeder.bare(database) as send,
    ):
        load = Feeder(send)
        async with load.sending():
            begin = time.monotonic() + WARM_UP_SECONDS
            await load.at_rate(
                RATE_PER_SECOND, WARM_UP_SECONDS + seconds, begin=begin - WARM_UP_SECONDS
            )
        await starts.reach(load.sent, seconds=CATCH_UP_SECONDS)
        (p99,) = milliseconds(starts.waits(begin, begin + seconds), 0.99)
    report.figure(FLOOR_P99, "ms", better="lower").runs.append(p99)


def _p99(phase: str) -> str:
    return f"start at {RATE_PER_SECOND}/s, {phase} the hold, p99"


def _tell_starts(report: Report, name: str, starts: Starts, phase: tuple[float, float]) -> None:
    p50, p99 = milliseconds(starts.waits(*phase), 0.5, 0.99)
    report.figure(_p99(name).replace("p99", "p50"), "ms", better="lower").runs.append(p50)
    report.figure(_p99(name), "ms", better="lower").runs.append(p99)


async def _ours(database: Database, jobs: int) -> tuple[float, float]:
    seconds, handlers = await drain_filled(database, jobs)
    return seconds, handlers.first_after_seconds


async def _bare(database: Database, jobs: int) -> tuple[float, float]:
    return await drain_filled_bare(database, jobs), 0.0


async def _without_floors(database: Database, jobs: int) -> tuple[float, float]:
    return await drain_filled_bare(database, jobs, floors=False), 0.0


DRAINS: dict[str, Drain] = {"drain": _ours, "drain, bare asyncpg": _bare}


async def _drains_empty(dsn: str, report: Report, scale: Scale) -> None:
    """Ours and the floor in turn, each in an empty database."""

    async def one(title: str, drain: Drain) -> None:
        async with fresh_database(dsn, settings()) as database:
            await _drain(database, report, title, EMPTY, drain, scale.jobs)

    await interleaved(scale.runs, *(partial(one, *drain) for drain in DRAINS.items()))


async def _drains_held(held: Database, report: Report, scale: Scale) -> None:
    """The same behind the dead rows; and once without floors."""
    await interleaved(
        scale.runs,
        *(
            partial(_drain, held, report, title, HELD, drain, scale.jobs)
            for title, drain in DRAINS.items()
        ),
    )
    for title in (*DRAINS, BEGUN):
        report.ratio_of_medians(f"{title}: held / empty", f"{title}, {HELD}", f"{title}, {EMPTY}")
    few = min(scale.jobs, MOST_WITHOUT_FLOORS)
    name = "drain, bare asyncpg without floors"
    await _drain(held, report, name, HELD, _without_floors, few)


async def _drain(
    database: Database, report: Report, title: str, where: str, drain: Drain, jobs: int
) -> None:
    await fill(database, jobs)
    seconds, first = await drain(database, jobs)
    report.figure(f"{title}, {where}", "jobs/s").runs.append(jobs / seconds)
    if first:
        figure = report.figure(f"worker start to its first job, {where}", "ms", better="lower")
        figure.runs.append(1000 * first)
        report.figure(f"{BEGUN}, {where}", "jobs/s").runs.append(jobs / (seconds - first))


@asynccontextmanager
async def _held(database: Database) -> AsyncIterator[None]:
    """A transaction with an XID and a snapshot, idle until the end."""
    connection = await database.connect()
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.execute("SELECT pg_current_xact_id()")
        await connection.execute("SELECT count(*) FROM finmind_jobs.job_workers")
        yield
        await connection.execute("ROLLBACK")
    finally:
        connection.terminate()


@asynccontextmanager
async def _watched(database: Database, *, held: bool) -> AsyncIterator[Watch]:
    """A warm worker process under the load, looked at; at the end every job was started."""
    async with worker_process(database.dsn) as starts:
        load = Feeder(feeder.by_engine(database))
        watch = Watch(database, load, starts, held)
        async with load.sending():
            await watch.for_seconds(WARM_UP_SECONDS)
            looking = asyncio.create_task(watch.run())
            try:
                yield watch
            finally:
                looking.cancel()
        await starts.reach(load.sent, seconds=CATCH_UP_SECONDS)
