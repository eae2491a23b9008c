"""One duty of the leader hinders no other, and each does its whole work and no more."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import Registry
from service.jobs.maintenance import partitions, retention
from service.jobs.maintenance.kept_counts import FOLD_ABOVE_ROWS
from service.jobs.maintenance.maintainer import Maintainer
from service.jobs.maintenance.quiet import QUIET_ROUNDS, ROUNDS_AFTER_JOBS, Quiet
from service.jobs.maintenance.retention import BATCH
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
) -> AsyncIterator[Maintainer]:
    one = Maintainer(database, quick(unknown_type_grace_seconds=0), handlers=handlers)
    yield one
    await one.close()


@pytest.fixture
async def hurried(pg_dsn: str, handlers: Registry, quick: Quick) -> AsyncIterator[Maintainer]:
    """One whose statements time out before long."""
    settings = quick(unknown_type_grace_seconds=0, database_command_timeout_seconds=TIMED_OUT)
    database = Database(pg_dsn, settings)
    one = Maintainer(database, settings, handlers=handlers)
    yield one
    await one.close()
    await database.close()


async def test_all_expired_idempotency_keys_go_in_one_round(
    sql: Any, maintenance: Maintainer
) -> None:
    await sql.execute(KEYS, 10_000, 3 * BATCH)
    await sql.execute(KEYS.replace("'k'", "'young'"), 0, 5)
    await retention.drop_old(maintenance._link, maintenance._settings)
    kept = await sql.fetch("SELECT left(key, 5), count(*) FROM idempotency_keys GROUP BY 1")
    assert dict(kept) == {"young": 5}


@pytest.mark.whole
async def test_a_duty_that_times_out_keeps_no_other_from_its_turn(
    sql: Any, hurried: Maintainer
) -> None:
    assert await hurried.leader.lead()
    async with sql.transaction():
        await sql.execute("LOCK TABLE job_stats, job_workers IN ACCESS EXCLUSIVE MODE")
        await hurried.do_duties()
    assert await sql.fetchval(DAYS_AHEAD) > 0


async def test_a_duty_that_times_out_does_not_end_the_leadership(
    sql: Any, hurried: Maintainer
) -> None:
    async def leads() -> bool:
        return hurried.leader.since is not None

    task = asyncio.create_task(hurried.run())
    try:
        await until(leads)
        since, pid = hurried.leader.since, (await backend(hurried))
        async with sql.transaction():
            await sql.execute("LOCK TABLE job_stats, job_workers IN ACCESS EXCLUSIVE MODE")
            rounds = hurried._next_walk = 0.0  # a slow walk puts the next off by far
            # Gauges are read after the duties that the lock holds up.
            await until_true(lambda: hurried._next_walk > rounds)
        assert (hurried.leader.since, await backend(hurried)) == (since, pid)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def backend(maintenance: Maintainer) -> int:
    return (await maintenance.leader._link.connection()).get_server_pid()


async def test_counts_are_rewritten_only_when_there_is_something_to_fold(
    sql: Any, maintenance: Maintainer
) -> None:
    versions = "SELECT count(*), min(xmin::text::bigint), max(xmin::text::bigint) FROM job_stats"
    groups = FOLD_ABOVE_ROWS + 100
    await sql.execute(COUNTS, groups)
    await sql.execute(COUNTS, groups)
    await maintenance._kept_counts.fold()
    folded = await sql.fetchrow(versions)
    assert folded[0] == groups
    for _ in range(3):
        await maintenance._kept_counts.fold()
    assert await sql.fetchrow(versions) == folded
    for _ in range(3):
        await sql.execute(COUNTS, groups)
    await maintenance._kept_counts.fold()
    assert await sql.fetchval("SELECT count(*) FROM job_stats") == groups
    assert await sql.fetchval("SELECT sum(jobs) FROM job_stats") == 5 * groups


LATE = """
INSERT INTO jobs_done_default (id, job_type, queue, status, finished_at)
SELECT n, 'mail', 'default', 'SUCCESS',
  date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + make_interval(secs => n % 7)
    - make_interval(days => $2::int)
