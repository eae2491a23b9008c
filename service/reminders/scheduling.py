"""From a due reminder to its job, and what a change of the reminder means for that job.

Row locks are always taken in one order, the reminder's first and its job's second, so that no
two of these can wait for each other. Nothing here commits but the batches of `enqueue_all_due`.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
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
    transaction: Callable[[], AbstractAsyncContextManager[AsyncSession]],
    settings: Settings,
    *,
    actor: Actor | None = None,
) -> Scan:
    """Enqueue every due reminder, a `transaction` a batch, up to 50,000.

    `already_queued` counts, up to COUNT_CAP, the reminders that had a job when this began. Done by
    hand it is in the audit log, by `actor`, once it has ended.
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
    scan = Scan(enqueued=enqueued, already_queued=already_queued)
    if actor is not None:
        async with transaction() as session:
            await audit.record(
                session, actor, "reminder.run", subject_type="reminder", after=asdict(scan)
            )
    return scan


async def change_reminder(
    session: AsyncSession,
    reminder_id: ReminderId,
    changes: dict[str, Any],
    *,
    user_id: str | None,
    actor: Actor | None = None,
) -> Reminder:
    """Change an unsent reminder: its job, if any, is cancelled, and it is scheduled again.

    A failed reminder that is changed is thereby sent again.

    Args:
        session: the caller's; the reminder stays locked to the end of its transaction.
        reminder_id: which one.
        changes: new values of message, send_at, channel, recipient.
        user_id: whose it must be; None for anybody's.
        actor: who changes it, for the audit log; a user's own reminder has no entry.

    Raises:
        NotFound: no such reminder, or another user's.
        Conflict: it is sent, or is being sent right now.
        InvalidInput: the recipient does not fit the channel.
    """
    reminder = await _locked(session, reminder_id, user_id=user_id)
    if reminder.status == ReminderStatus.SENT:
        raise Conflict(f"Reminder {reminder_id} has been sent: it can no longer be changed")
    _check_recipient(reminder, changes)
    await _cancel_pending_job(session, reminder, action="changed", actor=actor)
    before = _audited(reminder)
    changed = await repository.save_change(session, reminder, changes)
    await _record_if_anothers(
        session, actor, "reminder.edit", changed,
        before=before, after=_audited(changed) | {"changed": sorted(changes)},
    )  # fmt: skip
    return changed


async def delete_reminder(
    session: AsyncSession,
    reminder_id: ReminderId,
    *,
    user_id: str | None,
    actor: Actor | None = None,
) -> None:
    """Delete a reminder and cancel its pending job.

    In the audit log as done by `actor`; the deletion of a user's own reminder has no entry.

    Raises:
        NotFound: no such reminder, or another user's.
        Conflict: it is being sent right now.
    """
    reminder = await _locked(session, reminder_id, user_id=user_id)
    if reminder.status != ReminderStatus.SENT:
        await _cancel_pending_job(session, reminder, action="deleted", actor=actor)
    await _record_if_anothers(
        session, actor, "reminder.delete", reminder, before=_audited(reminder)
    )
    await repository.delete(session, reminder)


async def _record_if_anothers(
    session: AsyncSession, actor: Actor | None, action: str, reminder: Reminder, **entry: Any
) -> None:
    if actor is not None and actor.subject != reminder.user_id:
        await audit.record(
            session, actor, action, subject_type="reminder", subject_id=str(reminder.id), **entry
        )


def _audited(reminder: Reminder) -> dict[str, Any]:
    """What the audit log keeps: neither the message nor the recipient."""
    return {name: getattr(reminder, name) for name in ("user_id", "channel", "send_at", "status")}


async def _locked(
    session: AsyncSession, reminder_id: ReminderId, *, user_id: str | None
) -> Reminder:
    reminder = await repository.find(session, reminder_id, user_id=user_id, lock=True)
    if reminder is None:
        raise NotFound(f"No reminder {reminder_id}")
    return reminder


async def _cancel_pending_job(
    session: AsyncSession, reminder: Reminder, *, action: str, actor: Actor | None
) -> None:
    """Cancel the reminder's job if it waits; do nothing if it has ended.

    A failed reminder may have a waiting job too: an operator may have retried it by hand.
    """
    if reminder.job_id is None:
        return
    job_id = JobId(reminder.job_id)
    try:
        reason = f"its reminder {reminder.id} was {action}"
        await cancel_job(session, job_id, actor=actor, reason=reason, only_pending=True)
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
