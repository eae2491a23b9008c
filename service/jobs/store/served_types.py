"""Find the job types that workers serve, and the due jobs that no worker serves."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.session import fetch
from service.jobs.core.lane import LaneHead
from service.jobs.store.fragments import NO_HANDLER_ENTRY, POSITION, failed_unrun
from service.jobs.store.lanes import head_columns
from service.jobs.store.statement import Statement, Transition

SERVED_TYPES: Final = Statement("""
SELECT DISTINCT t FROM finmind_jobs.job_workers w, unnest(w.job_types) t
WHERE CASE WHEN w.stopped_at IS NULL THEN w.seen_at > now() - make_interval(secs => :alive_seconds)
           ELSE w.stopped_at > now() - make_interval(secs => :grace_seconds) END
""")
"""Types that some worker serves: seen within `:alive_seconds`, or stopped within the grace."""


REMEMBER_SERVED_TYPES: Final = Statement("""
INSERT INTO finmind_jobs.served_types AS s (job_type, served_at)
SELECT t, max(w.seen_at) FROM finmind_jobs.job_workers w, unnest(w.job_types) t
GROUP BY 1 ORDER BY 1
ON CONFLICT (job_type) DO UPDATE SET served_at = EXCLUDED.served_at
WHERE s.served_at < EXCLUDED.served_at - interval '1 hour'
""")
"""To the hour, since it is remembered for days: most rounds write nothing."""


REMEMBERED_TYPES: Final = Statement("""
SELECT job_type FROM finmind_jobs.served_types WHERE served_at > now() - make_interval(days => :days)
ORDER BY 1
""")


FORGET_SERVED_TYPES: Final = Statement("""
DELETE FROM finmind_jobs.served_types WHERE served_at < now() - make_interval(days => :days)
""")


PUBLISH_TYPES: Final = Statement("""
WITH cleared AS (
  UPDATE finmind_jobs.served_types SET payload_schema = NULL, rules = NULL
  WHERE job_type = ANY (:without::text[]) AND (payload_schema IS NOT NULL OR rules IS NOT NULL))
INSERT INTO finmind_jobs.served_types AS s (job_type, served_at, payload_schema, rules)
SELECT t.job_type, now(), t.schema::jsonb, t.rules::jsonb
FROM unnest(:job_types::text[], :schemas::text[], :rules::text[]) AS t(job_type, schema, rules) ORDER BY 1
ON CONFLICT (job_type) DO UPDATE SET payload_schema = EXCLUDED.payload_schema, rules = EXCLUDED.rules
WHERE (s.payload_schema, s.rules) IS DISTINCT FROM (EXCLUDED.payload_schema, EXCLUDED.rules)
""")
"""Once a worker starts: as a rule nothing differs, and nothing is written."""


_OFFERED: Final = Statement("""
SELECT job_type, payload_schema::text FROM finmind_jobs.served_types ORDER BY 1 LIMIT :limit
""")


_ENCRYPTED: Final = Statement("""
SELECT job_type, rules -> 'encrypt' FROM finmind_jobs.served_types WHERE rules ? 'encrypt' ORDER BY 1
""")


FAIL_UNSERVED: Final = Transition(f"""
WITH head AS MATERIALIZED (
  SELECT j.ctid AS place, j.job_type
  FROM unnest(:queues::text[], :priorities::smallint[], :first_at::float8[]) AS l(queue, priority, first_at)
  CROSS JOIN LATERAL (
    SELECT b.ctid, b.job_type FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.status = 'PENDING'
      AND b.next_run_at >= to_timestamp(l.first_at)
      AND b.next_run_at <= now() - make_interval(secs => :due_seconds)
    ORDER BY {POSITION} LIMIT :walk) j),
unserved AS MATERIALIZED (
  SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
  WHERE b.ctid = ANY (ARRAY(SELECT place FROM head WHERE job_type <> ALL (:served::text[]) LIMIT :limit))
    AND b.status = 'PENDING' FOR UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.ctid = ANY (ARRAY(SELECT place FROM unserved)) RETURNING *),
{failed_unrun("'No handler registered for job type: ' || job_type", NO_HANDLER_ENTRY)}
SELECT id, job_type FROM kept
""")


WAITING_FOR_WORKER: Final = Statement(f"""
SELECT j.job_type, count(*)
FROM unnest(:queues::text[], :priorities::smallint[], :first_at::float8[]) AS l(queue, priority, first_at)
CROSS JOIN LATERAL (
  SELECT b.job_type FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.status = 'PENDING'
    AND b.next_run_at >= to_timestamp(l.first_at)
    AND b.next_run_at <= now() - make_interval(secs => :due_seconds)
  ORDER BY {POSITION} LIMIT :walk) j
WHERE j.job_type = ANY (:job_types::text[]) GROUP BY 1 ORDER BY 1
""")
"""Jobs that have been due for so long, by type, of the types given."""


async def remember(link: Link) -> None:
    """Note which types the registered workers serve."""
    await link.fetch(*REMEMBER_SERVED_TYPES.bind())


async def forget(link: Link, *, days: int) -> None:
    """Forget the types that no worker has served for so long."""
    await link.fetch(*FORGET_SERVED_TYPES.bind(days=days))


class Published(NamedTuple):
    """What other processes, and SQL, are told of a type: two JSON texts, None where there is nothing."""

    payload_schema: str | None
    rules: str | None


async def publish(link: Link, types: Mapping[str, Published]) -> None:
    """Note what is to be known of these types."""
    told = {job_type: one for job_type, one in sorted(types.items()) if any(one)}
    await link.fetch(
        *PUBLISH_TYPES.bind(
            without=sorted(types.keys() - told.keys()),
            job_types=list(told),
            schemas=[one.payload_schema for one in told.values()],
            rules=[one.rules for one in told.values()],
        )
    )


async def offered(session: AsyncSession, *, limit: int) -> list[tuple[str, str | None]]:
    """The types that some worker has served within the days remembered, with their schemas."""
    rows = await fetch(session, *_OFFERED.bind(limit=limit))
    return [(row[0], row[1]) for row in rows]


async def encrypted(session: AsyncSession) -> list[tuple[str, Any]]:
    """The types whose payloads are encrypted, and what of them, as workers have published."""
    return [(row[0], row[1]) for row in await fetch(session, *_ENCRYPTED.bind())]


async def served(link: Link, *, alive_seconds: float, grace_seconds: float) -> set[str]:
    """Types of the workers seen within `alive_seconds`, or stopped within `grace_seconds`."""
    rows = await link.fetch(
        *SERVED_TYPES.bind(alive_seconds=alive_seconds, grace_seconds=grace_seconds)
    )
    return {row[0] for row in rows}


async def remembered(link: Link, *, days: int) -> set[str]:
    """Types that some worker has served within so many days."""
    return {row[0] for row in await link.fetch(*REMEMBERED_TYPES.bind(days=days))}


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
    rows = await link.fetch(
        *FAIL_UNSERVED.bind(
            **head_columns(heads),
            served=sorted(served),
            due_seconds=due_seconds,
            walk=walk,
            limit=limit,
            max_errors=max_errors,
        )
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
    rows = await link.fetch(
        *WAITING_FOR_WORKER.bind(
            **head_columns(heads), job_types=sorted(job_types), due_seconds=due_seconds, walk=walk
        )
    )
    return {row[0]: row[1] for row in rows}
