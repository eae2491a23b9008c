"""What every action needs: the audit entry of a job, and the words of a refusal."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.errors import NotFound
from service.jobs import store
from service.jobs.core.job import JobId, JobStatus
from service.jobs.notify.publisher import announce_after_commit

MAX_ERRORS: Final = 20
"""Entries that a job's history keeps, unless the caller's settings say otherwise."""


async def record(
    session: AsyncSession, actor: Actor | None, action: str, job_id: JobId, **entry: Any
) -> None:
    """Write what was done to a job into the audit log (`audit.record`), and tell open dashboards."""
    await audit.record(session, actor, action, subject_type="job", subject_id=str(job_id), **entry)
    await announce_after_commit(session)


def only(job: Mapping[str, Any] | None, *columns: str) -> dict[str, Any] | None:
    """These columns of a job; None where there was none."""
    return None if job is None else {name: job[name] for name in columns}


async def status_of(session: AsyncSession, job_id: JobId) -> JobStatus:
    """The status that does not allow an action.

    Raises:
        NotFound: no such job.
    """
    status = await store.actions.status_of(session, job_id)
    if status is None:
        raise NotFound(f"There is no job {job_id}")
    return status
