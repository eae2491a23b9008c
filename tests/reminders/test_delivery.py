import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from service.db.engine import Database
from service.jobs import (
    BackgroundJob,
    JobId,
    JobStatus,
    NewJob,
    enqueue_batch,
    get_job,
    process_due_jobs,
    retry_dead_letter_job,
)
from service.reminders import repository
from service.reminders.handler import bind
from service.reminders.model import Reminder, ReminderId
from service.reminders.scheduling import change_reminder, enqueue_all_due
from service.settings import Settings

from .conftest import AddReminder, ReadReminder
from .servers import Answer, Mailbox, running_mailbox, running_twilio

pytestmark = pytest.mark.whole


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    async with running_mailbox() as mailbox:
        yield mailbox


@pytest.fixture
def mail_settings(make_settings: Callable[..., Settings], mailbox: Mailbox) -> Settings:
    """One retry, at once."""
    return make_settings(
        smtp_url=SecretStr(mailbox.url()),
        email_from="jobs@finmind.example",
        default_max_retries=1,
        backoff_base_seconds=0.001,
        backoff_jitter=0,
    )


async def job_of(database: Database, reminder: Reminder) -> BackgroundJob:
    assert reminder.job_id is not None
    async with database.sessions() as session:
        return await get_job(session, JobId(reminder.job_id))


async def run_jobs(database: Database, settings: Settings, *, until: str | None = None) -> None:
    """Run what is due, until some reminder has the status."""
    bind(database, settings)
    await enqueue_all_due(database.sessions.begin, settings)
    async with asyncio.timeout(20):
        while True:
            summary = await process_due_jobs(database, 50, settings=settings)
            async with database.sessions() as session:
                statuses = {one.status for one in await repository.page(session, limit=50)}
            if until in statuses or (until is None and summary.processed):
                return


async def test_a_reminder_is_sent_once_and_says_so(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
    read: ReadReminder,
) -> None:
    reminder = await add(channel="email")
    await run_jobs(database, mail_settings)
    (mail,) = mailbox.mails
    assert mail["Message-ID"] == f"<reminder-{reminder.id}-{reminder.delivery_id}@finmind-jobs>"
    sent = await read(reminder.id)
    assert (sent.status, sent.sent, sent.attempts, sent.last_error) == ("sent", True, 1, None)
    assert sent.sent_at is not None
    job = await job_of(database, sent)
    assert job.status == JobStatus.SUCCESS
    assert job.result == {"sent": mail["Message-ID"]}
    assert (await enqueue_all_due(database.sessions.begin, mail_settings)).enqueued == 0


async def test_a_failed_attempt_shows_on_the_reminder_and_is_not_taken_for_sent(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
    read: ReadReminder,
) -> None:
    reminder = await add(channel="email")
    mailbox.answer_rcpt = lambda _attempt: "451 4.7.1 Greylisted"
    await run_jobs(database, mail_settings.model_copy(update={"backoff_base_seconds": 60.0}))
    waiting = await read(reminder.id)
    assert (waiting.status, waiting.sent, waiting.sent_at) == ("retrying", False, None)
    assert waiting.attempts == 1
    assert waiting.last_error == "The mail server refused the recipient: 451 4.7.1 Greylisted"
    assert (await job_of(database, waiting)).status == JobStatus.PENDING


async def test_a_failed_reminder_is_delivered_by_a_retry_by_hand(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
    read: ReadReminder,
) -> None:
    reminder = await add(channel="email")
    await mailbox.stop()
    await run_jobs(database, mail_settings, until="failed")
    failed = await read(reminder.id)
    assert (failed.status, failed.sent, failed.attempts) == ("failed", False, 2)
    assert "could not be reached" in (failed.last_error or "")
    dead = await job_of(database, failed)
    assert dead.status == JobStatus.DEAD_LETTER

    await mailbox.start()
    async with database.sessions.begin() as session:
        await retry_dead_letter_job(session, JobId(dead.id), by="operator")
    await run_jobs(database, mail_settings, until="sent")
    sent = await read(reminder.id)
    assert (sent.status, sent.last_error) == ("sent", None)
    assert len(mailbox.mails) == 1


async def test_a_refused_recipient_fails_at_once_and_a_new_one_is_sent_to(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
    read: ReadReminder,
) -> None:
    reminder = await add(channel="email", recipient="gone@example.org")
    mailbox.answer_rcpt = lambda attempt: "550 No such user" if attempt == 1 else "250 OK"
    await run_jobs(database, mail_settings)
    failed = await read(reminder.id)
    assert (failed.status, failed.sent) == ("failed", False)
    assert failed.last_error == "The mail server refused the recipient: 550 No such user"
    assert (await job_of(database, failed)).status == JobStatus.FAILED

    async with database.sessions.begin() as session:
        await change_reminder(
            session, ReminderId(reminder.id), {"recipient": "ada@example.org"}, user_id="ada"
        )
    await run_jobs(database, mail_settings)
    assert (await read(reminder.id)).status == "sent"
    assert [mail["To"] for mail in mailbox.mails] == ["ada@example.org"]


async def test_a_channel_that_is_not_configured_says_so_in_plain_words(
    database: Database, settings: Settings, add: AddReminder, read: ReadReminder
) -> None:
    reminder = await add(channel="email")
    await run_jobs(database, settings)
    failed = await read(reminder.id)
    assert failed.status == "failed"
    assert failed.last_error == "E-mail is not configured: set SMTP_URL and EMAIL_FROM"
    job = await job_of(database, failed)
    assert (job.status, job.last_error) == (
        JobStatus.FAILED,
        f"PermanentError: {failed.last_error}",
    )


