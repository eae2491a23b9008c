"""Delete a job."""

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import Actor
from service.errors import Conflict
from service.jobs import store
from service.jobs.actions.acted_on import record, status_of
from service.jobs.core.job import JobId
from service.jobs.notify.publisher import publish_endings_after_commit


async def delete_job(
    session: AsyncSession,
    job_id: JobId,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> None:
    """Remove a job and its history; any but a RUNNING one.

    The audit log keeps what it was, without payload and result.

    Raises:
        NotFound: no such job.
        Conflict: it is RUNNING.
    """
    was = await store.actions.hold(session, job_id)
    if not await store.actions.delete(session, [job_id]):
        status = await status_of(session, job_id)
        raise Conflict(f"Job {job_id} is {status}: wait until it has ended, then delete it")
    await store.job_logs.delete(session, [job_id])
    await store.steps.delete(session, [job_id])
    await publish_endings_after_commit(session)
    await record(session, actor, "job.delete", job_id, reason=reason, before=was)
