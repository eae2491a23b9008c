"""Read the parents and the children of a job."""

from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.job import JobId
from service.jobs.store.enqueue import Fetch
from service.jobs.store.statement import Statement

PARENTS_OF: Final = Statement("""
WITH page AS (
SELECT d.parent_id, b.job_type, b.queue, b.status, d.outcome, d.on_parent_failure,
  CASE WHEN :result_bytes::bigint > 0 THEN b.result::text END AS result
FROM (
  SELECT * FROM finmind_jobs.job_dependencies
  WHERE child_id = :job_id AND parent_id > :after_id ORDER BY parent_id LIMIT :limit) d
LEFT JOIN LATERAL (
  SELECT * FROM finmind_jobs.background_jobs p WHERE p.id = d.parent_id LIMIT 1) b ON true)
SELECT parent_id, job_type, queue, status, on_parent_failure, outcome, result FROM (
  SELECT *, sum(COALESCE(length(result), 0)) OVER (ORDER BY parent_id) - COALESCE(length(result), 0) AS before
  FROM page) p
WHERE before <= :result_bytes::bigint ORDER BY parent_id
""")
"""With results of `:result_bytes` characters together, or a little more."""


CHILDREN_OF: Final = Statement("""
SELECT d.child_id, b.job_type, b.queue, b.status, d.on_parent_failure
FROM (
  SELECT * FROM finmind_jobs.job_dependencies
  WHERE parent_id = :job_id AND child_id > :after_id ORDER BY child_id LIMIT :limit) d
LEFT JOIN LATERAL (
  SELECT * FROM finmind_jobs.background_jobs c WHERE c.id = d.child_id LIMIT 1) b ON true
ORDER BY d.child_id
""")


class Relative(NamedTuple):
    """A parent or a child of a job; without type, queue and status where it is gone."""

    id: JobId
    job_type: str | None
    queue: str | None
    status: str | None
    on_parent_failure: str
    outcome: str | None = None
    result: str | None = None


async def parents_of(
    run: Fetch, job_id: JobId, *, after_id: int, limit: int, result_bytes: int = 0
) -> list[Relative]:
    """The parents of a job behind `after_id`, by id; with their results as JSON text, up to so many bytes."""
    values = {"after_id": after_id, "limit": limit, "result_bytes": result_bytes}
    return [Relative(*row) for row in await run(*PARENTS_OF.bind(job_id=job_id, **values))]


async def children_of(
    session: AsyncSession, job_id: JobId, *, after_id: int, limit: int
) -> list[Relative]:
    """The children of a job behind `after_id`, by id."""
    rows = await fetch(session, *CHILDREN_OF.bind(job_id=job_id, after_id=after_id, limit=limit))
    return [Relative(*row) for row in rows]
