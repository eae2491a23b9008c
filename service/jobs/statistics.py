"""How many jobs there are: finished ones from the kept counts, live ones counted, up to a cap."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.jobs.lookups import BY_INDEX
from service.jobs.model import JobStatus

MAX_NAMES: Final = 200
"""Job types and queues counted by name; the rest are summed."""

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
    ), counts AS MATERIALIZED (
      SELECT queue, job_type, status, count(*) AS jobs,
        count(*) FILTER (WHERE status = 'PENDING' AND next_run_at <= now()) AS due,
        count(*) AS live
      FROM live GROUP BY 1, 2, 3
      UNION ALL
      SELECT queue, job_type, status, sum(jobs), 0, 0 FROM finmind_jobs.job_stats GROUP BY 1, 2, 3
    ), named AS (
      SELECT CASE WHEN grouping(job_type) = 0 THEN 'type' ELSE 'queue' END AS kind,
        coalesce(job_type, queue) AS name, sum(jobs) AS jobs
      FROM counts GROUP BY GROUPING SETS ((job_type), (queue)) HAVING sum(jobs) > 0
    ), ranked AS (
      SELECT *, row_number() OVER (PARTITION BY kind ORDER BY jobs DESC, name) <= :names AS shown
      FROM named
    )
    SELECT 'status' AS kind, status AS name, CAST(NULL AS date) AS day,
      sum(jobs)::bigint AS jobs, sum(due)::bigint AS due, sum(live)::bigint AS live
    FROM counts GROUP BY status
    UNION ALL
    SELECT kind, CASE WHEN shown THEN name END, NULL, sum(jobs)::bigint, 0, 0
    FROM ranked GROUP BY 1, 2
    UNION ALL
    SELECT 'day', status, day, sum(jobs)::bigint, 0, 0 FROM finmind_jobs.job_stats
    WHERE day > (now() AT TIME ZONE 'UTC')::date - CAST(:days AS integer)
      AND day <= (now() AT TIME ZONE 'UTC')::date + 1  -- by the clock of whoever wrote it
    GROUP BY status, day
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
    rows = (await session.execute(_COUNTS, {"cap": cap, "names": MAX_NAMES, "days": DAYS})).all()
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
    days: dict[date, dict[JobStatus, int]] = {}
    for row in rows:
        if row.kind == "day" and row.name in JobStatus.__members__:
            days.setdefault(row.day, {})[JobStatus(row.name)] = max(0, row.jobs)
    return JobStats(
        as_of=oldest.as_of.astimezone(UTC),
        total=sum(by_status.values()),
        total_exact=live <= cap,
        by_status=by_status,
        by_type={name: jobs for name, jobs in by_type.items() if name is not None},
        by_type_rest=by_type.get(None, 0),
        by_queue={name: jobs for name, jobs in by_queue.items() if name is not None},
        by_queue_rest=by_queue.get(None, 0),
        due_now=due,
        oldest_due_seconds=None if oldest.seconds is None else float(oldest.seconds),
        scheduled=by_status[JobStatus.PENDING] - due,
        running=by_status[JobStatus.RUNNING],
        days=[DayCounts(day, days[day]) for day in sorted(days, reverse=True)],
    )
