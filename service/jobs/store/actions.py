"""Change single jobs by hand: retry, cancel, delete, reschedule."""

from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.fields import RETRIED
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.lane import Lane
from service.jobs.store.fragments import (
    COUNT,
    MANUAL_RETRY_ENTRY,
    NO_LEASE,
    history,
    keep_ended,
    move,
)
from service.jobs.store.statement import Statement, Transition

_RETRIED: Final = move(
    "jobs_live",
    RETRIED,
    {
        "next_run_at": "clock_timestamp()",
        "errors": history("errors", MANUAL_RETRY_ENTRY),
    },
)


RETRY_DEAD: Final = Transition(f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_dead WHERE id = :job_id RETURNING *),
counted AS ({COUNT.format(sign="-", source="gone")})
{_RETRIED}
RETURNING id, job_type, queue, priority
""")


CANCEL: Final = Transition(f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_live WHERE id = :job_id AND status = 'PENDING' RETURNING *),
{keep_ended(NO_LEASE | {"status": "'CANCELLED'"})}
SELECT id, job_type FROM kept
""")


DELETE: Final = Transition(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.background_jobs WHERE id = :job_id AND status <> 'RUNNING'
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="-", source="gone")})
SELECT id FROM gone
""")


RESCHEDULE: Final = Transition("""
UPDATE finmind_jobs.jobs_live SET next_run_at = :run_at WHERE id = :job_id AND status = 'PENDING'
RETURNING id, queue, priority
""")


STATUS_OF: Final = Statement("SELECT status FROM finmind_jobs.background_jobs WHERE id = :job_id")


class Retried(NamedTuple):
    """A job that was put back by hand."""

    job_type: str
    lane: Lane


async def retry_dead(
    session: AsyncSession, job_id: JobId, *, by: str | None, max_errors: int
) -> Retried | None:
    """Put a DEAD_LETTER or FAILED job back to PENDING, due now; None where there is none such.

    Raises:
        sqlalchemy.exc.IntegrityError: its `unique_key` is taken, or its row breaks a rule of the
            table.
    """
    rows = await fetch(session, *RETRY_DEAD.bind(job_id=job_id, by=by, max_errors=max_errors))
    return Retried(rows[0][1], Lane(rows[0][2], rows[0][3])) if rows else None


async def cancel(session: AsyncSession, job_id: JobId) -> str | None:
    """Make a PENDING job CANCELLED; its type, None where there is none such."""
    rows = await fetch(session, *CANCEL.bind(job_id=job_id))
    return rows[0][1] if rows else None


async def delete(session: AsyncSession, job_id: JobId) -> bool:
    """Delete a job that is not RUNNING; False where there is none such."""
    return bool(await fetch(session, *DELETE.bind(job_id=job_id)))


async def reschedule(session: AsyncSession, job_id: JobId, run_at: datetime) -> Lane | None:
    """Move a PENDING job to another time; its lane, None where there is none such."""
    rows = await fetch(session, *RESCHEDULE.bind(job_id=job_id, run_at=run_at))
    return Lane(rows[0][1], rows[0][2]) if rows else None


async def status_of(session: AsyncSession, job_id: JobId) -> JobStatus | None:
    """A job's status; None where there is no such job."""
    rows = await fetch(session, *STATUS_OF.bind(job_id=job_id))
    return JobStatus(rows[0][0]) if rows else None
