"""Find claims whose answers were lost, and give back what they took."""

from collections.abc import Iterable, Mapping
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import Lease
from service.jobs.core.job import LeaseToken
from service.jobs.core.lane import Lane, Position
from service.jobs.store.fragments import (
    ID_BY_PRIMARY_KEY,
    POSITION,
    free_permits,
    held_permits,
)
from service.jobs.store.leases import lease_columns
from service.jobs.store.statement import Statement, Transition

LOST_CLAIMS_WALK: Final = 10_000
"""Jobs of a lane that one look for lost claims walks: more than are in flight at once, as a rule."""

LOST_CLAIMS: Final = Statement(f"""
SELECT j.id, j.lease_token
FROM unnest(:queues::text[], :priorities::smallint[], :from_at::float8[], :from_id::bigint[])
  AS l(queue, priority, start_at, start_id)
CROSS JOIN LATERAL (
  SELECT r.id, r.lease_token FROM (
    SELECT b.id, b.status, b.worker_id, b.lease_token FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
      AND ({POSITION}) >= (to_timestamp(l.start_at), l.start_id)
    ORDER BY {POSITION} LIMIT :walk) r
  WHERE r.status = 'RUNNING' AND r.worker_id = :worker_id AND r.lease_token <> ALL (:known::bigint[])) j
""")
"""What a claim took whose answer never came: this worker's, under tokens that it never saw.

It took the first that it could from where it began. Only so many jobs of each lane are looked at: a
backlog of millions would take longer than a statement may, over and over.
"""


RELEASE_LOST: Final = Transition(f"""
WITH r AS (SELECT * FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)),
{held_permits("r")},
{free_permits("was")}
UPDATE finmind_jobs.jobs_live b SET
  status = 'PENDING', attempts = b.attempts - 1, lease_until = NULL, worker_id = NULL,
  started_at = NULL, permits = NULL
FROM was r WHERE {ID_BY_PRIMARY_KEY}
RETURNING b.id
""")
"""Give those back, by their tokens: cut off and carried out late, it must not meet what the worker
has claimed since. Those that were rescued may hold permits."""


async def find(
    link: Link, starts: Mapping[Lane, Position], *, worker_id: int, known: list[LeaseToken]
) -> list[Lease]:
    """This worker's claims of jobs from these positions on, under other tokens than it knows."""
    rows = await link.fetch(
        *LOST_CLAIMS.bind(
            queues=[lane.queue for lane in starts],
            priorities=[lane.priority for lane in starts],
            from_at=[start.due_at for start in starts.values()],
            from_id=[start.job_id for start in starts.values()],
            worker_id=worker_id,
            known=known,
            walk=LOST_CLAIMS_WALK,
        )
    )
    return [(row[0], row[1]) for row in rows]


async def release(link: Link, leases: Iterable[Lease]) -> int:
    """Put these jobs back as if they had not been claimed; how many of the leases still held."""
    return len(await link.fetch(*RELEASE_LOST.bind(**lease_columns(leases))))
