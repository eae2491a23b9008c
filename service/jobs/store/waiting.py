"""Read what keeps one job from starting: who serves it, what is before it, who holds its permits.

Every look is bounded by rows, and begins where an index holds the job or its limit.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane, LaneHead
from service.jobs.store.fragments import POSITION, readable
from service.jobs.store.lanes import head_columns
from service.jobs.store.statement import Statement

_SERVES_TYPE: Final = ":job_type = ANY (w.job_types)"
_SERVES_QUEUE: Final = (
    "EXISTS (SELECT FROM unnest(w.queues) q WHERE split_part(q, ':', 1) IN ('*', :queue))"
)
_LIVE: Final = (
    "(w.stopped_at IS NULL AND w.seen_at > now() - make_interval(secs => :alive_seconds))"
)

_WORKERS: Final = Statement(f"""
SELECT name, queues, job_types[1:20], serves_type, serves_queue,
  count(*) OVER (), count(*) FILTER (WHERE serves_type AND serves_queue) OVER (),
  COALESCE(sum(concurrency) FILTER (WHERE serves_type AND serves_queue) OVER (), 0)::bigint
FROM (SELECT w.*, {_SERVES_TYPE} AS serves_type, {_SERVES_QUEUE} AS serves_queue
      FROM finmind_jobs.job_workers w WHERE {_LIVE}) w
ORDER BY serves_type AND serves_queue DESC, serves_type DESC, serves_queue DESC, id LIMIT :limit
""")
"""The live workers, those first that serve the job; how many there are, and how many serve it."""

_LAST_WORKER: Final = Statement(f"""
SELECT w.name, w.seen_at, w.stopped_at IS NOT NULL FROM finmind_jobs.job_workers w
WHERE NOT {_LIVE} AND {_SERVES_TYPE} AND {_SERVES_QUEUE}
ORDER BY w.seen_at DESC, w.id DESC LIMIT 1
""")

_BEHIND: Final = Statement(f"""
WITH ahead AS (
  SELECT n.status FROM generate_series(0, :priority::smallint - 1) AS p(priority)
  CROSS JOIN LATERAL (
    SELECT b.status FROM finmind_jobs.jobs_live b
    WHERE b.queue = :queue AND b.priority = p.priority AND b.next_run_at <= now()
    ORDER BY {POSITION} LIMIT :cap) n
  UNION ALL
  (SELECT b.status FROM finmind_jobs.jobs_live b
   WHERE b.queue = :queue AND b.priority = :priority::smallint
     AND (b.next_run_at, (b.id + 0)) < (:due_at::timestamptz, :job_id::bigint)
   ORDER BY {POSITION} LIMIT :cap))
SELECT count(*) FILTER (WHERE status = 'PENDING'), count(*) < :cap FROM (SELECT * FROM ahead LIMIT :cap) a
""")
"""Due jobs of the queue that are claimed before a due one, and whether those were all."""

_HELD_BEFORE: Final = Statement("""
SELECT count(*) FROM (
  SELECT FROM finmind_jobs.jobs_live b
  WHERE b.held_for = :held_for
    AND (b.priority, b.held_due_at, (b.id + 0))
      < (:priority::smallint, :due_at::timestamptz, :job_id::bigint)
  LIMIT :cap + 1) before
""")

_HELD_FOR: Final = Statement("""
SELECT count(*) FROM (
  SELECT FROM finmind_jobs.jobs_live b WHERE b.held_for = :held_for LIMIT :cap + 1) held
""")

_LIMIT: Final = Statement("""
SELECT p.max_running, p.running, q.max_running, q.max_running_per_key
FROM (SELECT :key::text AS key) k
LEFT JOIN finmind_jobs.job_permits p ON p.key = k.key
LEFT JOIN finmind_jobs.queues q ON q.name = :queue
""")

_HOLDERS: Final = Statement(f"""
SELECT j.id, j.job_type, j.queue, j.started_at, w.name
FROM unnest(:queues::text[], :priorities::smallint[], :first_at::float8[]) AS l(queue, priority, first_at)
CROSS JOIN LATERAL (
  SELECT b.id, b.job_type, b.queue, {readable("started_at")}, b.worker_id, b.permits
  FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
    AND b.next_run_at >= to_timestamp(l.first_at)
  ORDER BY {POSITION} LIMIT :cap) j
LEFT JOIN finmind_jobs.job_workers w ON w.id = j.worker_id
WHERE :key = ANY (j.permits) LIMIT :limit
""")
"""Jobs that run under a limit, among the first `:cap` due ones of each lane: what runs became due before
what waits, and no index names it."""

_RUNNING_BEFORE: Final = Statement(f"""
SELECT b.id, b.job_type, b.queue, {readable("started_at")}, (
  SELECT w.name FROM finmind_jobs.job_workers w WHERE w.id = b.worker_id)
FROM finmind_jobs.jobs_live b
WHERE b.unique_until_start = :unique_key AND b.id <> :job_id ORDER BY b.id LIMIT :limit
""")
"""Jobs that had this unique key until they started."""

_PARENTS: Final = Statement("""
WITH unmet AS MATERIALIZED (
  SELECT parent_id, on_parent_failure FROM finmind_jobs.job_dependencies
  WHERE child_id = :job_id AND NOT met ORDER BY parent_id LIMIT :cap)
SELECT d.parent_id, p.job_type, p.queue, p.status, d.on_parent_failure, (SELECT count(*) FROM unmet)
FROM unmet d
LEFT JOIN LATERAL (
  SELECT b.job_type, b.queue, b.status FROM finmind_jobs.background_jobs b
  WHERE b.id = d.parent_id LIMIT 1) p ON true
