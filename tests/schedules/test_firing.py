"""A tick and its job: one of each, whoever looks, together in one transaction."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.db.engine import Database
from service.jobs import JobContext, Registry
from service.jobs.notify.messages import Schedules, decode, encode
from service.schedules import ScheduleTick, ledger
from service.schedules.firing import act_on_due
from service.schedules.model import Overlap
from service.schedules.ticker import Ticker
from service.settings import Settings
from tests.jobs.conftest import StartWorker
from tests.schedules.conftest import Act, Add

LEDGER = """SELECT t.outcome, t.reason, t.planned_at, t.job_id, j.payload, j.status
FROM schedule_ticks t LEFT JOIN background_jobs j ON j.id = t.job_id ORDER BY t.id"""


async def test_a_tick_enqueues_a_job_that_is_told_its_planned_time(
    add: Add, act: Act, sql: Any, handlers: Registry, start_worker: StartWorker
) -> None:
    """By its context, and in its payload where the schedule says so."""
    told: list[ScheduleTick | None] = []

    @handlers.handler("t")
    async def handle(_: Any, ctx: JobContext) -> None:
        told.append(await ctx.tick())

    @handlers.handler("plain")
    def handle_in_thread(_: Any, ctx: JobContext) -> None:
        told.append(ctx.tick_sync())

    made = await add(
        "nightly", every_seconds=60, late=1, payload={"n": 1}, created_by="billing",
        tick_member="schedule",
    )  # fmt: skip
    await add("other", every_seconds=86_400, late=0.5, job_type="plain", payload={"n": 2})
    assert (await act()).jobs == 2
    line, other = await sql.fetch(LEDGER)
    assert (line["outcome"], line["reason"], line["planned_at"]) == (
        "fired",
        None,
        made.next_tick_at,
    )
    assert made.next_tick_at is not None
    assert line["payload"] == {
        "n": 1,
        "schedule": {
            "name": "nightly",
            "planned_at": made.next_tick_at.isoformat().replace("+00:00", "Z"),
            "backfill": False,
        },
    }
    assert other["payload"] == {"n": 2}
    owners = await sql.fetch("SELECT enqueued_by FROM background_jobs ORDER BY 1")
    assert [row[0] for row in owners] == ["billing", None]
    assert (await act()).schedules == 0
    await start_worker()
    async with asyncio.timeout(20):
        while len(told) < 2:  # noqa: ASYNC110 - a thread tells it
            await asyncio.sleep(0.01)
    assert {(tick.name, tick.planned_at, tick.backfill) for tick in told if tick} == {
        ("nightly", made.next_tick_at, False), ("other", other["planned_at"], False),
    }  # fmt: skip


async def test_a_run_that_has_not_ended_keeps_the_next_tick_from_its_job_as_overlap_says(
    add: Add, act: Act, sql: Any
) -> None:
    """Of each schedule two ticks in a row are acted on, while the first job waits."""
    for overlap in Overlap:
        await add(overlap.value, every_seconds=1, overlap=overlap)
        await sql.execute(
            "UPDATE schedules SET next_tick_at = date_trunc('second', now()) - interval '1 s',"
            " due_at = date_trunc('second', now()) - interval '1 s' WHERE name = $1", overlap.value,
        )  # fmt: skip
    await act()
    rows = await sql.fetch(
        "SELECT s.name, array_agg(t.outcome ORDER BY t.id) AS outcomes,"
        " array_agg(coalesce(j.held_for, j.status) ORDER BY t.id) AS jobs"
        " FROM schedule_ticks t JOIN schedules s ON s.id = t.schedule_id"
        " LEFT JOIN background_jobs j ON j.id = t.job_id GROUP BY 1"
    )
    assert {row["name"]: (row["outcomes"][:2], row["jobs"][:2]) for row in rows} == {
        "skip": (["fired", "skipped"], ["PENDING", None]),
        "queue_one": (["fired", "fired"], ["PENDING", "after"]),
        "queue_all": (["fired", "fired"], ["PENDING", "after"]),
        "cancel_other": (["fired", "fired"], ["CANCELLED", "PENDING"]),
        "allow": (["fired", "fired"], ["PENDING", "PENDING"]),
    }


async def test_a_run_that_is_refused_is_in_the_ledger_and_keeps_no_other_from_its_job(
    add: Add, act: Act, sql: Any
) -> None:
    for number in range(5):
        await add(f"s{number}", every_seconds=60, late=1)
    await sql.execute("UPDATE schedules SET queue = 'no such name!' WHERE name = 's3'")
    await sql.execute(
        "UPDATE schedules SET cron = 'broken', every_seconds = NULL WHERE name = 's4'"
    )
    assert (await act()).jobs == 3
    refused = await sql.fetchval("SELECT reason FROM schedule_ticks WHERE outcome = 'skipped'")
    assert refused.startswith("no job could be made: queue is 'no such name!'")
    broken = await sql.fetchrow("SELECT paused_by, pause_reason FROM schedules WHERE name = 's4'")
    assert broken["paused_by"] == "service"
    assert "its rule cannot be followed" in broken["pause_reason"]
    assert (await act()).schedules == 0


async def test_a_transaction_that_is_cut_leaves_neither_job_nor_tick(
    add: Add, act: Act, sql: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(every_seconds=60, late=1)

    async def cut(session: Any, _: Any) -> None:
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "note", cut)
        with pytest.raises(DBAPIError):
            await act()
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 0
    assert (await act()).jobs == 1


async def test_three_processes_that_look_at_once_give_each_tick_one_job(
    add: Add, pg_dsn: str, make_settings: Callable[..., Settings], sql: Any
) -> None:
    """Fifty schedules of a second, for two seconds and more."""
    settings = make_settings(schedule_poll_seconds=0.05, database_pool_size=2)
    for number in range(50):
        await add(f"s{number}", every_seconds=1, overlap=Overlap.ALLOW, tick_member="tick")
    databases = [Database(pg_dsn, settings) for _ in range(3)]
    tickers = [Ticker(one, settings) for one in databases]
    try:
        for ticker in tickers:
            await ticker.start()
        async with asyncio.timeout(30):
            while await sql.fetchval("SELECT count(*) FROM schedule_ticks") < 150:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        for ticker, one in zip(tickers, databases, strict=True):
            await ticker.stop()
            await one.close()
    twice = await sql.fetch(
        "SELECT 1 FROM schedule_ticks GROUP BY schedule_id, planned_at HAVING count(*) > 1"
    )
    assert twice == []
    jobs = await sql.fetch("SELECT payload -> 'tick' AS tick FROM background_jobs")
    assert len(jobs) == await sql.fetchval(
        "SELECT count(*) FROM schedule_ticks WHERE outcome = 'fired'"
    )
    assert len({(job["tick"]["name"], job["tick"]["planned_at"]) for job in jobs}) == len(jobs)
    gaps = await sql.fetchval(
        "SELECT count(*) FROM (SELECT planned_at - lag(planned_at) OVER"
        " (PARTITION BY schedule_id ORDER BY planned_at) AS gap FROM schedule_ticks) g"
        " WHERE gap <> interval '1 s'"
    )
    assert gaps == 0


async def test_what_another_process_holds_is_left_to_it(
    add: Add, act: Act, database: Database
) -> None:
    await add(every_seconds=60, late=1)
    async with database.sessions.begin() as session:
        assert (await act_on_due(session, limit=10)).jobs == 1
        assert (await act()).schedules == 0


async def test_a_schedule_that_is_made_wakes_those_who_would_look_in_a_minute(
    add: Add, pg_dsn: str, make_settings: Callable[..., Settings], sql: Any
) -> None:
    assert decode(encode(Schedules())) == Schedules()
    settings = make_settings(schedule_poll_seconds=60)
    database = Database(pg_dsn, settings)
    ticker = Ticker(database, settings)
    try:
        await ticker.start()
        async with asyncio.timeout(20):
            await ticker.look()
            await add(every_seconds=1)
            while not await sql.fetchval("SELECT count(*) FROM schedule_ticks"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await ticker.stop()
        await database.close()
