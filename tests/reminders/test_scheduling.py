import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs import JobId, JobStatus, cancel_job, delete_job, get_job
from service.reminders import repository, scheduling
from service.reminders.model import ReminderId, ReminderStatus
from service.reminders.scheduling import (
    change_reminder,
    delete_reminder,
    enqueue_all_due,
    enqueue_due,
)
from service.settings import Settings

from .conftest import AddReminder, ReadReminder

Action = Callable[[Database, ReminderId], Awaitable[None]]


async def job_rows(database: Database) -> list[asyncpg.Record]:
    connection = await database.connect()
    try:
        return await connection.fetch("SELECT * FROM background_jobs ORDER BY id")
    finally:
        await connection.close()


async def set_job_status(database: Database, job_id: int | None, status: JobStatus) -> None:
    """As the engine would leave it."""
    connection = await database.connect()
    try:
        await connection.execute(
            "UPDATE background_jobs SET status = $2, attempts = 1, finished_at = now(), "
            "last_error = 'internal words' WHERE id = $1",
            job_id,
            status.value,
        )
    finally:
        await connection.close()


async def test_a_due_reminder_gets_one_job_and_one_that_is_not_due_gets_none(
    database: Database, settings: Settings, add: AddReminder, read: ReadReminder
) -> None:
    due, later = await add(minutes=-1), await add(minutes=5)
    scan = await enqueue_all_due(database.sessions.begin, settings)
    assert (scan.enqueued, scan.already_queued) == (1, 0)
    (job,) = await job_rows(database)
    assert (job["job_type"], job["queue"], job["status"]) == (
        "send_reminder",
        "reminders",
        "PENDING",
    )
    assert job["unique_key"].startswith(f"reminder:{due.id}:")
    queued = await read(due.id)
    assert (queued.status, queued.job_id, queued.sent) == ("queued", job["id"], False)
    waiting = await read(later.id)
    assert (waiting.status, waiting.job_id) == ("scheduled", None)


async def test_a_second_run_finds_them_queued_already(
    database: Database, settings: Settings, add: AddReminder
) -> None:
    for _ in range(3):
        await add()
    await enqueue_all_due(database.sessions.begin, settings)
    await add()
    scan = await enqueue_all_due(database.sessions.begin, settings)
    assert (scan.enqueued, scan.already_queued) == (1, 3)
    assert len(await job_rows(database)) == 4


async def test_eight_scans_at_once_give_each_reminder_one_job(
    pg_dsn: str,
    settings: Settings,
    add: AddReminder,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "BATCH_SIZE", 7)
    reminders = [await add() for _ in range(60)]
    callers = [Database(pg_dsn, settings) for _ in range(8)]
    try:
        scans = await asyncio.gather(
            *(enqueue_all_due(caller.sessions.begin, settings) for caller in callers)
        )
    finally:
        for caller in callers:
            await caller.close()
    assert sum(scan.enqueued for scan in scans) == 60
    keys = [job["unique_key"] for job in await job_rows(database)]
    assert sorted(keys) == sorted(f"reminder:{r.id}:{r.delivery_id}" for r in reminders)


