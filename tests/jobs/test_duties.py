"""One duty of the leader hinders no other, and each does its whole work and no more."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import Registry
from service.jobs.maintenance import BATCH, FOLD_ABOVE_ROWS, Maintenance
from tests.jobs.conftest import Quick
from tests.jobs.waiting import until, until_true

TIMED_OUT = 0.3

KEYS = """
INSERT INTO idempotency_keys (key, owner, body_hash, job_ids, created_at)
SELECT 'k' || n, 'me', '', '{}', now() - make_interval(hours => $1::int)
FROM generate_series(1, $2::int) n"""

COUNTS = """
INSERT INTO job_stats (queue, job_type, status, day, jobs)
SELECT 'default', 'type' || n, 'SUCCESS', current_date, 1 FROM generate_series(1, $1::int) n"""

DAYS_AHEAD = """
SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'jobs_done'::regclass
  AND c.relname > 'jobs_done_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')
  AND c.relname <> 'jobs_done_default'"""


@pytest.fixture
async def maintenance(
    database: Database, handlers: Registry, quick: Quick
) -> AsyncIterator[Maintenance]:
    one = Maintenance(database, quick(unknown_type_grace_seconds=0), handlers=handlers)
    yield one
    await one.close()


@pytest.fixture
async def hurried(pg_dsn: str, handlers: Registry, quick: Quick) -> AsyncIterator[Maintenance]:
    """One whose statements time out before long."""
    settings = quick(unknown_type_grace_seconds=0, database_command_timeout_seconds=TIMED_OUT)
    database = Database(pg_dsn, settings)
    one = Maintenance(database, settings, handlers=handlers)
    yield one
    await one.close()
    await database.close()


async def test_all_expired_idempotency_keys_go_in_one_round(
    sql: Any, maintenance: Maintenance
) -> None:
    await sql.execute(KEYS, 10_000, 3 * BATCH)
    await sql.execute(KEYS.replace("'k'", "'young'"), 0, 5)
    await maintenance._apply_retention()
    kept = await sql.fetch("SELECT left(key, 5), count(*) FROM idempotency_keys GROUP BY 1")
    assert dict(kept) == {"young": 5}


async def test_a_duty_that_times_out_keeps_no_other_from_its_turn(
    sql: Any, hurried: Maintenance
) -> None:
    assert await hurried._lead()
    async with sql.transaction():
        await sql.execute("LOCK TABLE job_stats, job_workers IN ACCESS EXCLUSIVE MODE")
        await hurried.do_duties()
    assert await sql.fetchval(DAYS_AHEAD) > 0


async def test_a_duty_that_times_out_does_not_end_the_leadership(
    sql: Any, hurried: Maintenance
) -> None:
    async def leads() -> bool:
        return hurried._leads_since is not None

    task = asyncio.create_task(hurried.run())
    try:
        await until(leads)
        since, pid = hurried._leads_since, (await backend(hurried))
        async with sql.transaction():
            await sql.execute("LOCK TABLE job_stats, job_workers IN ACCESS EXCLUSIVE MODE")
            rounds = hurried._next_walk = 0.0  # a slow walk puts the next off by far
            # Gauges are read after the duties that the lock holds up.
            await until_true(lambda: hurried._next_walk > rounds)
        assert (hurried._leads_since, await backend(hurried)) == (since, pid)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def backend(maintenance: Maintenance) -> int:
    return (await maintenance._leadership.connection()).get_server_pid()


async def test_counts_of_many_groups_are_rewritten_only_when_there_is_something_to_fold(
    sql: Any, maintenance: Maintenance
) -> None:
    versions = "SELECT count(*), min(xmin::text::bigint), max(xmin::text::bigint) FROM job_stats"
    groups = FOLD_ABOVE_ROWS + 100
    await sql.execute(COUNTS, groups)
    await sql.execute(COUNTS, groups)
    await maintenance._fold_stats()
    folded = await sql.fetchrow(versions)
    assert folded[0] == groups
    for _ in range(3):
        await maintenance._fold_stats()
    assert await sql.fetchrow(versions) == folded
    for _ in range(3):
        await sql.execute(COUNTS, groups)
    await maintenance._fold_stats()
    assert await sql.fetchval("SELECT count(*) FROM job_stats") == groups
    assert await sql.fetchval("SELECT sum(jobs) FROM job_stats") == 5 * groups
