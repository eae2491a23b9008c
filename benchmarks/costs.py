"""Costs: what a job asks of PostgreSQL, in counts that no machine's speed changes.

Bytes of write-ahead log, commits, statements, share of HOT updates, bytes on disk. Only the sizes
of the engine's batches depend a little on timing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import asyncpg

from benchmarks.drain import PLAIN, drain_filled
from benchmarks.scenario import PAYLOAD, Report, Scale, fresh_database, settings
from benchmarks.statement_counter import StatementCounter
from benchmarks.wal import record_types
from service.db.engine import Database
from service.jobs import Intake, NewJob, enqueue_many
from service.jobs.maintenance import partitions
from service.jobs.notify.publisher import publisher_for

SINGLE_JOBS = 5000
"""At most so many jobs are enqueued one after another: each waits for its own commit."""

RECORDS = "WAL without page images"
"""Page images are what a change after a checkpoint adds: their number depends on how often one is
made, not on the engine. Each phase here begins right after one, so its raw WAL is the worst case."""

SHOWN_SHARE = 0.02
"""Record types with a smaller share of the bytes are left out."""

CLUSTER = """
SELECT pg_current_wal_lsn()::text AS lsn, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal_bytes,
  (SELECT xact_commit FROM pg_stat_database WHERE datname = $1) AS commits
"""
UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs_live'"
FINISHED = """
SELECT sum(pg_table_size(relid)) AS table_bytes, sum(pg_indexes_size(relid)) AS index_bytes
FROM pg_partition_tree('finmind_jobs.jobs_done') WHERE isleaf
"""
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = $1 AND backend_type IN ('client backend', 'autovacuum worker')
"""


@dataclass(slots=True)
class Meter:
    """Reads the counters of one database before and after a phase."""

    server_dsn: str
    report: Report
    database: Database
    counter: StatementCounter

    async def phase(self, name: str, jobs: int, action: Callable[[], Awaitable[None]]) -> None:
        """Run one phase and report what each job of it cost."""
        before = await self._cluster()
        self.counter.executed.clear()
        await action()
        statements = self.counter.executed.total()
        after = await self._cluster()
        self._add(f"{name}: WAL", "B/job", float(after["wal_bytes"] - before["wal_bytes"]) / jobs)
        kinds = await record_types(self.server_dsn, before["lsn"], after["lsn"])
        records = sum(kind.record_bytes for kind in kinds)
        if kinds:
            self._add(f"{name}: {RECORDS}", "B/job", records / jobs)
        for kind in sorted(kinds, key=lambda kind: -kind.record_bytes):
            if kind.record_bytes > SHOWN_SHARE * records:
                self._add(f"{name}:   {kind.name}", "B/job", kind.record_bytes / jobs)
                self._add(f"{name}:   {kind.name}, records", "per job", kind.count / jobs)
        commits = 1000 * (after["commits"] - before["commits"]) / jobs
        self._add(f"{name}: commits", "per 1,000 jobs", commits)
        self._add(f"{name}: statements", "per 1,000 jobs", 1000 * statements / jobs)

    async def state(self, finished: int) -> None:
        """Report what the tables say afterwards."""
        connection = await self.database.connect()
        try:
            updates = await connection.fetchrow(UPDATES)
            sizes = await connection.fetchrow(FINISHED)
        finally:
            await connection.close()
        assert updates
        assert sizes
        share = 100 * updates["n_tup_hot_upd"] / max(1, updates["n_tup_upd"])
        self._add("HOT share of updates on jobs_live", "%", share, better="higher")
        self._add("finished job, table", "B/job", float(sizes["table_bytes"]) / finished)
        self._add("finished job, indexes", "B/job", float(sizes["index_bytes"]) / finished)

    def _add(self, name: str, unit: str, value: float, *, better: str = "lower") -> None:
        self.report.figure(name, unit, better=better).runs.append(value)

    async def _cluster(self) -> asyncpg.Record:
        """The counters, once nobody uses the database: at its end each backend tells all it did."""
        await publisher_for(self.database.engine).close()
        await self.database.close()
        name = urlsplit(self.database.dsn).path[1:]
        connection = await asyncpg.connect(self.server_dsn)
        try:
            async with asyncio.timeout(60):
                while await connection.fetchval(OTHERS, name):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            row = await connection.fetchrow(CLUSTER, name)
        finally:
            await connection.close()
        assert row
        return row


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Enqueue in bulk and drain; enqueue singly: each phase by itself."""
    for _ in range(scale.runs):
        async with _meter(dsn, report) as (meter, database):
            jobs = scale.jobs
            await meter.phase("enqueue_many", jobs, partial(_enqueue_many, database, jobs))
            await _come_to_rest(database)
            await meter.phase("drain", jobs, partial(_drain, database, jobs))
            await meter.state(jobs)
        async with _meter(dsn, report) as (meter, database):
            jobs = min(scale.jobs, SINGLE_JOBS)
            await meter.phase("enqueue singly", jobs, partial(_enqueue_singly, database, jobs))
    _add_up(report)


def _add_up(report: Report) -> None:
    """Report what a job costs from its enqueue to its end, where records can be read."""
    parts = [f"{phase}: {RECORDS}" for phase in ("enqueue_many", "drain")]
    if parts[0] in {figure.name for figure in report.figures}:
        enqueued, drained = (report.figure(name, "B/job").runs for name in parts)
        report.figure("enqueue_many to settled: " + RECORDS, "B/job", better="lower").runs = [
            sum(pair) for pair in zip(enqueued, drained, strict=True)
        ]


@asynccontextmanager
async def _meter(dsn: str, report: Report) -> AsyncIterator[tuple[Meter, Database]]:
    async with fresh_database(dsn, settings()) as made, StatementCounter(made.dsn) as counter:
        await made.close()
        database = Database(counter.dsn, PLAIN.settings())
        await _come_to_rest(database)
        yield Meter(dsn, report, database, counter), database


async def _come_to_rest(database: Database) -> None:
    """So that no phase pays for what stood before: but for the page images of a checkpoint."""
    link = database.link()
    await partitions.make_ahead(link, days=7)
    await link.fetch("ANALYZE finmind_jobs.jobs_live")
    await link.fetch("CHECKPOINT")
    await link.close()


async def _enqueue_many(database: Database, jobs: int) -> None:
    async with database.sessions.begin() as session:
        await enqueue_many(session, (NewJob("noop", PAYLOAD) for _ in range(jobs)))


async def _enqueue_singly(database: Database, jobs: int) -> None:
    intake = Intake(database, settings())
    for _ in range(jobs):
        await intake.submit(NewJob("noop", PAYLOAD))
    await intake.stop()


async def _drain(database: Database, jobs: int) -> None:
    await drain_filled(database, jobs)
