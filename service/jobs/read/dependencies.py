"""Read which jobs wait for which."""

from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs import store
from service.jobs.core.job import JobId
from service.jobs.store.relatives import Relative

RELATIVES: Final = 100
"""Parents or children of one page; one more is read, which tells whether there are others."""


async def parents_of(
    session: AsyncSession, job_id: JobId, *, after_id: int = 0, limit: int = RELATIVES
) -> list[Relative]:
    """The jobs that a job waits or waited for, behind an id; one more than the limit."""
    run = partial(fetch, session)
    return await store.relatives.parents_of(run, job_id, after_id=after_id, limit=limit + 1)


async def children_of(
    session: AsyncSession, job_id: JobId, *, after_id: int = 0, limit: int = RELATIVES
) -> list[Relative]:
    """The jobs that wait or waited for a job, behind an id; one more than the limit."""
    return await store.relatives.children_of(session, job_id, after_id=after_id, limit=limit + 1)
