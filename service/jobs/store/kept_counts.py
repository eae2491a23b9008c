"""Fold the kept counts, to which every settle appends."""

from typing import Final

from service.db.connection import Link
from service.jobs.store.statement import Statement

FOLD_STATS: Final = Statement("""
WITH old AS (DELETE FROM finmind_jobs.job_stats RETURNING queue, job_type, status, day, jobs),
folded AS (
  INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
  SELECT queue, job_type, status, day, sum(jobs) FROM old GROUP BY 1, 2, 3, 4
  HAVING sum(jobs) <> 0 RETURNING 1)
SELECT count(*) FROM folded
""")


STATS_ROWS: Final = Statement(
    "SELECT count(*) FROM (SELECT 1 FROM finmind_jobs.job_stats LIMIT :limit) s"
)


async def unfolded(link: Link, *, limit: int) -> int:
    """How many rows the kept counts have; counted up to `limit`."""
    rows: int = (await link.fetch(*STATS_ROWS.bind(limit=limit)))[0][0]
    return rows


async def fold(link: Link) -> int:
    """Sum the kept counts of each queue, type, status and day into one row; the rows left."""
    rows: int = (await link.fetch(*FOLD_STATS.bind()))[0][0]
    return rows
