"""Offered load: fixed rates around the capacity, latency from the intended moment of sending.

One process enqueues in small batches at exact moments, another works. A job's wait begins when it
should have been sent, so that neither a late sender nor a full queue hides any of it.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks import feeder
from benchmarks.distribution import milliseconds
from benchmarks.drain import PLAIN
from benchmarks.feeder import Feeder
from benchmarks.scenario import Report, Scale, Series, fresh_database, interleaved, settings
from benchmarks.worker_process import Starts, worker_process

SHARES = (0.5, 0.8, 1.0, 1.2)
"""Of the capacity."""
WINDOW = 2000
"""Jobs on their way while the capacity is measured: enough that neither side waits."""
WARM_UP_SECONDS = 1.0
CATCH_UP_SECONDS = 60.0
COLUMNS = (
    "share of capacity",
    "offered jobs/s",
    "started jobs/s",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "sent late, p99 ms",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Ours, or the floor."""

    name: str
    bare: bool
    curve: Series

    @asynccontextmanager
    async def running(self, dsn: str) -> AsyncIterator[tuple[Feeder, Starts]]:
        """Both sides on a new database, ready."""
        async with (
            fresh_database(dsn, settings()) as database,
            worker_process(database.dsn, concurrency=PLAIN.slots, bare=self.bare) as starts,
        ):
            if self.bare:
                async with feeder.bare(database) as send:
                    yield Feeder(send), starts
            else:
                yield Feeder(feeder.by_engine(database)), starts


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Ours and the floor in turn: the capacity, then each rate."""
    both = (
        Setting("enqueue and run together", False, Series("offered: ours", COLUMNS)),
        Setting("enqueue and run together, bare asyncpg", True, Series("offered: floor", COLUMNS)),
    )
    report.series += [one.curve for one in both]

    async def ours() -> None:
        await _one_run(dsn, report, scale.seconds, both[0])

    async def floor() -> None:
        await _one_run(dsn, report, scale.seconds, both[1])

    await interleaved(scale.runs, ours, floor)
    report.ratio("enqueue and run together: ours / floor", both[0].name, both[1].name)


async def _one_run(dsn: str, report: Report, seconds: float, setting: Setting) -> None:
    capacity = await _capacity(dsn, seconds, setting)
    report.figure(setting.name, "jobs/s").runs.append(capacity)
    for share in SHARES:
        row = await _at_rate(dsn, share * capacity, seconds, setting)
        setting.curve.rows.append((share, *row))
        title = f"{setting.name}, at {share:.0%}"
        report.figure(f"{title}, started", "jobs/s").runs.append(row[1])
        for name, value in zip(("p50", "p99"), (row[2], row[4]), strict=True):
            report.figure(f"{title}, {name}", "ms", better="lower").runs.append(value)


async def _capacity(dsn: str, seconds: float, setting: Setting) -> float:
    async with setting.running(dsn) as (load, starts):
        async with load.sending():
            await load.up_to(WINDOW, WARM_UP_SECONDS, starts=starts)
            begin, before = time.monotonic(), starts.count
            await load.up_to(WINDOW, seconds, starts=starts)
            rate = (starts.count - before) / (time.monotonic() - begin)
        await starts.reach(load.sent, seconds=CATCH_UP_SECONDS)
        return rate


async def _at_rate(dsn: str, rate: float, seconds: float, setting: Setting) -> tuple[float, ...]:
    """A row of the curve but for its first column."""
    async with setting.running(dsn) as (load, starts):
        async with load.sending():
            # Warm, and without a pause into what is measured.
            begin = time.monotonic() + WARM_UP_SECONDS
            await load.at_rate(rate, WARM_UP_SECONDS + seconds, begin=begin - WARM_UP_SECONDS)
        await starts.reach(load.sent, seconds=CATCH_UP_SECONDS + seconds)
        end = begin + seconds
        waits = starts.waits(begin, end)
        late = milliseconds(load.late, 0.99)
        return (
            len(waits) / seconds,
            starts.started_between(begin, end) / seconds,
            *milliseconds(waits, 0.5, 0.9, 0.99, 0.999, 1.0),
            *late,
        )
