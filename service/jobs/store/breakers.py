"""Jobs whose target does not answer: held for its breaker, and let go when that closes, or one to try it.

The breakers themselves are in `targets`, which `service/targets/` writes.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from service.jobs.core.claimed_job import Lease
from service.jobs.core.holds import BREAKER
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane
from service.jobs.store.enqueue import Fetch
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY
from service.jobs.store.statement import Statement, Transition

HOLD_FOR_BREAKER: Final = Transition(f"""
WITH mine AS MATERIALIZED (
  SELECT b.id, r.held_for
  FROM unnest(:ids::bigint[], :tokens::bigint[], :holds::text[]) AS r(id, token, held_for)
  JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  WHERE b.status = 'PENDING' AND b.lease_token = r.token AND b.held_for IS NULL
  ORDER BY b.id FOR UPDATE OF b SKIP LOCKED)
UPDATE finmind_jobs.jobs_live b SET held_for = r.held_for, held_since = clock_timestamp(),
  held_due_at = least(b.next_run_at, clock_timestamp()), next_run_at = 'infinity'
FROM mine r WHERE {ID_BY_PRIMARY_KEY}
RETURNING b.id
""")
"""Hold jobs that have put themselves off under these leases. One that is held for a limit, that somebody has
changed into another state or that was claimed since is left alone: its handler asks again."""


MOVE_TO_BREAKER: Final = Transition(f"""
WITH next AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.jobs_live b WHERE b.held_for = :limit_name AND b.status = 'PENDING'
  ORDER BY b.priority, b.held_due_at, (b.id + 0) LIMIT :limit FOR UPDATE SKIP LOCKED)
UPDATE finmind_jobs.jobs_live b SET held_for = :held_for
FROM next r WHERE {ID_BY_PRIMARY_KEY} AND b.held_for = :limit_name
RETURNING b.id
""")
"""Hold jobs for a breaker that are held for the limit of the same target: they would take the free permits one
after another, and find it open."""


RELEASE_FROM_BREAKER: Final = Transition(f"""
WITH next AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.jobs_live b WHERE b.held_for = :held_for AND b.status = 'PENDING'
  ORDER BY b.priority, b.held_due_at, (b.id + 0) LIMIT :limit FOR UPDATE SKIP LOCKED)
UPDATE finmind_jobs.jobs_live b SET next_run_at = greatest(b.held_due_at, clock_timestamp()),
  held_for = NULL, held_since = NULL, held_due_at = NULL
FROM next r WHERE {ID_BY_PRIMARY_KEY} AND b.held_for = :held_for
RETURNING b.id, b.queue, b.priority
""")
"""Let the first jobs go that are held for a breaker. They come to the end of their lanes: workers have passed
what is before that."""


_HELD: Final = Statement(f"""
WITH RECURSIVE h AS (
  (SELECT held_for FROM finmind_jobs.jobs_live WHERE held_for > :after ORDER BY held_for LIMIT 1)
  UNION ALL
  SELECT (SELECT b.held_for FROM finmind_jobs.jobs_live b WHERE b.held_for > h.held_for
    ORDER BY b.held_for LIMIT 1)
  FROM h WHERE h.held_for LIKE '{BREAKER}%')
SELECT held_for FROM (SELECT held_for FROM h LIMIT :limit) h WHERE held_for LIKE '{BREAKER}%'
""")
"""The breakers that jobs are held for, a probe of the index for each."""


_READ: Final = Statement("""
SELECT name, opened_at, retry_at, last_error FROM finmind_jobs.targets WHERE name = :name
""")


class OpenBreaker(NamedTuple):
    """The breaker of a target."""

    name: str
    """Host and port."""
    opened_at: datetime | None
    """None: it is closed."""
    retry_at: datetime | None
    """When the next request is let through to try it."""
    last_error: str | None


async def hold(fetch: Fetch, jobs: Sequence[tuple[Lease, str]]) -> set[JobId]:
    """Hold these jobs, each for the breaker named beside its lease; those that were."""
    jobs = sorted(jobs)
    rows = await fetch(
        *HOLD_FOR_BREAKER.bind(
            ids=[job_id for (job_id, _), _ in jobs],
            tokens=[token for (_, token), _ in jobs],
            holds=[held_for for _, held_for in jobs],
        ),
    )
    return {JobId(row[0]) for row in rows}


async def move(fetch: Fetch, limit_name: str, held_for: str, *, limit: int) -> int:
    """Hold up to `limit` jobs for a breaker that are held for this limit on running jobs; how many."""
    bound = MOVE_TO_BREAKER.bind(limit_name=limit_name, held_for=held_for, limit=limit)
    return len(await fetch(*bound))


async def release(fetch: Fetch, held_for: str, *, limit: int) -> tuple[int, Collection[Lane]]:
    """Let the first `limit` jobs go that are held for this; how many, and the lanes that they are in."""
    rows = await fetch(*RELEASE_FROM_BREAKER.bind(held_for=held_for, limit=limit))
    return len(rows), {Lane(row[1], row[2]) for row in rows}


async def held(fetch: Fetch, *, limit: int, after: str = BREAKER) -> list[str]:
    """The breakers that jobs are held for, by name from behind `after` on: `breaker:crm.example.com:443`."""
    return [row[0] for row in await fetch(*_HELD.bind(limit=limit, after=after))]


async def read(fetch: Fetch, name: str) -> OpenBreaker | None:
    """The breaker of a target; None: nothing is known of it."""
    rows = await fetch(*_READ.bind(name=name))
    return OpenBreaker(*rows[0]) if rows else None
