"""Count what each queue holds, and who serves it, for operators."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.lane import Lane, LaneHead
from service.jobs.store.gauges import QUEUE_GAUGES
from service.jobs.store.lanes import LANES, LANES_OF, head_columns
from service.jobs.store.statement import Statement
from service.jobs.store.statistics import MAX_GROUPS

_SERVED_BY: Final = Statement("""
SELECT split_part(q, ':', 1), count(DISTINCT w.id)
FROM finmind_jobs.job_workers w, unnest(w.queues) q
WHERE w.stopped_at IS NULL AND w.seen_at > now() - make_interval(secs => :alive_seconds)
GROUP BY 1 ORDER BY 1 LIMIT :limit
""")
"""How many live workers serve each queue by name; `*` for those that serve all."""

_DEAD: Final = Statement("""
SELECT queue, GREATEST(sum(jobs) FILTER (WHERE status IN ('FAILED', 'DEAD_LETTER')), 0)::bigint AS dead
FROM (SELECT queue, status, jobs FROM finmind_jobs.job_stats
      WHERE :queue::text IS NULL OR queue = :queue LIMIT :groups) s
GROUP BY 1 HAVING sum(jobs) > 0 ORDER BY dead DESC NULLS LAST, 1 LIMIT :limit
""")
"""Queues in which jobs have ended, and how many of them FAILED or are dead letters."""


_HELD: Final = Statement("""
SELECT l.queue, count(h.held_for)
FROM unnest(:queues::text[], :priorities::smallint[]) AS l(queue, priority)
CROSS JOIN LATERAL (
  SELECT b.held_for FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at = 'infinity' LIMIT :cap) h
GROUP BY 1
""")
"""Held jobs of each queue; each lane's look is capped."""

_RUNS: Final = Statement("""
SELECT EXISTS (
  SELECT FROM finmind_jobs.jobs_live
  WHERE queue = :queue AND status = 'RUNNING' AND lease_until > now())
""")


class LiveCount(NamedTuple):
    """What a queue holds: of each of its lanes so many jobs were counted as the caller said."""

    due: int
    running: int
    oldest_due_seconds: float
    """0 where none is due."""


async def heads(session: AsyncSession, *, limit: int) -> list[LaneHead]:
    """The lanes that hold jobs, up to `limit`."""
    rows = await fetch(session, *LANES.bind(limit=limit, after_queue="", after_priority=-1))
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def heads_of(session: AsyncSession, queue: str) -> list[LaneHead]:
    """The lanes of one queue that hold jobs."""
    rows = await fetch(session, *LANES_OF.bind(queues=[queue]))
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def live(
    session: AsyncSession, lanes: Sequence[LaneHead], *, cap: int
) -> dict[str, LiveCount]:
    """What each of the queues holds, up to `cap` jobs a lane."""
    rows = await fetch(session, *QUEUE_GAUGES.bind(**head_columns(lanes), cap=cap))
    return {row[0]: LiveCount(*row[1:4]) for row in rows}


async def held(session: AsyncSession, lanes: Sequence[LaneHead], *, cap: int) -> dict[str, int]:
    """How many jobs of each of the queues are held, up to `cap` a lane; of those that have any."""
    found = await fetch(
        session,
        *_HELD.bind(
            queues=[head.lane.queue for head in lanes],
            priorities=[head.lane.priority for head in lanes],
            cap=cap,
        ),
    )
    return {row[0]: row[1] for row in found}


async def runs(session: AsyncSession, queue: str) -> bool:
    """Whether any job of the queue runs under a lease: however many are due, all are looked at."""
    return bool((await fetch(session, *_RUNS.bind(queue=queue)))[0][0])


async def dead(session: AsyncSession, *, limit: int, queue: str | None = None) -> dict[str, int]:
    """FAILED jobs and dead letters by queue, of those in which jobs have ended; or of one."""
    rows = await fetch(session, *_DEAD.bind(groups=MAX_GROUPS, limit=limit, queue=queue))
    return {row[0]: row[1] or 0 for row in rows}


async def served_by(session: AsyncSession, *, alive_seconds: float, limit: int) -> dict[str, int]:
    """How many live workers name each queue; `*` is for those that serve all."""
    rows = await fetch(session, *_SERVED_BY.bind(alive_seconds=alive_seconds, limit=limit))
    return {row[0]: row[1] for row in rows}


_TYPES: Final = Statement("""
WITH live AS (
  SELECT job_type, status, next_run_at FROM finmind_jobs.jobs_live WHERE queue = :queue
  ORDER BY priority, next_run_at LIMIT :cap),
kept AS (
  SELECT job_type, status, jobs FROM finmind_jobs.job_stats WHERE queue = :queue LIMIT :groups)
SELECT job_type,
  sum(jobs) FILTER (WHERE status = 'PENDING')::bigint,
  sum(jobs) FILTER (WHERE status = 'RUNNING')::bigint,
  sum(jobs) FILTER (WHERE status = 'SUCCESS')::bigint,
  sum(jobs) FILTER (WHERE status IN ('FAILED', 'DEAD_LETTER'))::bigint AS dead
FROM (SELECT job_type, status, 1 AS jobs FROM live UNION ALL SELECT job_type, status, jobs FROM kept) s
GROUP BY 1 HAVING sum(jobs) > 0 ORDER BY dead DESC NULLS LAST, sum(jobs) DESC, 1 LIMIT :limit
""")


class TypeCounts(NamedTuple):
    """Jobs of one type in a queue."""

    job_type: str
    pending: int
    running: int
    succeeded: int
    dead: int


async def types(session: AsyncSession, queue: str, *, cap: int, limit: int) -> list[TypeCounts]:
    """The job types in a queue, those with most failures first; `cap` live jobs are counted."""
    rows = await fetch(session, *_TYPES.bind(queue=queue, cap=cap, groups=MAX_GROUPS, limit=limit))
    return [TypeCounts(row[0], *(max(0, count or 0) for count in row[1:])) for row in rows]
