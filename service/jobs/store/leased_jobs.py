"""Read jobs by their leases: those that run, and what became of those that do not."""

from collections.abc import Collection
from typing import Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.store.claim import CLAIMED
from service.jobs.store.fragments import LEASE_HOLDS
from service.jobs.store.leases import lease_columns
from service.jobs.store.statement import Statement

LEASED_JOBS: Final = Statement(f"""
SELECT b.id, b.lease_token, b.queue, b.job_type, b.priority, b.attempts, b.max_retries,
  b.timeout_seconds, b.lost_leases, date_part('epoch', b.next_run_at),
  CASE WHEN isfinite(b.next_run_at) THEN date_part('epoch', b.started_at - b.next_run_at) ELSE 0 END,
  '' AS payload, b.backoff::text, false AS rescued, b.cancel IS NOT NULL, b.concurrency_key, b.permits,
  b.unique_until_start,
  date_part('epoch', now() - b.started_at), w.name, w.policies -> b.job_type,
  date_part('epoch', now() - (b.cancel ->> 'seen_at')::timestamptz)
FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
CROSS JOIN LATERAL (
  SELECT * FROM finmind_jobs.jobs_live b WHERE {LEASE_HOLDS} LIMIT 1) b
JOIN finmind_jobs.job_workers w ON w.id = b.worker_id AND w.owner IS NOT NULL
""")
"""Those of workers over HTTP alone: nobody else settles what a process of the service runs."""

NOTE_CANCEL_SEEN: Final = Statement(f"""
UPDATE finmind_jobs.jobs_live b
SET cancel = b.cancel || jsonb_build_object('seen_at', clock_timestamp())
FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
WHERE {LEASE_HOLDS} AND b.cancel IS NOT NULL AND NOT b.cancel ? 'seen_at'
RETURNING b.id, b.lease_token
""")
"""The worker of these is told of their cancel now. No index holds the column: the update is HOT."""

SETTLED_JOBS: Final = Statement("""
SELECT r.id, r.token, d.queue, d.job_type, d.status
FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
CROSS JOIN LATERAL (
  SELECT b.queue, b.job_type, b.status FROM finmind_jobs.background_jobs b
  WHERE b.id = r.id AND b.lease_token = r.token AND b.status <> 'RUNNING' LIMIT 1) d
""")
"""As `SETTLED_BEFORE`, with what they are."""

CLAIMED_AGAIN: Final = Statement(f"""
SELECT {CLAIMED} FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
CROSS JOIN LATERAL (
  SELECT * FROM finmind_jobs.jobs_live b WHERE {LEASE_HOLDS} AND b.worker_id = :worker_id LIMIT 1) b
""")


class LeasedJob(NamedTuple):
    """A job that a worker over HTTP runs; its payload is not read."""

    job: ClaimedJob
    running_seconds: float
    worker: str
    policy: str | None
    """What the worker registered for its type: JSON text."""
    cancel_seen_seconds: float | None
    """How long ago the worker was told that somebody asked for its cancel; None: it was not."""


class SettledJob(NamedTuple):
    """A job that was settled under a lease."""

    id: int
    token: int
    queue: str
    job_type: str
    status: str


async def running(link: Link, leases: Collection[Lease]) -> dict[Lease, LeasedJob]:
    """Those of these leases that still hold, of workers over HTTP."""
    rows = await link.fetch(*LEASED_JOBS.bind(**lease_columns(leases)))
    found = (LeasedJob(ClaimedJob(*row[:18]), *row[18:]) for row in map(tuple, rows))
    return {one.job.lease: one for one in found}


async def note_cancel_seen(link: Link, leases: Collection[Lease]) -> set[Lease]:
    """The worker is told that these are to be cancelled; those that it is told of for the first time."""
    rows = await link.fetch(*NOTE_CANCEL_SEEN.bind(**lease_columns(leases)))
    return {(row[0], row[1]) for row in rows}


async def settled(link: Link, leases: Collection[Lease]) -> dict[Lease, SettledJob]:
    """Those of these leases under which an outcome was recorded."""
    rows = await link.fetch(*SETTLED_JOBS.bind(**lease_columns(leases)))
    return {(row[0], row[1]): SettledJob(*row) for row in rows}


async def claimed(link: Link, leases: Collection[Lease], *, worker_id: int) -> list[ClaimedJob]:
    """The jobs that this worker still holds under these leases, with their payloads."""
    rows = await link.fetch(*CLAIMED_AGAIN.bind(**lease_columns(leases), worker_id=worker_id))
    return [ClaimedJob(*row) for row in rows]
