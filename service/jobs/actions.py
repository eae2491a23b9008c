"""What people and clients do to single jobs, in the caller's transaction."""

from datetime import datetime

import asyncpg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.after_commit import after_commit
from service.errors import Conflict, NotFound
from service.jobs import store
from service.jobs.core.job import BackgroundJob, JobId, JobStatus
from service.jobs.core.new_job import checked_moment
from service.jobs.notify.publisher import publish_after_commit
from service.jobs.read.get import get_job
from service.observability.metrics import record_event

_MAX_ERRORS = 20


async def retry_dead_letter_job(
    session: AsyncSession, job_id: JobId, *, by: str | None = None, max_errors: int = _MAX_ERRORS
) -> BackgroundJob:
    """Put a DEAD_LETTER or FAILED job back to PENDING: attempts 0, due now, its errors kept.

    Args:
        session: holds the caller's transaction.
        job_id: the job.
        by: who asked, for the job's history.
        max_errors: entries that its history keeps.

    Raises:
        NotFound: no such job.
        Conflict: its status does not allow it, another live job has its `unique_key`, or it holds
            what plain SQL put there and no job may hold.
    """
    try:
        async with session.begin_nested():
            retried = await store.actions.retry_dead(session, job_id, by=by, max_errors=max_errors)
    except IntegrityError as error:
        raise Conflict(f"Job {job_id} cannot be retried: {_hindrance(error)}") from None
    if retried is None:
        status = await _status_of(session, job_id)
        raise Conflict(
            f"Job {job_id} is {status}: only DEAD_LETTER and FAILED jobs can be retried by hand"
        )
    job_type = retried.job_type
    await publish_after_commit(session, [retried.lane])
    await after_commit(session, lambda: record_event("manual_retry", job_type))
    return await get_job(session, job_id)


async def cancel_job(session: AsyncSession, job_id: JobId) -> BackgroundJob:
    """Make a PENDING job CANCELLED.

    Raises:
        NotFound: no such job.
        Conflict: it is not PENDING.
    """
    job_type = await store.actions.cancel(session, job_id)
    if job_type is None:
        status = await _status_of(session, job_id)
        raise Conflict(f"Job {job_id} is {status}: only PENDING jobs can be cancelled")
    await after_commit(session, lambda: record_event("cancelled", job_type))
    return await get_job(session, job_id)


async def delete_job(session: AsyncSession, job_id: JobId) -> None:
    """Remove a job and its history; any but a RUNNING one.

    Raises:
        NotFound: no such job.
        Conflict: it is RUNNING.
    """
    if not await store.actions.delete(session, job_id):
        status = await _status_of(session, job_id)
        raise Conflict(f"Job {job_id} is {status}: wait until it has ended, then delete it")


async def reschedule_job(session: AsyncSession, job_id: JobId, run_at: datetime) -> None:
    """Move a PENDING job to another time.

    Raises:
        InvalidInput: `run_at` has no time zone, or does not lie between the years 2000 and 2200.
        NotFound: no such job.
        Conflict: it is not PENDING.
    """
    lane = await store.actions.reschedule(session, job_id, checked_moment(run_at))
    if lane is None:
        status = await _status_of(session, job_id)
        raise Conflict(f"Job {job_id} is {status}: only PENDING jobs can be moved")
    await publish_after_commit(session, [lane])


def _hindrance(error: IntegrityError) -> str:
    refused = getattr(error.orig, "__cause__", None)
    if isinstance(refused, asyncpg.CheckViolationError):
        return f"its row breaks a rule of the table ({refused.args[0]}). Enqueue a new job instead"
    return "another job with its unique_key is pending or running. Wait for that one, or cancel it"


async def _status_of(session: AsyncSession, job_id: JobId) -> JobStatus:
    status = await store.actions.status_of(session, job_id)
    if status is None:
        raise NotFound(f"There is no job {job_id}")
    return status
