"""Read one job."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from service.db.session import schema_of
from service.errors import NotFound
from service.jobs import store
from service.jobs.core.job import BackgroundJob, JobId


async def get_job(session: AsyncSession, job_id: JobId) -> BackgroundJob:
    """The whole job, wherever its status puts it.

    Raises:
        NotFound: there is no such job; it may have been deleted, or its retention may be over.
    """
    await schema_of(session)
    whole = select(BackgroundJob).options(undefer(BackgroundJob.version))
    query = whole.where(BackgroundJob.id == job_id)
    # The session may have seen the row before a raw statement changed it.
    job = (await session.execute(query, execution_options={"populate_existing": True})).scalar()
    if job is None:
        raise NotFound(f"There is no job {job_id}")
    return job


async def worker_name(session: AsyncSession, worker_id: int | None) -> str | None:
    """The name of a worker; None where none is asked for, or it is forgotten."""
    if worker_id is None:
        return None
    return await store.workers.name_of(session, worker_id)
