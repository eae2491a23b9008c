"""From a due reminder to its job, and what a change of the reminder means for that job.

Row locks are always taken in one order, the reminder's first and its job's second, so that no
two of these can wait for each other. Nothing here commits but the batches of `enqueue_all_due`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.after_commit import after_commit
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs import JobId, NewJob, cancel_job, enqueue_batch, get_job
from service.jobs.core.job import LIVE
from service.observability.metrics import reminder_event
from service.reminders import repository
from service.reminders.model import Reminder, ReminderId, ReminderStatus
from service.reminders.recipients import ChannelName, check_recipient
from service.settings import Settings

JOB_TYPE: Final = "send_reminder"
QUEUE: Final = "reminders"
BATCH_SIZE: Final = 500
MAX_BATCHES: Final = 100
"""One run enqueues up to 50,000 reminders; the next scan continues from there."""


class SendReminder(BaseModel):
    """Payload of a `send_reminder` job: which reminder, as which of its deliveries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reminder_id: int
    delivery_id: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan for due reminders did."""

    enqueued: int
    already_queued: int


async def enqueue_due(session: AsyncSession, limit: int = BATCH_SIZE) -> int:
    """Enqueue one job for each of up to `limit` due reminders; returns how many.

    A reminder gets one job, however many callers in however many processes scan at once: its row is
    locked until the job and the new status are committed together. A second caller finds the first job
    by its unique key.
    """
    due = await repository.lock_due(session, limit)
    if not due:
        return 0
    jobs = await enqueue_batch(
        session,
        [
            NewJob(
                JOB_TYPE,
                {"reminder_id": reminder.id, "delivery_id": str(reminder.delivery_id)},
                queue=QUEUE,
                unique_key=f"reminder:{reminder.id}:{reminder.delivery_id}",
            )
            for reminder in due
        ],
    )
    await repository.mark_queued(session, [r.id for r in due], [job.id for job in jobs])
    channels = [reminder.channel for reminder in due]

    def count() -> None:
        for channel in channels:
            reminder_event("enqueued", channel)

    await after_commit(session, count)
    return len(due)


async def enqueue_all_due(
    transaction: Callable[[], AbstractAsyncContextManager[AsyncSession]], settings: Settings
) -> Scan:
    """Enqueue every due reminder, a `transaction` a batch, up to 50,000.

    `already_queued` counts, up to COUNT_CAP, the reminders that had a job when this began.
    """
    async with transaction() as session:
        already_queued = await repository.count_awaiting_delivery(session, settings.count_cap)
    enqueued = 0
    for _ in range(MAX_BATCHES):
        async with transaction() as session:
            batch = await enqueue_due(session, BATCH_SIZE)
        enqueued += batch
        if batch < BATCH_SIZE:
            break
    return Scan(enqueued=enqueued, already_queued=already_queued)


async def change_reminder(
    session: AsyncSession, reminder_id: ReminderId, changes: dict[str, Any], *, user_id: str | None
) -> Reminder:
    """Change an unsent reminder: its job, if any, is cancelled, and it is scheduled again.

    A failed reminder that is changed is thereby sent again.

    Args:
        session: the caller's; the reminder stays locked to the end of its transaction.
        reminder_id: which one.
        changes: new values of message, send_at, channel, recipient.
        user_id: whose it must be; None for anybody's.

    Raises:
        NotFound: no such reminder, or another user's.
        Conflict: it is sent, or is being sent right now.
        InvalidInput: the recipient does not fit the channel.
    """
    reminder = await _locked(session, reminder_id, user_id=user_id)
    if reminder.status == ReminderStatus.SENT:
        raise Conflict(f"Reminder {reminder_id} has been sent: it can no longer be changed")
    _check_recipient(reminder, changes)
    await _cancel_pending_job(session, reminder, action="changed")
    return await repository.save_change(session, reminder, changes)


async def delete_reminder(
    session: AsyncSession, reminder_id: ReminderId, *, user_id: str | None
) -> None:
    """Delete a reminder and cancel its pending job.

    Raises:
        NotFound: no such reminder, or another user's.
        Conflict: it is being sent right now.
    """
    reminder = await _locked(session, reminder_id, user_id=user_id)
    if reminder.status != ReminderStatus.SENT:
        await _cancel_pending_job(session, reminder, action="deleted")
    await repository.delete(session, reminder)


async def _locked(
    session: AsyncSession, reminder_id: ReminderId, *, user_id: str | None
) -> Reminder:
    reminder = await repository.find(session, reminder_id, user_id=user_id, lock=True)
    if reminder is None:
        raise NotFound(f"No reminder {reminder_id}")
    return reminder


async def _cancel_pending_job(session: AsyncSession, reminder: Reminder, *, action: str) -> None:
    """Cancel the reminder's job if it waits; do nothing if it has ended.

    A failed reminder may have a waiting job too: an operator may have retried it by hand.
    """
    if reminder.job_id is None:
        return
    job_id = JobId(reminder.job_id)
    try:
        await cancel_job(session, job_id)
    except NotFound:
        return
    except Conflict:
        if await _has_ended(session, job_id):
            return
        raise Conflict(
            f"Reminder {reminder.id} is being sent right now and cannot be {action}: "
            "try again in a moment"
        ) from None
    channel = reminder.channel
    await after_commit(session, lambda: reminder_event("cancelled", channel))


async def _has_ended(session: AsyncSession, job_id: JobId) -> bool:
    try:
        job = await get_job(session, job_id)
    except NotFound:
        return True
    return job.status not in LIVE


def _check_recipient(reminder: Reminder, changes: dict[str, Any]) -> None:
    channel = ChannelName(changes.get("channel", reminder.channel))
    recipient = changes.get("recipient", reminder.recipient)
    try:
        check_recipient(channel, recipient)
    except ValueError as error:
        raise InvalidInput(f"recipient for channel {channel}: {error}", field="recipient") from None
