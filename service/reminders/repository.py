"""Every query on `reminders`. Nothing here commits: the transaction is the caller's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, BigInteger, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import JobId
from service.reminders.model import AWAITING_DELIVERY, Reminder, ReminderId, ReminderStatus
from service.reminders.recipients import ChannelName


@dataclass(frozen=True, slots=True)
class DueReminder:
    """What a job needs of its due reminder."""

    id: ReminderId
    delivery_id: UUID
    channel: ChannelName


async def insert(session: AsyncSession, values: dict[str, Any]) -> Reminder:
    """A new reminder, scheduled."""
    reminder = Reminder(**values)
    session.add(reminder)
    await session.flush()
    return reminder


async def find(
    session: AsyncSession, reminder_id: ReminderId, *, user_id: str | None, lock: bool = False
) -> Reminder | None:
    """One reminder; None if it does not exist or is not `user_id`'s (None: anybody's).

    With `lock` its row stays locked to the end of the transaction.
    """
    query = select(Reminder).where(Reminder.id == reminder_id)
    if user_id is not None:
        query = query.where(Reminder.user_id == user_id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return (await session.execute(query)).scalar_one_or_none()


async def page(
    session: AsyncSession,
    *,
    limit: int,
    before: ReminderId | None = None,
    user_id: str | None = None,
    status: ReminderStatus | None = None,
) -> Sequence[Reminder]:
    """Up to `limit` reminders, newest first, older than `before`."""
    query = select(Reminder).order_by(Reminder.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Reminder.id < before)
    if user_id is not None:
        query = query.where(Reminder.user_id == user_id)
    if status is ReminderStatus.SENT:
        query = query.where(Reminder.status == status)
    elif status is not None:
        # The second half is what lets the partial index on unsent ones serve.
        query = query.where(Reminder.status == status, Reminder.status != ReminderStatus.SENT)
    return (await session.execute(query)).scalars().all()


async def save_change(
    session: AsyncSession, reminder: Reminder, changes: dict[str, Any]
) -> Reminder:
    """Write the changes of a locked reminder; it is scheduled again, as another delivery."""
    row = await session.execute(
        update(Reminder)
        .where(Reminder.id == reminder.id)
        .values(
            **changes,
            status=ReminderStatus.SCHEDULED,
            delivery_id=uuid4(),
            attempts=0,
            job_id=None,
            last_error=None,
            updated_at=func.now(),
        )
        .returning(Reminder)
        .execution_options(populate_existing=True)
    )
    return row.scalar_one()


async def delete(session: AsyncSession, reminder: Reminder) -> None:
    """Remove a locked reminder."""
    await session.delete(reminder)
    await session.flush()


# -- on the way to a job --------------------------------------------------------------------------
async def lock_due(session: AsyncSession, limit: int) -> list[DueReminder]:
    """Up to `limit` due reminders without a job, oldest first, locked.

    Skips those that another transaction holds: it is enqueueing or changing them.
    """
    rows = await session.execute(
        select(Reminder.id, Reminder.delivery_id, Reminder.channel)
        .where(Reminder.status == ReminderStatus.SCHEDULED, Reminder.send_at <= func.now())
        .order_by(Reminder.send_at, Reminder.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [DueReminder(ReminderId(r.id), r.delivery_id, ChannelName(r.channel)) for r in rows]


_MARK_QUEUED: Final = text("""
UPDATE finmind_jobs.reminders r
SET status = 'queued', job_id = j.job_id, attempts = 0, updated_at = now()
FROM unnest(:ids, :job_ids) AS j (id, job_id)
WHERE r.id = j.id
""").bindparams(
    bindparam("ids", type_=ARRAY(BigInteger)), bindparam("job_ids", type_=ARRAY(BigInteger))
)


async def mark_queued(
    session: AsyncSession, ids: Sequence[ReminderId], job_ids: Sequence[JobId]
) -> None:
    """Record the jobs of locked reminders."""
    await session.execute(_MARK_QUEUED, {"ids": list(ids), "job_ids": list(job_ids)})


async def count_awaiting_delivery(session: AsyncSession, cap: int) -> int:
    """How many reminders have a job that is to send them; counted up to `cap`."""
    some = (
        select(Reminder.id)
        .where(Reminder.status.in_(AWAITING_DELIVERY), Reminder.status != ReminderStatus.SENT)
        .limit(cap)
        .subquery()
    )
    return (await session.execute(select(func.count()).select_from(some))).scalar_one()


# -- its delivery ---------------------------------------------------------------------------------
async def mark_sent(
    session: AsyncSession, reminder_id: ReminderId, delivery_id: UUID, *, attempt: int
) -> bool:
    """Record that the channel accepted; False if the reminder is gone, changed or already sent."""
    result = await session.execute(
        update(Reminder)
        .where(
            Reminder.id == reminder_id,
            Reminder.delivery_id == delivery_id,
            Reminder.status != ReminderStatus.SENT,
        )
        .values(
            status=ReminderStatus.SENT,
            sent_at=func.now(),
            attempts=attempt,
            last_error=None,
            updated_at=func.now(),
        )
        .returning(Reminder.id)
    )
    return result.scalar_one_or_none() is not None


async def mark_failed_attempt(
    session: AsyncSession,
    reminder_id: ReminderId,
    delivery_id: UUID,
    *,
    attempt: int,
    error: str,
    status: ReminderStatus,
) -> None:
    """Record a failed attempt, unless the reminder was sent or changed meanwhile."""
    await session.execute(
        update(Reminder)
        .where(
            Reminder.id == reminder_id,
            Reminder.delivery_id == delivery_id,
            Reminder.status != ReminderStatus.SENT,
        )
        .values(status=status, attempts=attempt, last_error=error, updated_at=func.now())
    )


_RECONCILE: Final = text("""
WITH ended AS (
  SELECT r.id, r.job_id FROM finmind_jobs.reminders r
  WHERE r.status IN ('queued', 'retrying') AND r.status <> 'sent'
    AND NOT EXISTS (SELECT FROM finmind_jobs.background_jobs live
                    WHERE live.id = r.job_id AND live.status IN ('PENDING', 'RUNNING'))
  ORDER BY r.id LIMIT :limit
  FOR UPDATE OF r SKIP LOCKED
), judged AS (
  SELECT ended.id,
    CASE WHEN j.status = 'CANCELLED' THEN 'cancelled' ELSE 'failed' END AS status,
    CASE WHEN j.status IS NULL THEN 'Its job was deleted before the reminder was sent'
         WHEN j.status = 'CANCELLED' THEN 'Its job was cancelled before the reminder was sent'
         WHEN j.status = 'SUCCESS' THEN 'Its job ended without sending the reminder'
         ELSE 'Given up: an operator can see why, and retry it' END AS why
  FROM ended LEFT JOIN finmind_jobs.background_jobs j ON j.id = ended.job_id
)
UPDATE finmind_jobs.reminders r
SET status = judged.status, updated_at = now(),
  last_error = CASE WHEN judged.why LIKE 'Given up%' THEN coalesce(r.last_error, judged.why)
                    ELSE judged.why END
FROM judged WHERE r.id = judged.id
RETURNING r.channel, r.status
""")


async def reconcile(session: AsyncSession, limit: int) -> list[tuple[ChannelName, ReminderStatus]]:
    """End up to `limit` reminders whose job has ended without sending them.

    A reminder and its job are enqueued in one transaction, and `sent` is recorded before the job
    can end: who sees the job ended in one statement's snapshot sees the reminder sent as well.
    Only the live partition is asked for each; the others for those few that are not there.
    """
    rows = await session.execute(_RECONCILE, {"limit": limit})
    return [(ChannelName(row.channel), ReminderStatus(row.status)) for row in rows]
