"""Count jobs by status, type, queue and day, and find the oldest due one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

MAX_NAMES: Final = 200
"""Job types and queues counted by name; the rest are summed."""

MAX_PAIRS: Final = 20_000
"""Pairs of queue and type, those with the most ended jobs, that counts by name are made of: names come
from clients, and to rank hundreds of thousands would take longer than a statement may."""

MAX_GROUPS: Final = 500_000
"""Rows of the kept counts that are read for them. Totals are of all rows, a tenth of a second each
million."""

DAYS: Final = 7
"""Days of finished jobs shown, today included."""

# One statement, hence one snapshot: a job that ends meanwhile is counted once.
_COUNTS: Final = text("""
    WITH live AS MATERIALIZED (
      SELECT queue, job_type, status, next_run_at, held_for FROM finmind_jobs.background_jobs
      WHERE status IN ('PENDING', 'RUNNING') ORDER BY id DESC LIMIT :cap + 1
    ), ended AS MATERIALIZED (
      SELECT status, day, sum(jobs) AS jobs FROM finmind_jobs.job_stats GROUP BY 1, 2
    ), pairs AS MATERIALIZED (
      SELECT queue, job_type, count(*) AS jobs FROM live GROUP BY 1, 2
      UNION ALL (
        SELECT queue, job_type, sum(jobs)
        FROM (SELECT queue, job_type, jobs FROM finmind_jobs.job_stats LIMIT :groups) AS s
        GROUP BY 1, 2 ORDER BY sum(jobs) DESC LIMIT :pairs)
    ), named AS (
      SELECT CASE WHEN grouping(job_type) = 0 THEN 'type' ELSE 'queue' END AS kind,
        coalesce(job_type, queue) AS name, sum(jobs) AS jobs
      FROM pairs GROUP BY GROUPING SETS ((job_type), (queue)) HAVING sum(jobs) > 0
    ), ranked AS (
      SELECT *, row_number() OVER (PARTITION BY kind ORDER BY jobs DESC, name COLLATE "C") AS place
      FROM named
    )
    SELECT 'status' AS kind, status AS name, CAST(NULL AS date) AS day,
      sum(jobs)::bigint AS jobs, sum(due)::bigint AS due, sum(held)::bigint AS held,
      sum(live)::bigint AS live
    FROM (
      SELECT status, count(*) AS jobs,
        count(*) FILTER (WHERE status = 'PENDING' AND next_run_at <= now()) AS due,
        count(held_for) AS held, count(*) AS live
      FROM live GROUP BY status
      UNION ALL SELECT status, sum(jobs), 0, 0, 0 FROM ended GROUP BY status
    ) AS both_kinds GROUP BY status
    UNION ALL
    SELECT kind, name, NULL, jobs::bigint, 0, 0, 0 FROM ranked WHERE place <= :names
    UNION ALL
    SELECT 'day', status, day, jobs::bigint, 0, 0, 0 FROM ended
    WHERE day > (now() AT TIME ZONE 'UTC')::date - CAST(:days AS integer)
      AND day <= (now() AT TIME ZONE 'UTC')::date + 1  -- by the clock of whoever wrote it
    ORDER BY kind, jobs DESC, name""")

# A lane is a queue and a priority. The first due job of each stands at the start of its stretch of
# the claim index, behind those that run.
_OLDEST_DUE: Final = text("""
    WITH RECURSIVE lanes AS (
      (SELECT queue, priority, 1 AS number FROM finmind_jobs.background_jobs
       WHERE status IN ('PENDING', 'RUNNING') ORDER BY queue, priority LIMIT 1)
      UNION ALL
      SELECT next.queue, next.priority, lanes.number + 1 FROM lanes CROSS JOIN LATERAL (
        SELECT queue, priority FROM finmind_jobs.background_jobs
        WHERE status IN ('PENDING', 'RUNNING')
          AND (queue, priority) > (lanes.queue, lanes.priority)
        ORDER BY queue, priority LIMIT 1
      ) AS next WHERE lanes.number < :lanes
    )
    SELECT now() AS as_of, extract(epoch FROM now()) - extract(epoch FROM min(oldest.next_run_at)) AS seconds
    FROM lanes CROSS JOIN LATERAL (
      SELECT next_run_at FROM finmind_jobs.background_jobs
      WHERE status IN ('PENDING', 'RUNNING') AND status = 'PENDING' AND next_run_at <= now()
        AND queue = lanes.queue AND priority = lanes.priority
      ORDER BY next_run_at LIMIT 1
    ) AS oldest""")

_MAX_LANES: Final = 2000


async def counts(session: AsyncSession, *, cap: int) -> Sequence[Row[Any]]:
    """Rows of `kind`, `name`, `day`, `jobs`, `due`, `held`, `live`; live jobs are counted up to `cap`."""
    limits = {
        "cap": cap,
        "names": MAX_NAMES,
        "pairs": MAX_PAIRS,
        "groups": MAX_GROUPS,
        "days": DAYS,
    }
    return (await session.execute(_COUNTS, limits)).all()


async def oldest_due(session: AsyncSession) -> tuple[datetime, float | None]:
    """What time it is for the database, and for how many seconds the oldest due job has been due."""
    row = (await session.execute(_OLDEST_DUE, {"lanes": _MAX_LANES})).one()
    return row.as_of, None if row.seconds is None else float(row.seconds)