FROM generate_series($1::int + 1, $1::int + $3::int) n"""

TODAYS_LEAF = """
SELECT count(*) FROM jobs_done
WHERE tableoid::regclass::text = 'jobs_done_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')"""


@pytest.mark.whole
async def test_days_are_made_however_full_the_default_partition_is(
    sql: Any, hurried: Maintainer
) -> None:
    await sql.execute(LATE, 0, 0, 150_000, timeout=60)
    hurried._link.drop()
    await hurried._make_partitions()
    assert await sql.fetchval(DAYS_AHEAD) == 7
    assert await sql.fetchval(TODAYS_LEAF) == 150_000
    assert await sql.fetchval("SELECT count(*) FROM jobs_done_default") == 0


async def test_a_day_that_cannot_be_made_keeps_no_other_from_being_made(
    sql: Any, maintenance: Maintainer
) -> None:
    await sql.execute(
        "CREATE TABLE in_the_way (n int);"
        " DO $$ BEGIN EXECUTE format('ALTER TABLE in_the_way RENAME TO jobs_done_%s',"
        " to_char((now() AT TIME ZONE 'UTC')::date + 3, 'YYYYMMDD')); END $$"
    )
    with pytest.raises(asyncpg.PostgresError):
        await maintenance._make_partitions()
    assert await sql.fetchval(DAYS_AHEAD) == 6


async def test_rows_being_copied_to_their_day_are_seen_once(
    sql: Any, maintenance: Maintainer
) -> None:
    await sql.execute(LATE, 0, 0, 5_000)
    today = await sql.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    await partitions._copy_late(maintenance._link, today)
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 5_000
    await sql.execute("DELETE FROM background_jobs WHERE id = 7")
    await sql.execute(LATE, 5_000, 0, 10)  # what ended meanwhile
    await partitions.make(maintenance._link, [today])
    assert await sql.fetchval("SELECT count(*), count(DISTINCT id) FROM background_jobs") == 5_009
    assert await sql.fetchval(TODAYS_LEAF) == 5_009


async def test_making_a_day_that_is_there_takes_nothing_from_it(
    sql: Any, maintenance: Maintainer
) -> None:
    today = await sql.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    await sql.execute(LATE, 0, 0, 100)
    for _ in range(2):
        await partitions._make(maintenance._link, today)  # as two processes at once do
    assert await sql.fetchval(TODAYS_LEAF) == 100


async def test_a_day_that_was_begun_and_never_attached_goes_with_its_time(
    sql: Any, maintenance: Maintainer
) -> None:
    old = await sql.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date - 30")
    await sql.execute(LATE, 0, 30, 10)
    await partitions._copy_late(maintenance._link, old)
    await maintenance._drop_days()
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 0
    assert await sql.fetchval(f"SELECT to_regclass('jobs_done_{old:%Y%m%d}')") is None


async def test_retention_goes_on_where_no_partition_can_be_made(
    sql: Any, hurried: Maintainer
) -> None:
    await sql.execute(LATE, 0, 30, 3 * BATCH, timeout=60)
    await sql.execute(LATE, 3 * BATCH, 0, 10)
    async with sql.transaction():
        await sql.execute("LOCK TABLE jobs_done IN SHARE UPDATE EXCLUSIVE MODE")
        await hurried._each(hurried._drop_days)
        left = "SELECT count(*) FROM jobs_done_default"
        assert await sql.fetchval(left) == 10


async def test_a_day_is_dropped_after_what_never_got_into_its_partition(
    sql: Any, maintenance: Maintainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await sql.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date - 30")
    await partitions.make(maintenance._link, [old])
    await sql.execute("INSERT INTO job_stats VALUES ('default', 'mail', 'SUCCESS', $1, 5)", old)
    await sql.execute(LATE, 0, 31, 2 * BATCH)
    monkeypatch.setattr(retention, "MAX_BATCHES", 1)
    counts = "SELECT count(*) FROM job_stats WHERE day = $1"
    await maintenance._drop_days()
    assert await sql.fetchval(counts, old) == 1
    await maintenance._drop_days()
    await maintenance._drop_days()
    assert await sql.fetchval(counts, old) == 0


async def test_the_leader_alone_shows_what_ended_in_the_last_minutes(
    sql: Any, maintenance: Maintainer
) -> None:
    def shown(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"finmind_{name}", labels)

    await sql.execute(
        "INSERT INTO job_rate_deltas (at, queue, job_type, outcome, jobs, timings) VALUES"
        " (now(), 'q', 't', 'SUCCESS', 3, '{148,148,286}'), (now(), 'q', 't', 'RETRIED', 1, '{660}'),"
        " (now() - interval '4 min', 'q', 'u', 'FAILED', 1, NULL),"
        " (now() - interval '9 min', 'q', 't', 'DEAD_LETTER', 5, NULL)"
    )
    await maintenance.do_duties()
    assert shown("failure_share") == pytest.approx(2 / 5)
    assert shown("recent_attempts", outcome="succeeded") == 3
    assert shown("recent_attempts", outcome="dead_lettered") == 0
    p50, p95, p99 = (shown("start_delay_seconds", quantile=one) for one in ("0.5", "0.95", "0.99"))
    assert p50 is not None
    assert p95 is not None
    assert p99 is not None
    assert 0.001 < p50 < p95 <= p99 < 0.01
    assert 0.08 < (shown("run_time_seconds", quantile="0.5") or 0) <= 0.1

    maintenance._step_down()
    assert math.isnan(shown("failure_share") or 0)
    assert shown("recent_attempts", outcome="succeeded") is None
    assert shown("start_delay_seconds", quantile="0.99") is None


async def test_the_leader_shows_how_many_jobs_are_held_and_for_what(
    sql: Any, maintenance: Maintainer
) -> None:
    def shown(reason: str) -> float | None:
        return REGISTRY.get_sample_value("finmind_jobs_held", {"waiting_for": reason})

    await sql.execute(
        "INSERT INTO background_jobs (job_type, held_for, held_since, held_due_at)"
        " SELECT 'mail', f, now(), now() FROM unnest('{key:k,key:l,queue:q,after}'::text[]) f"
    )
    await maintenance.do_duties()
    found = [shown(reason) for reason in ("concurrency", "dependencies", "rate_limit")]
    assert found == [3, 1, None]
    await sql.execute("DELETE FROM background_jobs")
    await maintenance.do_duties()
    assert shown("concurrency") is None


async def test_without_jobs_most_rounds_are_left_out_and_a_job_ends_that(
    sql: Any, maintenance: Maintainer
) -> None:
    quiet = Quiet(maintenance._link)

    async def skipped(rounds: int) -> list[bool]:
        found = []
        for _ in range(rounds):
            await quiet.look()
            found.append(quiet.skips_round)
        return found

    job = "INSERT INTO background_jobs (job_type) VALUES ('mail')"
    assert await skipped(QUIET_ROUNDS) == [False] * (ROUNDS_AFTER_JOBS + 1) + [True]
    assert await skipped(QUIET_ROUNDS) == [False] + [True] * (QUIET_ROUNDS - 1)
    await sql.execute(job)
    assert not any(await skipped(2 * QUIET_ROUNDS)), "a job is live"
    await sql.execute("DELETE FROM background_jobs")
    assert (await skipped(ROUNDS_AFTER_JOBS + 1))[-1]
    await sql.execute(job)
    await sql.execute("DELETE FROM background_jobs")
    assert await skipped(1) == [False], "one came and went"


async def test_a_leader_leaves_out_the_rounds_in_which_nothing_is_to_do(
    sql: Any, maintenance: Maintainer
) -> None:
    async def drops_keys() -> bool:
        maintenance._next_slow = 0.0
        await sql.execute(KEYS, 10_000, 1)
        await maintenance.do_round()
        left: int = await sql.fetchval("SELECT count(*) FROM idempotency_keys")
        return left == 0

    found = [await drops_keys() for _ in range(ROUNDS_AFTER_JOBS + 2)]
    assert found == [True] * (ROUNDS_AFTER_JOBS + 1) + [False]