@pytest.mark.parametrize("what", ["deleted", "changed", "sent already"])
async def test_a_job_whose_reminder_needs_no_sending_sends_nothing(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
    what: str,
) -> None:
    reminder = await add(channel="email")
    await enqueue_all_due(database.sessions.begin, mail_settings)
    statement = {
        "deleted": "DELETE FROM reminders",
        "changed": "UPDATE reminders SET delivery_id = gen_random_uuid()",
        "sent already": "UPDATE reminders SET status = 'sent', sent_at = now()",
    }[what]
    connection = await database.connect()
    try:
        job_id = await connection.fetchval(
            "SELECT job_id FROM reminders WHERE id = $1", reminder.id
        )
        await connection.execute(statement)
    finally:
        await connection.close()
    await run_jobs(database, mail_settings)
    assert mailbox.mails == []
    async with database.sessions() as session:
        job = await get_job(session, JobId(job_id))
    assert job.status == JobStatus.SUCCESS
    assert job.result is not None
    assert what in job.result["skipped"]


async def test_a_repeat_after_a_lost_record_carries_the_same_message_id(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
    read: ReadReminder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As when the process dies between the server's "250" and the record of it.
    reminder = await add(channel="email")
    mark_sent = repository.mark_sent

    async def die(*_: Any, **__: Any) -> bool:
        monkeypatch.setattr(repository, "mark_sent", mark_sent)
        raise SystemError("the process died")

    monkeypatch.setattr(repository, "mark_sent", die)
    await run_jobs(database, mail_settings.model_copy(update={"backoff_base_seconds": 1.0}))
    assert (await read(reminder.id)).sent is False
    await run_jobs(database, mail_settings, until="sent")
    assert (await read(reminder.id)).sent is True
    first, second = mailbox.mails
    assert first["Message-ID"] == second["Message-ID"]


async def test_a_passing_database_fault_after_the_delivery_sends_nothing_twice(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
    read: ReadReminder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reminder = await add(channel="email")
    mark_sent = repository.mark_sent
    faults = iter([ConnectionResetError("cut"), TimeoutError()])

    async def fail_first(*args: Any, **kwargs: Any) -> bool:
        if fault := next(faults, None):
            raise fault
        return await mark_sent(*args, **kwargs)

    monkeypatch.setattr(repository, "mark_sent", fail_first)
    await run_jobs(database, mail_settings)
    assert (await read(reminder.id)).status == "sent"
    assert len(mailbox.mails) == 1


async def test_twilio_is_asked_again_only_after_the_time_it_named(
    database: Database,
    make_settings: Callable[..., Settings],
    add: AddReminder,
    read: ReadReminder,
) -> None:
    reminder = await add(channel="whatsapp", recipient="+4915112345678")
    async with running_twilio(Answer(429, {}, {"retry-after": "120"})) as twilio:
        settings = make_settings(
            twilio_base_url=twilio.url,
            twilio_account_sid="AC1",
            twilio_auth_token=SecretStr("hunter2"),
            twilio_whatsapp_from="+14155238886",
        )
        await run_jobs(database, settings)
    waiting = await read(reminder.id)
    assert waiting.status == "retrying"
    job = await job_of(database, waiting)
    assert job.status == JobStatus.PENDING
    assert 100 < (job.next_run_at - datetime.now(UTC)).total_seconds() <= 121
    assert "hunter2" not in str(job.errors)


async def test_a_burst_waits_for_the_database_and_uses_no_attempt(
    database: Database, pg_dsn: str, make_settings: Callable[..., Settings]
) -> None:
    """Two transactions of 1,000 deliveries on one connection take longer than the pool's timeout."""
    async with database.sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO reminders (send_at, user_id, message, channel, recipient)"
                " SELECT now(), 'ada', 'Pay', 'log', 'ada' FROM generate_series(1, 1000)"
            )
        )
    settings = make_settings(worker_concurrency=1000, database_pool_size=1, claim_batch_size=1000)
    narrow = Database(pg_dsn, settings)
    try:
        bind(narrow, settings)
        await enqueue_all_due(database.sessions.begin, settings)
        summary = await process_due_jobs(narrow, 1000, settings=settings)
    finally:
        await narrow.close()
    assert (summary.processed, summary.succeeded, summary.retried) == (1000, 1000, 0)


async def test_a_copy_of_a_reminders_job_sends_nothing(
    database: Database,
    mail_settings: Settings,
    mailbox: Mailbox,
    add: AddReminder,
) -> None:
    reminder = await add(channel="email")
    bind(database, mail_settings)
    copied = {"reminder_id": reminder.id, "delivery_id": str(reminder.delivery_id)}
    async with database.sessions.begin() as session:
        copies = [
            job.id
            for job in await enqueue_batch(
                session, [NewJob("send_reminder", copied, queue="copies") for _ in range(20)]
            )
        ]
    await run_jobs(database, mail_settings)
    async with database.sessions() as session:
        results = [(await get_job(session, job_id)).result for job_id in copies]
    assert results == [{"skipped": "the reminder has another job"}] * 20
    assert len(mailbox.mails) == 1
