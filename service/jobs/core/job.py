"""A job as the database keeps it, and what may become of it."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NewType

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    MetaData,
    SmallInteger,
    Text,
    TypeDecorator,
    case,
    literal_column,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column

from service.settings import DEFAULT_SCHEMA

JobId = NewType("JobId", int)
LeaseToken = NewType("LeaseToken", int)

MAX_ID: Final = 2**63 - 1
"""The largest id that the table can hold."""

DEFAULT_QUEUE: Final = "default"
DEFAULT_PRIORITY: Final = 2
HIGHEST_PRIORITY: Final = 0
LOWEST_PRIORITY: Final = 9
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$"
"""What a queue or a job type may be called; the table checks the same."""
NAME_RULE: Final = "1 to 100 letters, digits or _ . : - with a letter or digit first"


class JobStatus(StrEnum):
    """Where a job stands; docs/guarantees.md has the picture."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    DEAD_LETTER = "DEAD_LETTER"
    CANCELLED = "CANCELLED"


LIVE: Final = frozenset({JobStatus.PENDING, JobStatus.RUNNING})
DEAD: Final = frozenset({JobStatus.DEAD_LETTER, JobStatus.FAILED})
DONE: Final = frozenset({JobStatus.SUCCESS, JobStatus.CANCELLED})

TRANSITIONS: Final[dict[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.PENDING: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.PENDING} | DONE | DEAD),
    JobStatus.SUCCESS: frozenset(),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.DEAD_LETTER: frozenset({JobStatus.PENDING}),
    JobStatus.FAILED: frozenset({JobStatus.PENDING}),
}
"""Every legal step. Only a person's retry leaves DEAD_LETTER or FAILED."""


class Base(DeclarativeBase):
    """The tables that SQLAlchemy knows."""

    metadata = MetaData(schema=DEFAULT_SCHEMA)


class Moment(TypeDecorator[datetime]):
    """A time as Python can hold it: plain SQL may have put infinity there, or the year 200000."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """What is read in place of the column."""
        first: ColumnElement[datetime] = literal_column(FIRST_MOMENT)
        last: ColumnElement[datetime] = literal_column(LAST_MOMENT)
        return case((column < first, first), (column > last, last), else_=column)


FIRST_MOMENT: Final = "timestamptz '0001-01-02 00:00:00+00'"
LAST_MOMENT: Final = "timestamptz '9999-12-30 00:00:00+00'"
"""A day within the ends of Python's calendar, so that every time zone can show them."""


class BackgroundJob(Base):
    """One job: a row of `background_jobs`, in whichever partition its status puts it."""

    __tablename__ = "background_jobs"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    next_run_at: Mapped[datetime] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)
    lease_until: Mapped[datetime | None] = mapped_column(Moment)
    lease_token: Mapped[int | None] = mapped_column(BigInteger)
    worker_id: Mapped[int | None] = mapped_column(BigInteger)
    timeout_seconds: Mapped[float | None] = mapped_column(Double)
    priority: Mapped[int] = mapped_column(SmallInteger)
    attempts: Mapped[int] = mapped_column(SmallInteger)
    max_retries: Mapped[int | None] = mapped_column(SmallInteger)
    lost_leases: Mapped[int] = mapped_column(SmallInteger)
    queue: Mapped[str] = mapped_column(Text)
    job_type: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    unique_key: Mapped[str | None] = mapped_column(Text)
    last_error: Mapped[str | None] = mapped_column(Text)
    payload: Mapped[Any] = mapped_column(JSONB)
    result: Mapped[Any | None] = mapped_column(JSONB)
    progress: Mapped[Any | None] = mapped_column(JSONB)
    backoff: Mapped[Any | None] = mapped_column(JSONB)
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)
    enqueued_by: Mapped[str | None] = mapped_column(Text)
    fingerprint: Mapped[str | None] = mapped_column(Text)
    concurrency_key: Mapped[str | None] = mapped_column(Text)
    permits: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    held_for: Mapped[str | None] = mapped_column(Text)
    held_since: Mapped[datetime | None] = mapped_column(Moment)
    held_due_at: Mapped[datetime | None] = mapped_column(Moment)
    has_children: Mapped[bool | None] = mapped_column(Boolean)
    cancel: Mapped[Any | None] = mapped_column(JSONB)
    batch_id: Mapped[int | None] = mapped_column(BigInteger)
    unique_until_start: Mapped[str | None] = mapped_column(Text)
    callback: Mapped[Any | None] = mapped_column(JSONB)
    result_ttl_seconds: Mapped[float | None] = mapped_column(Double)

    version: Mapped[str] = column_property(literal_column("xmin::text", Text), deferred=True)
    """The transaction that wrote the row: another one after each change. Loaded by `get_job`."""

    @property
    def result_dropped(self) -> bool:
        """Whether the time of its result is over; its body may be there until retention's next round."""
        ttl, finished_at = self.result_ttl_seconds, self.finished_at
        if self.status != JobStatus.SUCCESS or ttl is None or finished_at is None:
            return False
        return (datetime.now(UTC) - finished_at).total_seconds() > ttl

    @property
    def own_key(self) -> str | None:
        """Its unique key, also if it had that until it started."""
        return self.unique_key or self.unique_until_start

    @property
    def due_at(self) -> datetime:
        """When it is due; what holds it back makes no difference."""
        return self.held_due_at or self.next_run_at
