"""The leader's duties: one leader, partitions, retention, counts that are exact."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs import (
    Backoff,
    JobStatus,
    NewJob,
    PermanentError,
    Registry,
    cancel_job,
    delete_job,
    enqueue_batch,
    get_job_stats,
    process_due_jobs,
    retry_dead_letter_job,
)
from service.jobs.maintenance import maintainer as maintenance_module
from service.jobs.maintenance import partitions
from service.jobs.maintenance.maintainer import Maintainer
from tests.jobs.conftest import Quick
from tests.jobs.waiting import until, until_true


@pytest.fixture
async def maintenance(
    database: Database, handlers: Registry, quick: Quick
) -> AsyncIterator[Maintainer]:
    one = Maintainer(database, quick(retention_days=2), handlers=handlers)
    yield one
    await one.close()


async def days(sql: Any) -> set[date]:
    leaves = await sql.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'jobs_done'::regclass"
    )
    names = {row[0].removeprefix("jobs_done_") for row in leaves} - {"default"}
    return {datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).date() for name in names}


async def today(sql: Any) -> date:
    day: date = await sql.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return day


async def done(sql: Any, finished_at: datetime, jobs: int = 1) -> None:
    """Finished jobs with their counts, as a settle leaves them."""
    await sql.execute(
        "INSERT INTO background_jobs (job_type, status, finished_at)"
        " SELECT 'mail', 'SUCCESS', $1 FROM generate_series(1, $2::int)",
        finished_at,
        jobs,
    )
    await sql.execute(
        "INSERT INTO job_stats VALUES ('default', 'mail', 'SUCCESS', $1, $2)",
        finished_at.astimezone(UTC).date(),
        jobs,
    )


# -- leadership -----------------------------------------------------------------------------------


async def test_one_of_three_leads_and_another_takes_over(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    three = [Maintainer(database, quick(), handlers=handlers) for _ in range(3)]
    tasks = [asyncio.create_task(one.run()) for one in three]
    holders = (
        "SELECT array_agg(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND objid::bigint ="  # partitions are made under a lock of their own
        " hashtext('finmind-jobs.maintenance finmind_jobs')::bigint & 4294967295"
    )

    async def one_holder() -> bool:
        return len(await sql.fetchval(holders) or ()) == 1

    def leaders() -> list[Maintainer]:
        return [one for one in three if one.leader.since is not None]

    try:
        await until(lambda: sql.fetchval(holders))
        for _ in range(3):
            await until_true(lambda: len(leaders()) == 1)
            (pid,) = await sql.fetchval(holders)
            await sql.execute("SELECT pg_terminate_backend($1)", pid)

            async def taken_over(old: int = pid) -> bool:
                pids = await sql.fetchval(holders)
                return bool(pids) and old not in pids

            await until(taken_over)
            # Whoever led before has noticed, even where it is not the one that leads now.
            await until_true(lambda: len(leaders()) == 1)
            await until(one_holder)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in three:
            await one.close()


async def test_a_leader_whose_connection_was_cut_leads_only_with_the_lock(
    database: Database, handlers: Registry, sql: Any, quick: Quick, maintenance: Maintainer
) -> None:
    assert await maintenance.leader.lead()
    other = Maintainer(database, quick(), handlers=handlers)
    old = await maintenance.leader._link.connection()
    await sql.execute("SELECT pg_terminate_backend($1)", old.get_server_pid())
    await until_true(old.is_closed)
    assert await other.leader.lead()
    assert not await maintenance.leader.lead()
    await other.close()


async def test_who_leads_no_more_exports_no_gauges_of_queues(
    database: Database, handlers: Registry, sql: Any, quick: Quick, maintenance: Maintainer
) -> None:
    def due() -> float | None:
        return REGISTRY.get_sample_value("finmind_queue_depth", {"queue": "default"})

    await sql.execute("INSERT INTO background_jobs (job_type) VALUES ('mail')")
    await maintenance.do_round()
    assert due() == 1
    other = Maintainer(database, quick(), handlers=handlers)
    old = await maintenance.leader._link.connection()
    await sql.execute("SELECT pg_terminate_backend($1)", old.get_server_pid())
    await until_true(old.is_closed)
    assert await other.leader.lead()
    await maintenance.do_round()
    assert due() is None
    await other.close()


async def test_a_leader_holds_back_no_vacuum(sql: Any, maintenance: Maintainer) -> None:
    held = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)"
    )
    assert await maintenance.leader.lead()
    assert await sql.fetchval(held) == 0
    assert await maintenance.leader.lead()
    assert await sql.fetchval(held) == 0


async def test_a_leader_stays_where_idle_transactions_are_ended(
    sql: Any, maintenance: Maintainer
) -> None:
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '50ms'")
    assert await maintenance.leader.lead()
    await sql.execute("SELECT pg_sleep(0.2)")
    assert await maintenance.leader.lead()


# -- partitions -----------------------------------------------------------------------------------


async def test_partitions_are_made_ahead(sql: Any, maintenance: Maintainer) -> None:
    await maintenance.do_duties()
    first = await today(sql)
    assert {first + timedelta(days=ahead) for ahead in range(8)} <= await days(sql)


async def test_processes_that_make_partitions_at_once_do_not_fail(
    database: Database, sql: Any
) -> None:
    links = [database.link() for _ in range(5)]
    await asyncio.gather(*(partitions.make_ahead(link, days=3) for link in links))
    assert len(await days(sql)) == 4
    for link in links:
        await link.close()


async def test_rows_that_the_default_partition_caught_move_along(
    sql: Any, maintenance: Maintainer
) -> None:
    now = await sql.fetchval("SELECT now()")
    await done(sql, now, jobs=5)
    assert await sql.fetchval("SELECT count(*) FROM jobs_done_default") == 5
    await maintenance.do_duties()
    assert await sql.fetchval("SELECT count(*) FROM jobs_done_default") == 0
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 5


async def test_a_job_can_end_while_no_partition_fits(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    await enqueue_batch(sql, [NewJob("mail")])
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert await sql.fetchval("SELECT count(*) FROM jobs_done_default") == 1


async def test_retention_drops_whole_days_and_their_counts(
    database: Database, sql: Any, session: AsyncSession, maintenance: Maintainer
) -> None:
    now = await sql.fetchval("SELECT now()")
    link = database.link()
    for age in (2, 3, 9):
        await done(sql, now - timedelta(days=age), jobs=age)
        await partitions._make(link, (now - timedelta(days=age)).astimezone(UTC).date())
    await link.close()
    await maintenance.do_duties()
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 2
    assert min(await days(sql)) == await today(sql) - timedelta(days=2)
    stats = await get_job_stats(session)
    assert (stats.total, stats.by_status[JobStatus.SUCCESS]) == (2, 2)


async def test_a_drop_that_waits_for_a_reader_holds_up_nobody_else(
    database: Database, sql: Any
) -> None:
    """A long reader keeps the old day from being dropped; who comes later waits for neither."""
    now = await sql.fetchval("SELECT now()")
    old = (now - timedelta(days=9)).astimezone(UTC).date()
    link = database.link()
    await partitions.make(link, [old])
    reader, other = await database.connect(), await database.connect()
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("SELECT count(*) FROM background_jobs")
    drop = asyncio.create_task(partitions.drop_before(link, now.date()))
    try:
        await other.execute("SET lock_timeout = '500ms'")

        waiting = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await until(lambda: sql.fetchval(waiting))
        await other.fetch("SELECT count(*) FROM background_jobs")
        assert old in await days(sql)
        await transaction.rollback()
        await drop
        assert old not in await days(sql)
    finally:
        drop.cancel()
        for one in (reader, other, link):
            await one.close()


async def test_old_rows_that_never_had_a_partition_are_dropped_too(
    sql: Any, session: AsyncSession, maintenance: Maintainer
) -> None:
    now = await sql.fetchval("SELECT now()")
    await done(sql, now - timedelta(days=30), jobs=3)
    await done(sql, now, jobs=1)
    await maintenance.do_duties()
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 1
    assert (await get_job_stats(session)).total == 1


async def test_dead_letters_are_kept_for_their_own_time(
    database: Database, handlers: Registry, sql: Any, session: AsyncSession, quick: Quick
) -> None:
    await sql.execute(
        "INSERT INTO background_jobs (job_type, status, finished_at)"
        " SELECT 'mail', 'DEAD_LETTER', now() - interval '1 day' * n FROM generate_series(1, 10) n"
    )
    await sql.execute(
        "INSERT INTO job_stats SELECT queue, job_type, status, (finished_at AT TIME ZONE 'UTC')::date,"
        " 1 FROM jobs_dead"
    )
    one = Maintainer(database, quick(dead_retention_days=4), handlers=handlers)
    await one.do_duties()
    await one.close()
    left = await sql.fetchval("SELECT count(*) FROM jobs_dead")
    assert left in {3, 4}  # the fourth is just as old as the limit
    assert (await get_job_stats(session)).by_status[JobStatus.DEAD_LETTER] == left


# -- counts ---------------------------------------------------------------------------------------


async def test_counts_are_exact_after_a_mixture_of_everything(
    database: Database, handlers: Registry, sql: Any, session: AsyncSession, quick: Quick,
    maintenance: Maintainer,
) -> None:  # fmt: skip
    @handlers.handler("mail", backoff=Backoff(base_seconds=60, jitter=0))
    async def handle(payload: Any) -> None:
        match payload:
            case "retry":
                raise ValueError
            case "fail":
                raise PermanentError

    @handlers.handler("dies", max_retries=0)
    async def die(payload: Any) -> None:
        raise ValueError

    kinds = ["ok"] * 9 + ["retry"] * 2 + ["fail"] * 3
    made = await enqueue_batch(sql, [NewJob("mail", name) for name in kinds])
    dead = await enqueue_batch(sql, [NewJob("dies") for _ in range(5)])
    later = await enqueue_batch(sql, [NewJob("mail", delay_seconds=60) for _ in range(6)])
    await enqueue_batch(sql, [NewJob("nobodys") for _ in range(2)])
    await process_due_jobs(database, 100, settings=quick(), handlers=handlers)
    async with session.begin():
        await cancel_job(session, later[0].id)
        await cancel_job(session, later[1].id)
        await delete_job(session, later[1].id)
        await delete_job(session, made[0].id)
        await delete_job(session, dead[0].id)
        await retry_dead_letter_job(session, dead[1].id)
        await retry_dead_letter_job(session, made[-1].id)
    for fold in (False, True):
        if fold:
            await sql.execute(
                "INSERT INTO job_stats SELECT 'default', 'mail', 'SUCCESS', current_date, 0"
                " FROM generate_series(1, 600)"
            )
            await maintenance.do_duties()
            assert await sql.fetchval("SELECT count(*) FROM job_stats") < 20
        async with session.begin():
            stats = await get_job_stats(session)
        rows = await sql.fetch("SELECT status, count(*) FROM background_jobs GROUP BY status")
        counted = {name: jobs for name, jobs in stats.by_status.items() if jobs}
        assert counted == dict(rows)
        assert counted == {
            "SUCCESS": 8, "PENDING": 8, "FAILED": 4, "DEAD_LETTER": 3, "CANCELLED": 1,
        }  # fmt: skip
        types = await sql.fetch("SELECT job_type, count(*) FROM background_jobs GROUP BY job_type")
        assert stats.by_type == dict(types)
        assert stats.total == 24


async def test_a_new_process_leads_after_its_first_claims(
    database: Database, handlers: Registry, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "FIRST_CLAIMS_SECONDS", 0.5)
    one = Maintainer(database, quick(maintenance_seconds=300), handlers=handlers)
    began = time.monotonic()
    running = asyncio.create_task(one.run())
    await until_true(lambda: one.leader.since is not None)
    assert time.monotonic() - began >= 0.5
    running.cancel()
    await asyncio.wait([running])
    await one.close()


async def test_the_leader_shows_how_deep_each_queue_is(sql: Any, maintenance: Maintainer) -> None:
    await enqueue_batch(sql, [NewJob("mail", queue="deep") for _ in range(7)])
    await maintenance.do_duties()
    assert REGISTRY.get_sample_value("finmind_queue_depth", {"queue": "deep"}) == 7
    assert REGISTRY.get_sample_value("finmind_queue_running", {"queue": "deep"}) == 0
    maintenance._step_down()
    assert REGISTRY.get_sample_value("finmind_queue_depth", {"queue": "deep"}) is None
