"""The `send_reminder` job: one attempt to deliver one reminder.

A reminder counts as sent when its channel has accepted it, not before. A crash before that is recorded
means a second delivery, with the same Message-ID or idempotency key, so that the receiver can recognise
the repeat.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs import JobContext, JobId, PermanentError, Registry, RetryAfter, registry
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, reminder_event
from service.reminders import repository
from service.reminders.channels import (
    Channel,
    ChannelNotConfigured,
    Delivery,
    PermanentDeliveryError,
    TemporaryDeliveryError,
    build_channels,
)
from service.reminders.model import Reminder, ReminderId, ReminderStatus
from service.reminders.recipients import ChannelName
from service.reminders.scheduling import JOB_TYPE, QUEUE, SendReminder
from service.settings import Settings

RECORD_PAUSES_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses between attempts to record that a message was sent: giving up means sending it twice."""

_log = get_logger(__name__)


class ReminderSender:
    """Delivers reminders: what the handler needs besides its payload."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._channels: dict[ChannelName, Channel] = build_channels(settings)
        # The pool's timeout is for requests. A burst of deliveries queues here instead, in order and as
        # long as it takes, and leaves half of the pool to requests.
        self._turns = asyncio.Semaphore(max(1, settings.database_pool_size // 2))

    async def send(self, payload: SendReminder, context: JobContext) -> dict[str, str | None]:
        """Deliver the reminder of one job and record the result.

        Returns:
            `{"sent": <the channel's id of it>}`, or `{"skipped": <why>}` where there is nothing
            to send: the reminder is gone, sent already, or changed since the job was made, or it
            has another job: one that was enqueued with a copy of this payload sends nothing.

        Raises:
            PermanentError: the channel refuses it for good, or is not configured.
            RetryAfter: the channel asked to wait that long.
            DeliveryError: not accepted now.
        """
        reminder_id, delivery_id = ReminderId(payload.reminder_id), UUID(payload.delivery_id)
        reminder = await self._load(reminder_id)
        if (reason := _why_skip(reminder, delivery_id, context.job_id)) or reminder is None:
            return {"skipped": reason}
        channel = ChannelName(reminder.channel)
        delivery = Delivery(reminder_id, delivery_id, reminder.recipient, reminder.message)
        try:
            # No transaction is open here: sending may take long.
            accepted_as = await self._channels[channel].deliver(delivery)
        except (PermanentDeliveryError, TemporaryDeliveryError) as error:
            await self._record_failure(delivery, channel, error, context=context)
            raise _as_job_error(error) from None
        await self._record_sent(delivery, channel, attempt=context.attempt)
        return {"sent": accepted_as}

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession]:
        async with self._turns, self._database.sessions.begin() as session:
            yield session

    async def _load(self, reminder_id: ReminderId) -> Reminder | None:
        async with self._transaction() as session:
            return await repository.find(session, reminder_id, user_id=None)

    async def _record_sent(self, delivery: Delivery, channel: ChannelName, *, attempt: int) -> None:
        for pause in (*RECORD_PAUSES_SECONDS, None):
            try:
                async with self._transaction() as session:
                    recorded = await repository.mark_sent(
                        session,
                        ReminderId(delivery.reminder_id),
                        delivery.delivery_id,
                        attempt=attempt,
                    )
                break
            except (*DATABASE_ERRORS, SQLAlchemyError):
                record_database_error("reminder_sent")
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        reminder_event("sent", channel, "ok" if recorded else "changed_meanwhile")

    async def _record_failure(
        self,
        delivery: Delivery,
        channel: ChannelName,
        error: PermanentDeliveryError | TemporaryDeliveryError,
        *,
        context: JobContext,
    ) -> None:
        """Show the failure on the reminder. If that fails, the failure itself must still be raised."""
        last = isinstance(error, PermanentDeliveryError) or context.is_last_attempt
        try:
            async with self._transaction() as session:
                await repository.mark_failed_attempt(
                    session,
                    ReminderId(delivery.reminder_id),
                    delivery.delivery_id,
                    attempt=context.attempt,
                    error=str(error),
                    status=ReminderStatus.FAILED if last else ReminderStatus.RETRYING,
                )
        except (*DATABASE_ERRORS, SQLAlchemyError) as trouble:
            record_database_error("reminder_failed")
            _log.warning(
                "reminder_failure_not_recorded",
                reminder_id=delivery.reminder_id,
                error=type(trouble).__name__,
            )
        reminder_event("failed" if last else "retried", channel, _reason(error))


def bind(database: Database, settings: Settings, *, to: Registry = registry) -> ReminderSender:
    """Register the `send_reminder` handler on this database; called at the start of a service.

    Raises:
        ConfigurationError: a setting of a channel is invalid.
    """
    sender = ReminderSender(database, settings)
    slowest_channel = max(settings.smtp_timeout_seconds, settings.twilio_timeout_seconds)
    to.handler(
        JOB_TYPE,
        # Beyond the channel's own timeout, so that its clearer message is recorded.
        timeout=slowest_channel + sum(RECORD_PAUSES_SECONDS) + 30,
        max_retries=settings.default_max_retries,
        payload_model=SendReminder,
        queue=QUEUE,
        internal=True,
    )(sender.send)
    return sender


def _why_skip(reminder: Reminder | None, delivery_id: UUID, job_id: JobId) -> str | None:
    if reminder is None:
        return "the reminder was deleted"
    if reminder.delivery_id != delivery_id:
        return "the reminder was changed, and has another job"
    if reminder.job_id != job_id:
        return "the reminder has another job"
    if reminder.sent:
        return "the reminder was sent already"
    return None


def _as_job_error(error: PermanentDeliveryError | TemporaryDeliveryError) -> Exception:
    if isinstance(error, PermanentDeliveryError):
        return PermanentError(str(error))
    if error.retry_after_seconds is not None:
        return RetryAfter(error.retry_after_seconds, str(error))
    return error


def _reason(error: PermanentDeliveryError | TemporaryDeliveryError) -> str:
    match error:
        case ChannelNotConfigured():
            return "not_configured"
        case PermanentDeliveryError():
            return "refused"
        case _:
            return "deferred"
