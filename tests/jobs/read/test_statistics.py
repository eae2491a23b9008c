"""Counts that agree with the table, whatever moves meanwhile."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import bound_queries
from service.jobs.actions import cancel_job, delete_job, retry_dead_letter_job
from service.jobs.core.job import JobStatus
from service.jobs.read.statistics import get_job_stats
from service.jobs.store.statistics import MAX_NAMES
from tests.jobs.rows import add

HOUR = timedelta(hours=1)


async def test_every_figure_agrees_with_the_table(session: AsyncSession) -> None:
    now = datetime.now(UTC)
    await add(session, queue="a", next_run_at=now - HOUR)
    await add(session, queue="a", priority=0, next_run_at=now - 2 * HOUR)
    await add(session, queue="b", job_type="sms", next_run_at=now + HOUR)
    await add(session, queue="b", status="RUNNING", next_run_at=now - 9 * HOUR)
    await add(session, queue="b", status="SUCCESS", finished_at=now - 30 * HOUR)
    for status in ("SUCCESS", "SUCCESS", "FAILED", "DEAD_LETTER", "CANCELLED"):
        await add(session, job_type="sms", status=status, finished_at=now)
    stats = await get_job_stats(session)
    assert stats.total == 10
    assert stats.total_exact
    assert stats.by_status == {
        JobStatus.PENDING: 3,
        JobStatus.RUNNING: 1,
        JobStatus.SUCCESS: 3,
        JobStatus.FAILED: 1,
        JobStatus.DEAD_LETTER: 1,
        JobStatus.CANCELLED: 1,
    }
    assert stats.by_type == {"sms": 6, "mail": 4}
    assert stats.by_queue == {"default": 5, "b": 3, "a": 2}
    assert (stats.due_now, stats.scheduled, stats.running) == (2, 1, 1)
    assert stats.oldest_due_seconds == pytest.approx(7200, abs=30)
    assert sum(sum(day.by_status.values()) for day in stats.days) == 6
    assert stats.days[0].day == now.date()
    assert stats.days[0].by_status[JobStatus.SUCCESS] == 2


async def test_counts_follow_every_step_of_a_job(session: AsyncSession) -> None:
    async def counts() -> dict[str, int]:
        stats = await get_job_stats(session)
        assert stats.total == sum(stats.by_type.values()) == sum(stats.by_queue.values())
        return {status: jobs for status, jobs in stats.by_status.items() if jobs}

    job = await add(session, status="DEAD_LETTER")
    assert await counts() == {"DEAD_LETTER": 1}
    await retry_dead_letter_job(session, job)
    assert await counts() == {"PENDING": 1}
    await cancel_job(session, job)
    assert await counts() == {"CANCELLED": 1}
    await delete_job(session, job)
    assert await counts() == {}


async def test_names_beyond_the_first_two_hundred_are_summed(session: AsyncSession) -> None:
    await session.execute(
        text(
            "INSERT INTO background_jobs (job_type, queue) SELECT 't' || g, 'q' || g "
            "FROM generate_series(1, 250) g, generate_series(1, CASE WHEN g <= 200 THEN 2 ELSE 1 END)"
        )
    )
    stats = await get_job_stats(session)
    assert len(stats.by_type) == len(stats.by_queue) == 200
    assert set(stats.by_type.values()) == set(stats.by_queue.values()) == {2}
    assert (stats.by_type_rest, stats.by_queue_rest) == (50, 50)


async def test_a_name_that_is_no_longer_in_use_is_not_shown(session: AsyncSession) -> None:
    for jobs in (5, -5):
        await session.execute(
            text("INSERT INTO job_stats VALUES ('gone', 'gone', 'SUCCESS', current_date, :jobs)"),
            {"jobs": jobs},
        )
    stats = await get_job_stats(session)
    assert (stats.total, stats.by_type, stats.by_queue) == (0, {}, {})


async def test_live_jobs_over_the_cap_make_the_total_a_lower_bound(session: AsyncSession) -> None:
    await session.execute(
        text("INSERT INTO background_jobs (job_type) SELECT 'm' FROM generate_series(1, 50)")
    )
    assert (await get_job_stats(session, cap=50)).total_exact
    capped = await get_job_stats(session, cap=49)
    assert not capped.total_exact
    assert 49 <= capped.total <= 50


@pytest.mark.whole
async def test_hundreds_of_thousands_of_names_are_counted_in_time(
    session: AsyncSession,
) -> None:
    await session.execute(
        text(
            "INSERT INTO job_stats SELECT 'q' || n, 't' || n, 'SUCCESS', current_date, 1"
            " FROM generate_series(1, 300000) n"
        )
    )
    await session.execute(
        text("INSERT INTO job_stats VALUES ('billing', 'invoice', 'SUCCESS', current_date, 50)")
    )
    await bound_queries(session, 1.5)
    stats = await get_job_stats(session)
    assert stats.total == 300_050
    assert (len(stats.by_type), len(stats.by_queue)) == (MAX_NAMES, MAX_NAMES)
    assert (stats.by_type["invoice"], stats.by_queue["billing"]) == (50, 50)
    assert stats.by_type_rest == stats.by_queue_rest == 300_050 - 50 - (MAX_NAMES - 1)
    assert sum(stats.days[0].by_status.values()) == 300_050