ORDER BY p.status IN ('FAILED', 'DEAD_LETTER') DESC NULLS LAST, p.status = 'RUNNING', d.parent_id
LIMIT :limit
""")
"""Jobs that a job waits for: first those that do not run again by themselves, last those that run."""

_LAST_ENTRY_AT: Final = Statement("""
SELECT errors -> -1 ->> 'at' FROM finmind_jobs.jobs_live
WHERE id = :job_id AND jsonb_typeof(errors) = 'array'
""")


class LiveWorker(NamedTuple):
    """A live worker, and whether it could run the job."""

    name: str
    queues: list[str]
    """As `WORKER_QUEUES` of its process has them."""
    job_types: list[str]
    """The first 20."""
    serves_type: bool
    serves_queue: bool


class LiveWorkers(NamedTuple):
    """The live workers: all counted, the first named."""

    workers: list[LiveWorker]
    live: int
    serving: int
    """Those that serve the job's type and queue."""
    slots: int
    """Jobs that those can run at once."""


class LastWorker(NamedTuple):
    """The worker that served a job last, of those that live no more."""

    name: str
    seen_at: datetime
    stopped: bool
    """Whether it stopped in good order."""


class LimitRow(NamedTuple):
    """A limit on running jobs as the database has it."""

    asked: int | None
    """The limit when it was last asked for."""
    running: int | None
    queue_max_running: int | None
    queue_max_running_per_key: int | None


class Holder(NamedTuple):
    """A running job that holds a permit."""

    id: JobId
    job_type: str
    queue: str
    since: datetime | None
    worker: str | None


class UnmetParent(NamedTuple):
    """A job that another one waits for; without type, queue and status where it is gone."""

    id: JobId
    job_type: str | None
    queue: str | None
    status: str | None
    on_parent_failure: str


async def parents(
    session: AsyncSession, job_id: JobId, *, cap: int, limit: int
) -> tuple[list[UnmetParent], int]:
    """The first `limit` jobs that this one waits for, and how many there are, of `cap` looked at."""
    rows = await fetch(session, *_PARENTS.bind(job_id=job_id, cap=cap, limit=limit))
    return [UnmetParent(*row[:5]) for row in rows], rows[0][5] if rows else 0


async def workers(
    session: AsyncSession, lane: tuple[str, str], *, alive_seconds: float, limit: int
) -> LiveWorkers:
    """The live workers, those that serve this job type and queue first."""
    job_type, queue = lane
    rows = await fetch(
        session,
        *_WORKERS.bind(job_type=job_type, queue=queue, alive_seconds=alive_seconds, limit=limit),
    )
    live, serving, slots = rows[0][5:] if rows else (0, 0, 0)
    return LiveWorkers([LiveWorker(*row[:5]) for row in rows], live, serving, slots)


async def last_worker(
    session: AsyncSession, lane: tuple[str, str], *, alive_seconds: float
) -> LastWorker | None:
    """The worker that served this job type and queue last; None: none did within a day."""
    job_type, queue = lane
    rows = await fetch(
        session, *_LAST_WORKER.bind(job_type=job_type, queue=queue, alive_seconds=alive_seconds)
    )
    return LastWorker(*rows[0]) if rows else None


async def behind(
    session: AsyncSession, lane: Lane, *, due_at: datetime, job_id: JobId, cap: int
) -> tuple[int, bool]:
    """How many due jobs of the queue go before the one that is due then, and whether those are all."""
    rows = await fetch(
        session,
        *_BEHIND.bind(
            queue=lane.queue, priority=lane.priority, due_at=due_at, job_id=job_id, cap=cap
        ),
    )
    return rows[0][0], rows[0][1]


async def held_before(
    session: AsyncSession,
    held_for: str,
    *,
    priority: int,
    due_at: datetime,
    job_id: JobId,
    cap: int,
) -> tuple[int, bool]:
    """How many jobs held for the same go before this one, and whether those are all."""
    rows = await fetch(
        session,
        *_HELD_BEFORE.bind(
            held_for=held_for, priority=priority, due_at=due_at, job_id=job_id, cap=cap
        ),
    )
    return min(rows[0][0], cap), rows[0][0] <= cap


async def held_for(session: AsyncSession, held_for: str, *, cap: int) -> tuple[int, bool]:
    """How many jobs are held for this, and whether those are all."""
    rows = await fetch(session, *_HELD_FOR.bind(held_for=held_for, cap=cap))
    return min(rows[0][0], cap), rows[0][0] <= cap


async def limit_of(session: AsyncSession, key: str, queue: str) -> LimitRow:
    """The limit of this name, and what the queue allows."""
    rows = await fetch(session, *_LIMIT.bind(key=key, queue=queue))
    return LimitRow(*rows[0])


async def holders(
    session: AsyncSession, key: str, lanes: Sequence[LaneHead], *, cap: int, limit: int
) -> list[Holder]:
    """Running jobs that hold a permit of this name; of each lane the first `cap` jobs are looked at."""
    values = head_columns(lanes) | {"key": key, "cap": cap, "limit": limit}
    return [Holder(*row) for row in await fetch(session, *_HOLDERS.bind(**values))]


async def running_before(
    session: AsyncSession, unique_key: str, *, job_id: JobId, limit: int
) -> list[Holder]:
    """Jobs other than this one that had the unique key until they started, and have not ended."""
    rows = await fetch(
        session, *_RUNNING_BEFORE.bind(unique_key=unique_key, job_id=job_id, limit=limit)
    )
    return [Holder(*row) for row in rows]


async def last_entry_at(session: AsyncSession, job_id: JobId) -> str | None:
    """When the last entry of a live job's history was written, as its text; None: it has none."""
    rows = await fetch(session, *_LAST_ENTRY_AT.bind(job_id=job_id))
    return rows[0][0] if rows else None
