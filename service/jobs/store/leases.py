"""Extend leases, and give back claims whose answers were lost."""

from collections.abc import Iterable, Mapping
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import Lease
from service.jobs.core.job import LeaseToken
from service.jobs.core.lane import Lane, Position
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY, POSITION
from service.jobs.store.statement import Statement, Transition

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
UPDATE finmind_jobs.jobs_live b SET
  status = 'PENDING', attempts = b.attempts - 1, lease_until = NULL, worker_id = NULL,
  started_at = NULL
FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
WHERE {ID_BY_PRIMARY_KEY} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id
""")
"""Give those back, by their tokens: cut off and carried out late, it must not meet what the worker
has claimed since."""


EXTEND: Final = Transition(f"""
UPDATE finmind_jobs.jobs_live b SET lease_until = now() + make_interval(secs => :lease_seconds)
FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
WHERE {ID_BY_PRIMARY_KEY} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id, b.lease_token
""")


PROGRESS: Final = Statement(f"""
UPDATE finmind_jobs.jobs_live b SET progress = r.progress::jsonb
FROM unnest(:ids::bigint[], :tokens::bigint[], :progress::text[]) AS r(id, token, progress)
WHERE {ID_BY_PRIMARY_KEY} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id, b.lease_token
""")


LOST_CLAIMS_WALK = 10_000
"""Jobs of a lane that one look for lost claims walks: more than are in flight at once, as a rule."""


async def lost_claims(
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


async def release_lost(link: Link, leases: Iterable[Lease]) -> int:
    """Put these jobs back as if they had not been claimed; how many of the leases still held."""
    return len(await link.fetch(*RELEASE_LOST.bind(**lease_columns(leases))))


async def extend(link: Link, leases: Iterable[Lease], *, lease_seconds: float) -> set[Lease]:
    """Extend leases; those that still held."""
    rows = await link.fetch(*EXTEND.bind(**lease_columns(leases), lease_seconds=lease_seconds))
    return {(row[0], row[1]) for row in rows}


async def write_progress(link: Link, progress: Mapping[Lease, str]) -> set[Lease]:
    """Record how far jobs are (JSON text); the leases that still held."""
    told = sorted(progress.items())
    rows = await link.fetch(
        *PROGRESS.bind(**lease_columns(progress), progress=[text for _, text in told])
    )
    return {(row[0], row[1]) for row in rows}


def lease_columns(leases: Iterable[Lease]) -> dict[str, list[int]]:
    """Their `ids` and `tokens`, in the order of ids: rows are locked in the order of the arrays."""
    pairs = sorted(leases)
    return {"ids": [job_id for job_id, _ in pairs], "tokens": [token for _, token in pairs]}