async def test_a_batch_takes_no_more_than_it_may_and_a_run_takes_all_batches(
    database: Database, settings: Settings, add: AddReminder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minutes in (-3, -1, -2, -4, -5):
        await add(minutes=minutes)
    async with database.sessions.begin() as session:
        assert await enqueue_due(session, 2) == 2
    monkeypatch.setattr(scheduling, "BATCH_SIZE", 2)
    scan = await enqueue_all_due(database.sessions.begin, settings)
    assert (scan.enqueued, scan.already_queued) == (3, 2)


async def test_a_run_that_is_rolled_back_leaves_neither_job_nor_mark(
    database: Database, add: AddReminder, read: ReadReminder
) -> None:
    reminder = await add()
    async with database.sessions() as session, session.begin() as transaction:
        assert await enqueue_due(session, 10) == 1
        await transaction.rollback()
    assert await job_rows(database) == []
    assert (await read(reminder.id)).status == "scheduled"


async def test_a_reminder_that_is_being_changed_is_passed_over_and_found_later(
    database: Database, settings: Settings, add: AddReminder
) -> None:
    reminder = await add()
    async with database.sessions.begin() as session:
        await repository.find(session, ReminderId(reminder.id), user_id=None, lock=True)
        assert (await enqueue_all_due(database.sessions.begin, settings)).enqueued == 0
    assert (await enqueue_all_due(database.sessions.begin, settings)).enqueued == 1


async def test_a_change_cancels_the_waiting_job_and_schedules_the_reminder_anew(
    database: Database, settings: Settings, add: AddReminder, read: ReadReminder
) -> None:
    reminder = await add()
    await enqueue_all_due(database.sessions.begin, settings)
    job_id = (await read(reminder.id)).job_id
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with database.sessions.begin() as session:
        await change_reminder(
            session, ReminderId(reminder.id), {"send_at": tomorrow}, user_id="ada"
        )
    changed = await read(reminder.id)
    assert (changed.status, changed.job_id, changed.send_at) == ("scheduled", None, tomorrow)
    assert changed.delivery_id != reminder.delivery_id
    (job,) = await job_rows(database)
    assert (job["id"], job["status"]) == (job_id, "CANCELLED")
    assert (await enqueue_all_due(database.sessions.begin, settings)).enqueued == 0
    async with database.sessions.begin() as session:
        await change_reminder(
            session, ReminderId(reminder.id), {"send_at": reminder.send_at}, user_id="ada"
        )
    assert (await enqueue_all_due(database.sessions.begin, settings)).enqueued == 1


async def change(database: Database, reminder_id: ReminderId) -> None:
    async with database.sessions.begin() as session:
        await change_reminder(session, reminder_id, {"message": "New"}, user_id="ada")


async def delete(database: Database, reminder_id: ReminderId) -> None:
    async with database.sessions.begin() as session:
        await delete_reminder(session, reminder_id, user_id="ada")


@pytest.mark.parametrize("action", [change, delete])
async def test_a_reminder_that_is_being_sent_can_be_neither_changed_nor_deleted(
    database: Database, settings: Settings, add: AddReminder, read: ReadReminder, action: Action
) -> None:
    reminder = await add()
    await enqueue_all_due(database.sessions.begin, settings)
    await set_job_status(database, (await read(reminder.id)).job_id, JobStatus.RUNNING)
    with pytest.raises(Conflict, match="being sent right now"):
        await action(database, ReminderId(reminder.id))
    assert (await read(reminder.id)).message == "Pay"


async def test_a_deleted_reminder_takes_its_waiting_job_with_it(
    database: Database, settings: Settings, add: AddReminder
) -> None:
    reminder = await add()
    await enqueue_all_due(database.sessions.begin, settings)
    async with database.sessions.begin() as session:
        await delete_reminder(session, ReminderId(reminder.id), user_id="ada")
    (job,) = await job_rows(database)
    assert job["status"] == "CANCELLED"
    with pytest.raises(NotFound):
        async with database.sessions.begin() as session:
            await delete_reminder(session, ReminderId(reminder.id), user_id="ada")


async def test_a_new_channel_must_fit_the_recipient(
    database: Database, add: AddReminder, read: ReadReminder
) -> None:
    reminder = await add(channel="email")
    with pytest.raises(InvalidInput, match="whatsapp") as refusal:
        async with database.sessions.begin() as session:
            await change_reminder(
                session, ReminderId(reminder.id), {"channel": "whatsapp"}, user_id="ada"
            )
    assert refusal.value.field == "recipient"
    assert (await read(reminder.id)).channel == "email"


@pytest.mark.parametrize(
    ("job_status", "status", "words"),
    [
        (JobStatus.DEAD_LETTER, "failed", "Given up"),
        (JobStatus.FAILED, "failed", "Given up"),
        (JobStatus.SUCCESS, "failed", "without sending"),
        (JobStatus.CANCELLED, "cancelled", "cancelled"),
        (None, "failed", "deleted"),
    ],
)
async def test_a_reminder_learns_that_its_job_ended(
    database: Database,
    settings: Settings,
    add: AddReminder,
    read: ReadReminder,
    job_status: JobStatus | None,
    status: str,
    words: str,
) -> None:
    reminder, other = await add(), await add()
    await enqueue_all_due(database.sessions.begin, settings)
    job_id = JobId((await read(reminder.id)).job_id or 0)
    if job_status is None:
        async with database.sessions.begin() as session:
            await delete_job(session, job_id)
    elif job_status is JobStatus.CANCELLED:
        async with database.sessions.begin() as session:
            await cancel_job(session, job_id)
    else:
        await set_job_status(database, job_id, job_status)
    async with database.sessions.begin() as session:
        assert len(await repository.reconcile(session, 10)) == 1
    async with database.sessions.begin() as session:
        assert await repository.reconcile(session, 10) == []
    ended = await read(reminder.id)
    assert ended.status == status
    assert ended.last_error is not None
    assert words in ended.last_error
    assert "internal words" not in ended.last_error
    assert (await read(other.id)).status == "queued"


async def test_the_users_own_error_survives_the_end_of_the_job(
    database: Database, settings: Settings, add: AddReminder, read: ReadReminder
) -> None:
    reminder = await add()
    await enqueue_all_due(database.sessions.begin, settings)
    async with database.sessions.begin() as session:
        await repository.mark_failed_attempt(
            session,
            ReminderId(reminder.id),
            reminder.delivery_id,
            attempt=4,
            error="The mail server did not answer",
            status=ReminderStatus.RETRYING,
        )
    await set_job_status(database, (await read(reminder.id)).job_id, JobStatus.DEAD_LETTER)
    async with database.sessions.begin() as session:
        await repository.reconcile(session, 10)
    ended = await read(reminder.id)
    assert (ended.status, ended.last_error) == ("failed", "The mail server did not answer")


async def test_a_failed_reminder_that_is_changed_is_sent_again(
    database: Database, settings: Settings, add: AddReminder, read: ReadReminder
) -> None:
    reminder = await add()
    await enqueue_all_due(database.sessions.begin, settings)
    first_job = (await read(reminder.id)).job_id
    await set_job_status(database, first_job, JobStatus.FAILED)
    async with database.sessions.begin() as session:
        await repository.reconcile(session, 10)
        await change_reminder(
            session, ReminderId(reminder.id), {"recipient": "eve@example.org"}, user_id="ada"
        )
    assert (await read(reminder.id)).last_error is None
    assert (await enqueue_all_due(database.sessions.begin, settings)).enqueued == 1
    second_job = (await read(reminder.id)).job_id
    assert second_job not in {None, first_job}
    async with database.sessions() as session:
        assert (await get_job(session, JobId(first_job or 0))).status == JobStatus.FAILED


DUE = """
SELECT id FROM reminders WHERE status = 'scheduled' AND send_at <= now()
ORDER BY send_at, id LIMIT 500 FOR UPDATE SKIP LOCKED
"""
OWN = "SELECT * FROM reminders WHERE user_id = 'ada' AND id < 900 ORDER BY id DESC LIMIT 50"
FAILED = """
SELECT * FROM reminders WHERE status = 'failed' AND status <> 'sent' ORDER BY id DESC LIMIT 50
"""


@pytest.mark.parametrize("query", [DUE, OWN, FAILED])
async def test_what_is_asked_all_the_time_is_served_by_an_index(
    database: Database, query: str
) -> None:
    connection = await database.connect()
    try:
        await connection.execute(
            "INSERT INTO reminders (user_id, message, send_at, sent_at, channel, recipient, status) "
            "SELECT 'user' || n % 500, 'x', now(), now(), 'log', 'x', 'sent' "
            "FROM generate_series(1, 20000) n"
        )
        await connection.execute("ANALYZE reminders")
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + query))
    finally:
        await connection.close()
    assert "Seq Scan" not in plan
    assert "Index" in plan


async def test_reminder_events_are_counted_once_their_transaction_has_committed(
    database: Database, add: AddReminder
) -> None:
    def counted(event: str) -> float:
        labels = {"channel": "log", "event": event, "status": "ok"}
        return REGISTRY.get_sample_value("finmind_reminder_events_total", labels) or 0.0

    async def both(session: AsyncSession) -> None:
        await enqueue_due(session)
        await delete_reminder(session, ReminderId(reminder.id), user_id=None)

    reminder = await add()
    before = counted("enqueued"), counted("cancelled")
    async with database.sessions() as session:
        await both(session)
        await session.rollback()
    assert (counted("enqueued"), counted("cancelled")) == before
    async with database.sessions.begin() as session:
        await both(session)
    assert (counted("enqueued"), counted("cancelled")) == (before[0] + 1, before[1] + 1)
