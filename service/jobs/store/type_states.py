"""Read what is known of job types from their jobs."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

_LIVE: Final = text("""
    SELECT job_type, count(*) FILTER (WHERE status = 'RUNNING') AS running,
      count(*) FILTER (WHERE status = 'PENDING') AS pending,
      count(*) FILTER (WHERE status = 'PENDING' AND attempts > 0) AS retrying,
      sum(count(*)) OVER () <= :cap AS is_exact
    FROM (
      SELECT job_type, status, attempts FROM finmind_jobs.jobs_live ORDER BY id DESC LIMIT :cap + 1
    ) AS live GROUP BY 1""")

# By the index of each day on (job_type, id).
_SLOWEST: Final = text("""
    SELECT id, finished_at, extract(epoch FROM finished_at - started_at)::float8 AS seconds FROM (
      SELECT id, started_at, finished_at FROM finmind_jobs.background_jobs
      WHERE status = 'SUCCESS' AND job_type = :job_type ORDER BY id DESC LIMIT :latest
    ) AS latest WHERE started_at IS NOT NULL ORDER BY seconds DESC, id DESC LIMIT :limit""")


async def live(session: AsyncSession, *, cap: int) -> Sequence[Row[Any]]:
    """Jobs of each type that run, wait, or wait for a retry, among the newest `cap` live jobs."""
    return (await session.execute(_LIVE, {"cap": cap})).all()


async def slowest(
    session: AsyncSession, job_type: str, *, latest: int, limit: int
) -> Sequence[Row[Any]]:
    """Those of the `latest` jobs of a type that took longest, as the database saw them."""
    values = {"job_type": job_type, "latest": latest, "limit": limit}
    return (await session.execute(_SLOWEST, values)).all()
