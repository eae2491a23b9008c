"""How many jobs there are: finished ones from the kept counts, live ones counted, up to a cap."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.jobs.core.job import JobStatus
from service.jobs.read.lookups import BY_INDEX

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


@dataclass(frozen=True, slots=True)
class DayCounts:
    """What ended on one UTC day, and is still kept."""

    day: date
    by_status: dict[JobStatus, int]


@dataclass(frozen=True, slots=True)
class JobStats:
    """Counts of one moment. Where `total_exact` is false, live jobs were counted up to the cap."""

    as_of: datetime
    total: int
    total_exact: bool
    by_status: dict[JobStatus, int]
    by_type: dict[str, int]
    by_type_rest: int
    by_queue: dict[str, int]
    by_queue_rest: int
    due_now: int
    oldest_due_seconds: float | None
    scheduled: int
    running: int
    days: list[DayCounts]


# One statement, hence one snapshot: a job that ends meanwhile is counted once.
_COUNTS: Final = text("""
    WITH live AS MATERIALIZED (
      SELECT queue, job_type, status, next_run_at FROM finmind_jobs.background_jobs
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
      sum(jobs)::bigint AS jobs, sum(due)::bigint AS due, sum(live)::bigint AS live
    FROM (
      SELECT status, count(*) AS jobs,
        count(*) FILTER (WHERE status = 'PENDING' AND next_run_at <= now()) AS due,
        count(*) AS live
      FROM live GROUP BY status
      UNION ALL SELECT status, sum(jobs), 0, 0 FROM ended GROUP BY status
    ) AS both_kinds GROUP BY status
    UNION ALL
    SELECT kind, name, NULL, jobs::bigint, 0, 0 FROM ranked WHERE place <= :names
    UNION ALL
    SELECT 'day', status, day, jobs::bigint, 0, 0 FROM ended
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


async def get_job_stats(session: AsyncSession, *, cap: int = 10_000) -> JobStats:
    """How many jobs there are, by status, type, queue and day, and how long the oldest waits.

    Args:
        session: read in its transaction, the rest of which is planned as `BY_INDEX` says.
        cap: live jobs counted, at the most. Over it `total_exact` is false, and every figure on
            live jobs is at least so much.
    """
    await schema_of(session)
    await session.execute(BY_INDEX)
    bounds = {
        "cap": cap,
        "names": MAX_NAMES,
        "pairs": MAX_PAIRS,
        "groups": MAX_GROUPS,
        "days": DAYS,
    }
    rows = (await session.execute(_COUNTS, bounds)).all()
    oldest = (await session.execute(_OLDEST_DUE, {"lanes": _MAX_LANES})).one()
    # Deltas of the kept counts may be negative, never their sum; a hand that deleted rows by SQL
    # could make it so, and a count below zero would help nobody.
    statuses = {row.name: row for row in rows if row.kind == "status"}
    by_status = {
        status: max(0, statuses[status].jobs) if status in statuses else 0 for status in JobStatus
    }
    live = sum(row.live for row in statuses.values())
    due = sum(row.due for row in statuses.values())
    by_type = {row.name: row.jobs for row in rows if row.kind == "type"}
    by_queue = {row.name: row.jobs for row in rows if row.kind == "queue"}
    total = sum(by_status.values())
    days: dict[date, dict[JobStatus, int]] = {}
    for row in rows:
        if row.kind == "day" and row.name in JobStatus.__members__:
            days.setdefault(row.day, {})[JobStatus(row.name)] = max(0, row.jobs)
    return JobStats(
        as_of=oldest.as_of.astimezone(UTC),
        total=total,
        total_exact=live <= cap,
        by_status=by_status,
        by_type=by_type,
        by_type_rest=max(0, total - sum(by_type.values())),
        by_queue=by_queue,
        by_queue_rest=max(0, total - sum(by_queue.values())),
        due_now=due,
        oldest_due_seconds=None if oldest.seconds is None else float(oldest.seconds),
        scheduled=by_status[JobStatus.PENDING] - due,
        running=by_status[JobStatus.RUNNING],
        days=[DayCounts(day, days[day]) for day in sorted(days, reverse=True)],
    )
