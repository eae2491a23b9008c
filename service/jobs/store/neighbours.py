"""The jobs of one type before and after a job."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.job import MAX_ID, JobId

MAX_LIVE_LOOKED: Final = 2_000
"""Live jobs looked at on either side: they have no index by type."""

_NEAREST: Final = """
    SELECT {which}(id) FROM (
      (SELECT id FROM finmind_jobs.background_jobs WHERE status IN ('SUCCESS', 'CANCELLED')
         AND (job_type, id) {beyond} (:job_type, :job_id) AND (job_type, id) {within}
         ORDER BY job_type {order}, id {order} LIMIT 1)
      UNION ALL
      (SELECT id FROM finmind_jobs.background_jobs WHERE status IN ('DEAD_LETTER', 'FAILED')
         AND (job_type, id) {beyond} (:job_type, :job_id) AND (job_type, id) {within}
         ORDER BY job_type {order}, id {order} LIMIT 1)
      UNION ALL
      (SELECT id FROM (
         SELECT id, job_type FROM finmind_jobs.background_jobs
         WHERE status IN ('PENDING', 'RUNNING') AND id {beyond} :job_id
         ORDER BY id {order} LIMIT :looked
       ) AS live WHERE job_type = :job_type ORDER BY id {order} LIMIT 1)
    ) AS nearest"""

_OLDER: Final = text(
    _NEAREST.format(which="max", beyond="<", order="DESC", within="> (:job_type, -1)")
)
_NEWER: Final = text(
    _NEAREST.format(which="min", beyond=">", order="ASC", within="<= (:job_type, :max_id)")
)


async def of_type(
    session: AsyncSession, job_type: str, job_id: JobId
) -> tuple[JobId | None, JobId | None]:
    """The nearest older and the nearest newer job of the type, in a transaction planned by index."""
    values = {"job_type": job_type, "job_id": job_id, "looked": MAX_LIVE_LOOKED}
    older = await session.scalar(_OLDER, values)
    newer = await session.scalar(_NEWER, values | {"max_id": MAX_ID})
    return older, newer
