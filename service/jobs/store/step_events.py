"""Send events to jobs, for the steps that wait for them."""

from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.job import JobId
from service.jobs.store.statement import Statement, Transition

SEND_EVENT: Final = Transition("""
WITH sent AS (
  INSERT INTO finmind_jobs.job_events (job_id, name, data, sent_by)
  VALUES (:job_id, :name::text, :data::json, :sent_by) ON CONFLICT DO NOTHING RETURNING name),
met AS (
  UPDATE finmind_jobs.job_steps s SET finished_at = clock_timestamp(), result = :data::json
  FROM sent WHERE s.job_id = :job_id AND s.name = sent.name AND s.kind = 'event'
    AND s.finished_at IS NULL
  RETURNING s.job_id),
due AS (
  UPDATE finmind_jobs.jobs_live b SET next_run_at = clock_timestamp() FROM met
  WHERE b.id = met.job_id AND b.status = 'PENDING' AND b.held_for IS NULL
    AND b.next_run_at > clock_timestamp()
  RETURNING b.id)
SELECT EXISTS (SELECT FROM sent), EXISTS (SELECT FROM met), EXISTS (SELECT FROM due)
""")
"""Keeps an event unless there is one of its name, ends the step that waits for it, and makes the job due if
that is what it waits for. Sent once the job is locked, by a statement before: what stored a step until then
is seen. If the job runs, the statement that puts it back sees that the step has ended."""


READ_EVENT: Final = Statement("""
SELECT name, data::text, sent_at, sent_by FROM finmind_jobs.job_events
WHERE job_id = :job_id AND name = :name
""")


SAME_EVENT: Final = Statement("""
SELECT data::jsonb IS NOT DISTINCT FROM :data::jsonb FROM finmind_jobs.job_events
WHERE job_id = :job_id AND name = :name
""")


COUNT_EVENTS: Final = Statement(
    "SELECT count(*) FROM finmind_jobs.job_events WHERE job_id = :job_id AND name <> :name"
)


class EventRow(NamedTuple):
    """An event as the database keeps it."""

    name: str
    data: str | None
    """JSON text; None: null."""
    sent_at: datetime
    sent_by: str | None


class Sent(NamedTuple):
    """What came of an event."""

    is_new: bool
    met: bool
    """Whether a step waited for it."""
    due: bool
    """Whether that made the job due."""


NOT_SENT: Final = Sent(is_new=False, met=False, due=False)


async def send(
    session: AsyncSession, job_id: JobId, name: str, data: str | None, *, sent_by: str | None
) -> Sent:
    """Send an event, data as JSON text, to a job that the transaction has locked."""
    bound = SEND_EVENT.bind(job_id=job_id, name=name, data=data, sent_by=sent_by)
    return Sent(*(await fetch(session, *bound))[0])


async def read(session: AsyncSession, job_id: JobId, name: str) -> EventRow:
    """An event of a job, which is there."""
    return EventRow(*(await fetch(session, *READ_EVENT.bind(job_id=job_id, name=name)))[0])


async def is_same(session: AsyncSession, job_id: JobId, name: str, data: str | None) -> bool:
    """Whether a job has an event of this name and with this data."""
    rows = await fetch(session, *SAME_EVENT.bind(job_id=job_id, name=name, data=data))
    return bool(rows and rows[0][0])


async def others(session: AsyncSession, job_id: JobId, name: str) -> int:
    """How many events of other names a job has."""
    rows = await fetch(session, *COUNT_EVENTS.bind(job_id=job_id, name=name))
    return int(rows[0][0])
