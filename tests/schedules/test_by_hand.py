"""Runs that people ask for, how runs end, and what follows from failures."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.db.engine import Database
from service.errors import InvalidInput
from service.jobs.maintenance.retention import drop_old
from service.schedules import managing, repository
from service.schedules.by_hand import backfill, run_now
from service.schedules.endings import note_endings, streaks
from service.schedules.ledger import Ended
from service.schedules.model import Overlap, ScheduleId, TickOutcome
from tests.schedules.conftest import Act, Add

DAY = datetime(2026, 3, 1, tzinfo=UTC)


async def test_a_run_now_leaves_the_ticks_as_they_are_also_while_paused(
    add: Add, database: Database, sql: Any
) -> None:
    made = await add(every_seconds=3600)
    async with database.sessions.begin() as session:
        await managing.pause(session, ["a"])
        (schedule,) = await managing.lock(session, ["a"])
        note = await run_now(session, schedule, reason="a test")
        await managing.resume(session, ["a"])
    assert note.reason == "run by hand by python: a test"
    async with database.sessions() as session:
        after = await repository.find(session, "a")
    assert after is not None
    assert (after.next_tick_at, after.last_tick_at) == (made.next_tick_at, None)
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 1


@pytest.mark.parametrize(
    ("overlap", "enqueued", "held"),
    [
        (Overlap.QUEUE_ALL, 24, 23),
        (Overlap.ALLOW, 24, 0),
        (Overlap.QUEUE_ONE, 2, 1),
        (Overlap.SKIP, 1, 0),
    ],
)
async def test_a_backfill_runs_the_ticks_of_a_range_by_a_policy_of_its_own(
    add: Add, database: Database, sql: Any, overlap: Overlap, enqueued: int, held: int
) -> None:
    await add(every_seconds=3600, tick_member="tick")
    async with database.sessions.begin() as session:
        (schedule,) = await managing.lock(session, ["a"])
        done = await backfill(session, schedule, DAY, DAY + timedelta(days=1), overlap=overlap)
    assert (done.ticks, done.enqueued, done.skipped) == (24, enqueued, 24 - enqueued)
    jobs = await sql.fetch(
        "SELECT payload -> 'tick' AS tick, held_for FROM background_jobs ORDER BY id"
    )
    assert len(jobs) == enqueued
    assert sum(job["held_for"] is not None for job in jobs) == held
    assert jobs[0]["tick"] == {"name": "a", "planned_at": "2026-03-01T00:00:00Z", "backfill": True}
    ledger = await sql.fetch("SELECT outcome, count(*) FROM schedule_ticks GROUP BY 1")
    assert dict(ledger) == {"backfilled": enqueued} | (
        {"skipped": 24 - enqueued} if enqueued < 24 else {}
    )


@pytest.mark.parametrize(
    ("begin", "end", "overlap", "says"),
    [
        (DAY, DAY, "allow", "until is 2026-03-01T00:00:00+00:00, which is not after from"),
        (DAY, DAY + timedelta(days=99_999), "allow", "which is in the future"),
        (
            DAY,
            DAY + timedelta(days=42),
            "allow",
            "ask for a part, up to",
        ),
        (DAY + timedelta(minutes=1), DAY + timedelta(minutes=9), "allow", "has no tick"),
        (datetime.min.replace(tzinfo=UTC), DAY, "allow", "expected a time from 2000"),
        (DAY, DAY + timedelta(days=1), "cancel_other", "would cancel every run but the last"),
    ],
)
async def test_a_backfill_that_makes_no_sense_is_refused_in_words(
    add: Add, database: Database, begin: datetime, end: datetime, overlap: str, says: str
) -> None:
    await add(every_seconds=3600)
    async with database.sessions.begin() as session:
        (schedule,) = await managing.lock(session, ["a"])
        with pytest.raises(InvalidInput) as refused:
            await backfill(session, schedule, begin, end, overlap=Overlap(overlap))
    assert says in refused.value.detail


async def test_failures_in_a_row_pause_a_schedule_and_a_success_begins_the_count_anew(
    add: Add, act: Act, database: Database, sql: Any
) -> None:
    await add(every_seconds=3600, pause_after_failures=3, overlap=Overlap.ALLOW)

    async def end(*statuses: str) -> tuple[int, str | None]:
        for status in statuses:
            await sql.execute(
                "UPDATE schedules SET (next_tick_at, due_at) = (now(), now()) WHERE due_at IS NOT NULL"
            )
            await act()
            await sql.execute(
                "WITH gone AS (DELETE FROM jobs_live RETURNING id, job_type, queue)"
                " INSERT INTO background_jobs (id, job_type, queue, status, finished_at)"
                " SELECT id, job_type, queue, $1, clock_timestamp() FROM gone", status,
            )  # fmt: skip
        async with database.sessions.begin() as session:
            await note_endings(session, limit=100)
        async with database.sessions() as session:
            found = await repository.find(session, "a")
        assert found is not None
        return found.failures, found.pause_reason

    assert await end("FAILED", "DEAD_LETTER") == (2, None)
    assert await end("CANCELLED") == (2, None)
    assert await end("SUCCESS", "FAILED") == (1, None)
    assert await end("FAILED", "DEAD_LETTER") == (3, "3 runs failed in a row")
    assert await sql.fetchval("SELECT paused_by FROM schedules") == "failures"
    statuses = await sql.fetch("SELECT run_status FROM schedule_ticks ORDER BY id")
    assert [row[0] for row in statuses] == [
        "FAILED", "DEAD_LETTER", "CANCELLED", "SUCCESS", "FAILED", "FAILED", "DEAD_LETTER",
    ]  # fmt: skip
    async with database.sessions.begin() as session:
        (resumed,) = await managing.resume(session, ["a"])
    assert (resumed.failures, resumed.is_paused) == (0, False)


async def test_old_ticks_are_dropped_but_for_those_whose_run_has_not_ended(
    add: Add, act: Act, database: Database, sql: Any, quick: Any
) -> None:
    await add("ended", every_seconds=60, late=1)
    await add("live", every_seconds=60, late=1)
    await add("new", every_seconds=60, late=1)
    await act()
    await sql.execute(
        "UPDATE schedule_ticks SET decided_at = now() - interval '3 days' WHERE schedule <> 'new'"
    )
    await sql.execute("UPDATE schedule_ticks SET run_status = 'SUCCESS' WHERE schedule = 'ended'")
    link = database.link()
    await drop_old(link, quick(schedule_tick_days=2))
    await link.close()
    # Of each one tick, or two where a minute ends meanwhile.
    left = await sql.fetch("SELECT DISTINCT schedule FROM schedule_ticks ORDER BY schedule")
    assert [row[0] for row in left] == ["live", "new"]


def test_failures_count_in_the_order_in_which_runs_ended() -> None:
    def run(number: int, status: str, outcome: TickOutcome = TickOutcome.FIRED) -> Ended:
        at = None if status == "GONE" else DAY + timedelta(seconds=number)
        return Ended(ScheduleId(1), outcome, status, at, job_id(number))

    found = streaks(
        [run(4, "FAILED"), run(1, "FAILED"), run(3, "FAILED"), run(2, "SUCCESS"), run(5, "GONE"),
         run(6, "FAILED", TickOutcome.BACKFILLED)]
    )  # fmt: skip
    assert (found[ScheduleId(1)].failures, found[ScheduleId(1)].succeeded) == (2, True)


def job_id(number: int) -> Any:
    return number
