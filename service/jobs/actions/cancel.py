"""Cancel a job, whether it waits or runs."""

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import PYTHON, Actor
from service.db.after_commit import after_commit
from service.errors import Conflict
from service.jobs import store
from service.jobs.actions.acted_on import only, record, status_of
from service.jobs.core.job import BackgroundJob, JobId, JobStatus
from service.jobs.notify.publisher import (
    publish_cancel_after_commit,
    publish_endings_after_commit,
)
from service.jobs.read.get import get_job
from service.observability.metrics import record_event


async def cancel_job(
    session: AsyncSession,
    job_id: JobId,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
    only_pending: bool = False,
) -> BackgroundJob:
    """Cancel a job; `actor` and `reason` are for its report, `job.cancel`, and for the audit log.

    A PENDING job is CANCELLED at once, and so is one whose worker was lost. A RUNNING one stays so until
    its worker has stopped its handler, or has waited `CANCEL_GRACE_SECONDS` for that. Once the caller's
    transaction has committed it ends CANCELLED whatever its handler does. To ask again changes nothing.
    With `only_pending` a RUNNING job is left alone.

    Raises:
        NotFound: no such job.
        Conflict: it has ended, or runs and is to be left alone.
    """
    was = await store.actions.hold(session, job_id)
    if only_pending and was is not None and was["status"] == JobStatus.RUNNING:
        raise Conflict(f"Job {job_id} is RUNNING: only PENDING jobs are to be cancelled here")
    by = (actor or Actor(PYTHON)).subject
    if cancelled := await store.actions.cancel(session, [job_id], asked_by=by, reason=reason):
        event, status, noted = "cancelled", JobStatus.CANCELLED, ["status", "next_run_at"]
        await publish_endings_after_commit(session)
    elif cancelled := await store.cancel.ask(session, [job_id], asked_by=by, reason=reason):
        event, status, noted = "cancel_requested", JobStatus.RUNNING, ["status"]
        await publish_cancel_after_commit(session, [job_id])
    else:
        status = await status_of(session, job_id)
        if status is not JobStatus.RUNNING:
            raise Conflict(
                f"Job {job_id} is {status}: only PENDING and RUNNING jobs can be cancelled"
            )
        return await get_job(session, job_id)  # somebody asked before
    ((_, job_type),) = cancelled
    await after_commit(session, lambda: record_event(event, job_type))
    await record(
        session, actor, "job.cancel", job_id, reason=reason,
        before=only(was, *noted), after={"status": status},
    )  # fmt: skip
    return await get_job(session, job_id)
