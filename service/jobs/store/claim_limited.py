"""Claim due jobs of queues with limits, and grant or hold them at once: one fenced statement."""

from collections.abc import Mapping, Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LaneRequest
from service.jobs.store.admission import DECIDED, asks
from service.jobs.store.claim import (
    CLAIMED,
    LEASED,
    RESCUED,
    due_within_limits,
    lane_columns,
    queue_columns,
)
from service.jobs.store.statement import Transition

CLAIM_LIMITED: Final = Transition(f"""{due_within_limits()},
mine AS MATERIALIZED (
  SELECT b.id, b.ctid AS place, NULL::bigint AS token,
    row_number() OVER (ORDER BY b.priority, b.next_run_at, b.id) AS turn,
    {asks(key_limit="t.max_running")}
  FROM finmind_jobs.jobs_live b
  LEFT JOIN finmind_jobs.queues q ON q.name = b.queue
  LEFT JOIN unnest(:limited_types::text[], :type_limits::int[]) AS t(job_type, max_running)
    ON t.job_type = b.job_type
  WHERE b.ctid = ANY (ARRAY(SELECT place FROM due))),
{DECIDED},
held AS (
  UPDATE finmind_jobs.jobs_live b SET held_for = a.held_for, held_since = COALESCE(b.held_since, now()),
    held_due_at = b.next_run_at, next_run_at = 'infinity'
  FROM decided a WHERE b.ctid = a.place AND NOT a.admitted AND b.status = 'PENDING'
  RETURNING b.id, b.lease_token, b.queue, b.job_type, b.priority, b.attempts, NULL::int, NULL::float8, 0,
    date_part('epoch', b.held_due_at), 0::float8, '', NULL, false, b.cancel IS NOT NULL, b.concurrency_key,
    NULL::text[], NULL, b.held_for),
leased AS (
  UPDATE finmind_jobs.jobs_live b SET
    {LEASED},{RESCUED},
    permits = a.permits, held_since = CASE WHEN a.admitted THEN NULL ELSE b.held_since END
  FROM decided a
  WHERE b.ctid = a.place AND (a.admitted IS NOT FALSE OR b.status = 'RUNNING')
  RETURNING {CLAIMED}, NULL)
SELECT * FROM leased UNION ALL SELECT * FROM held
""")
"""Take due jobs as `CLAIM_WITHIN_LIMITS` does, and decide at once who of them may start, in the order of
priority and due time: those get their permits with the lease, and the others are held.

One that was rescued without permits, and one where the row of a limit is missing, is claimed without
permits: `ADMIT` decides.
"""


async def take(
    link: Link,
    requests: Sequence[LaneRequest],
    job_types: list[str],
    *,
    type_limits: Mapping[str, int],
    limit: int,
    lease_seconds: float,
    worker_id: int,
    max_errors: int,
) -> list[ClaimedJob]:
    """Take up to `limit` due jobs, and of those that come under limits only as many as may start.

    The others are held: `held_for` tells for what. Lanes are asked for as in `store.claim.take`.
    """
    rows = await link.fetch(
        *CLAIM_LIMITED.bind(
            **lane_columns(requests) | queue_columns(requests),
            job_types=job_types,
            limited_types=list(type_limits),
            type_limits=list(type_limits.values()),
            limit=limit,
            lease_seconds=lease_seconds,
            worker_id=worker_id,
            max_errors=max_errors,
        )
    )
    return [ClaimedJob(*row) for row in rows]
