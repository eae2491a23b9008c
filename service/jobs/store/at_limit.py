"""Find the jobs that make way where a limit is reached, for queues that do not just let jobs wait."""

from collections.abc import Collection, Mapping
from typing import Final

from service.db.connection import Link
from service.jobs.core.job import JobId
from service.jobs.store.statement import Statement

MAX_SUPERSEDED: Final = 1000
"""Jobs that one look finds to be superseded; the next job that is held finds the rest."""

RUNNING_WALK: Final = 10_000
"""Due jobs of each priority that are walked to find those that run: they come first, as a rule."""

SUPERSEDED: Final = Statement("""
SELECT id FROM (
  SELECT b.id, row_number() OVER (PARTITION BY b.held_for ORDER BY b.created_at DESC, b.id DESC) AS nth
  FROM finmind_jobs.jobs_live b WHERE b.held_for = ANY (:holds::text[]) AND b.status = 'PENDING') held
WHERE nth > 1 ORDER BY id LIMIT :limit
""")
"""Of the jobs that are held for a limit all but the newest."""


RUNNING_UNDER: Final = Statement("""
SELECT j.id FROM unnest(:permits::text[], :queues::text[], :wanted::int[]) AS a(permit, queue, wanted)
CROSS JOIN LATERAL (
  SELECT r.id FROM generate_series(0, 9) AS p(priority)
  CROSS JOIN LATERAL (
    SELECT b.id, b.status, b.permits, b.started_at, b.cancel FROM finmind_jobs.jobs_live b
    WHERE b.queue = a.queue AND b.priority = p.priority AND b.next_run_at <= now()
    ORDER BY b.next_run_at, (b.id + 0) LIMIT :walk) r
  WHERE r.status = 'RUNNING' AND a.permit = ANY (r.permits) AND r.cancel IS NULL
  ORDER BY r.started_at, r.id LIMIT a.wanted) j
""")
"""The jobs that have run longest under these limits, in these queues."""


async def superseded(link: Link, holds: Collection[str]) -> list[JobId]:
    """The jobs held for these limits, but the newest of each."""
    found = SUPERSEDED.bind(holds=sorted(holds), limit=MAX_SUPERSEDED)
    return [JobId(row[0]) for row in await link.fetch(*found)]


async def running_under(link: Link, wanted: Mapping[tuple[str, str], int]) -> list[JobId]:
    """The jobs that have run longest under limits, as many as `wanted` of each permit and queue."""
    rows = await link.fetch(
        *RUNNING_UNDER.bind(
            permits=[permit for permit, _ in wanted],
            queues=[queue for _, queue in wanted],
            wanted=list(wanted.values()),
            walk=RUNNING_WALK,
        )
    )
    return sorted({JobId(row[0]) for row in rows})
