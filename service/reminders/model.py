"""A reminder as the database stores it, and its statuses.

                    ┌──────── changed by its user ────────┐
    scheduled ──▶ queued ──▶ retrying ──▶ failed, cancelled
                    └────────────┴──────────┴──▶ sent

`failed` and `cancelled` are not the end: an operator may retry the job, the user may change the
reminder. `sent` is the end.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final, NewType
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, FetchedValue, SmallInteger, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from service.jobs.core.job import Base

ReminderId = NewType("ReminderId", int)


class ReminderStatus(StrEnum):
    """The status of a reminder, in its user's terms."""

    SCHEDULED = "scheduled"
    """Waits for its time."""
    QUEUED = "queued"
    """Its time has come: a job will send it."""
    RETRYING = "retrying"
    """At least one attempt failed; another will follow."""
    SENT = "sent"
    """The channel accepted it."""
    FAILED = "failed"
    """No more attempts; see `last_error`."""
    CANCELLED = "cancelled"
    """An operator cancelled its job."""


AWAITING_DELIVERY: Final = (ReminderStatus.QUEUED, ReminderStatus.RETRYING)
"""The statuses in which a live job is expected."""


class Reminder(Base):
    """One message to one recipient at one time."""

    __tablename__ = "reminders"
    # created_at and the like come back with the INSERT itself.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - SQLAlchemy reads a plain attribute

    id: Mapped[int] = mapped_column(BigInteger, FetchedValue(), primary_key=True)
    job_id: Mapped[int | None] = mapped_column(BigInteger)
    send_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    sent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), FetchedValue())
    delivery_id: Mapped[UUID] = mapped_column(Uuid, FetchedValue())
    attempts: Mapped[int] = mapped_column(SmallInteger, FetchedValue())
    user_id: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    channel: Mapped[str] = mapped_column(Text)
    recipient: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, FetchedValue())
    last_error: Mapped[str | None] = mapped_column(Text)

    @property
    def sent(self) -> bool:
        """Whether the channel has accepted it."""
        return self.status == ReminderStatus.SENT
