"""Find the job types that workers serve, and the due jobs that no worker serves."""

from collections.abc import Collection, Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.lane import LaneHead
from service.jobs.store.fragments import NO_HANDLER_ENTRY, POSITION, failed_unrun

SERVED_TYPES: Final = """
SELECT DISTINCT t FROM finmind_jobs.job_workers w, unnest(w.job_types) t
WHERE CASE WHEN w.stopped_at IS NULL THEN w.seen_at > now() - make_interval(secs => $1)
           ELSE w.stopped_at > now() - make_interval(secs => $2) END
"""
"""Types that some worker serves: seen within $1 seconds, or stopped within the grace of $2."""


REMEMBER_SERVED_TYPES: Final = """
INSERT INTO finmind_jobs.served_types AS s (job_type, served_at)
SELECT t, max(w.seen_at) FROM finmind_jobs.job_workers w, unnest(w.job_types) t
GROUP BY 1 ORDER BY 1
ON CONFLICT (job_type) DO UPDATE SET served_at = EXCLUDED.served_at
WHERE s.served_at < EXCLUDED.served_at - interval '1 hour'
"""
"""To the hour, since it is remembered for days: most rounds write nothing."""


REMEMBERED_TYPES: Final = """
SELECT job_type FROM finmind_jobs.served_types WHERE served_at > now() - make_interval(days => $1)
ORDER BY 1
"""


FORGET_SERVED_TYPES: Final = """
DELETE FROM finmind_jobs.served_types WHERE served_at < now() - make_interval(days => $1)
"""


FAIL_UNSERVED: Final = f"""
WITH head AS MATERIALIZED (
  SELECT j.ctid AS place, j.job_type
  FROM unnest($1::text[], $2::smallint[], $8::float8[]) AS l(queue, priority, first_at)
  CROSS JOIN LATERAL (
    SELECT b.ctid, b.job_type FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.status = 'PENDING'
      AND b.next_run_at >= to_timestamp(l.first_at)
      AND b.next_run_at <= now() - make_interval(secs => $4)
    ORDER BY {POSITION} LIMIT $5) j),
unserved AS MATERIALIZED (
  SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
  WHERE b.ctid = ANY (ARRAY(SELECT place FROM head WHERE job_type <> ALL ($3::text[]) LIMIT $6))
    AND b.status = 'PENDING' FOR UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.ctid = ANY (ARRAY(SELECT place FROM unserved)) RETURNING *),
{failed_unrun("'No handler registered for job type: ' || job_type", NO_HANDLER_ENTRY, keep="$7")}
SELECT id, job_type FROM kept
"""


WAITING_FOR_WORKER: Final = f"""
SELECT j.job_type, count(*)
FROM unnest($1::text[], $2::smallint[], $6::float8[]) AS l(queue, priority, first_at)
CROSS JOIN LATERAL (
  SELECT b.job_type FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.status = 'PENDING'
    AND b.next_run_at >= to_timestamp(l.first_at)
    AND b.next_run_at <= now() - make_interval(secs => $4)
  ORDER BY {POSITION} LIMIT $5) j
WHERE j.job_type = ANY ($3::text[]) GROUP BY 1 ORDER BY 1
"""
"""Jobs that have been due for so long, by type, of the types given."""


async def remember(link: Link) -> None:
    """Note which types the registered workers serve."""
    await link.fetch(REMEMBER_SERVED_TYPES)


async def forget(link: Link, *, days: int) -> None:
    """Forget the types that no worker has served for so long."""
    await link.fetch(FORGET_SERVED_TYPES, days)


async def served(link: Link, *, alive_seconds: float, grace_seconds: float) -> set[str]:
    """Types of the workers seen within `alive_seconds`, or stopped within `grace_seconds`."""
    return {row[0] for row in await link.fetch(SERVED_TYPES, alive_seconds, grace_seconds)}


async def remembered(link: Link, *, days: int) -> set[str]:
    """Types that some worker has served within so many days."""
    return {row[0] for row in await link.fetch(REMEMBERED_TYPES, days)}


async def fail_unserved(
    link: Link,
    heads: Sequence[LaneHead],
    served: Collection[str],
    *,
    due_seconds: float,
    walk: int,
    limit: int,
    max_errors: int,
) -> list[str]:
    """End jobs of other types FAILED that have been due so long; the types, one for each job.

    Looks at the first `walk` due jobs of each lane, and fails up to `limit`.
    """
    queues, priorities, firsts = _columns(heads)
    rows = await link.fetch(
        FAIL_UNSERVED,
        queues,
        priorities,
        sorted(served),
        due_seconds,
        walk,
        limit,
        max_errors,
        firsts,
    )
    return [row[1] for row in rows]


async def waiting(
    link: Link,
    heads: Sequence[LaneHead],
    job_types: Collection[str],
    *,
    due_seconds: float,
    walk: int,
) -> dict[str, int]:
    """Count jobs of these types that have been due so long, among the first `walk` of each lane."""
    queues, priorities, firsts = _columns(heads)
    rows = await link.fetch(
        WAITING_FOR_WORKER, queues, priorities, sorted(job_types), due_seconds, walk, firsts
    )
    return {row[0]: row[1] for row in rows}


def _columns(heads: Sequence[LaneHead]) -> tuple[list[str], list[int], list[float]]:
    return (
        [head.lane.queue for head in heads],
        [head.lane.priority for head in heads],
        [head.first_at for head in heads],
    )
