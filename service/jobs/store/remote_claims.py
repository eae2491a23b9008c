"""Hand claimed jobs over to workers that claim over HTTP, and remember what each claim brought."""

from collections.abc import Collection
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import Lease
from service.jobs.store.fragments import LEASE_HOLDS
from service.jobs.store.leases import lease_columns
from service.jobs.store.statement import Statement

HAND_OVER: Final = Statement(f"""
WITH given AS (
  UPDATE finmind_jobs.jobs_live b SET worker_id = :worker_id
  FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token) WHERE {LEASE_HOLDS}
  RETURNING b.id, b.lease_token),
too_old AS (
  DELETE FROM finmind_jobs.remote_claims
  WHERE worker_id = :worker_id AND :request_id::text IS NOT NULL
    AND created_at < now() - make_interval(secs => :kept_seconds)),
noted AS (
  INSERT INTO finmind_jobs.remote_claims AS c (worker_id, request_id, job_ids, tokens)
  SELECT :worker_id, :request_id::text, array_agg(id), array_agg(lease_token) FROM given
  WHERE :request_id::text IS NOT NULL HAVING count(*) > 0
  ON CONFLICT (worker_id, request_id) DO UPDATE
    SET job_ids = c.job_ids || EXCLUDED.job_ids, tokens = c.tokens || EXCLUDED.tokens)
SELECT id, lease_token FROM given
""")
"""The worker has them from now on, under the leases that they were claimed under. No index holds the
column: the update is HOT. Two claims under one request id, of which one was given up while it waited, are one."""

CLAIMED_BEFORE: Final = Statement("""
SELECT job_ids, tokens FROM finmind_jobs.remote_claims
WHERE worker_id = :worker_id AND request_id = :request_id
""")

LINE_ID: Final = Statement(
    "SELECT -nextval('finmind_jobs.background_job_lease_tokens'), extract(epoch FROM now())::float8"
)
"""Negative: no registered worker has such an id."""


async def hand_over(
    link: Link,
    leases: Collection[Lease],
    *,
    worker_id: int,
    request_id: str | None,
    kept_seconds: float,
) -> set[Lease]:
    """Give these jobs to a worker; the leases that held.

    Under a `request_id` they can be asked for again; what the worker claimed `kept_seconds` ago is forgotten.
    """
    rows = await link.fetch(
        *HAND_OVER.bind(
            **lease_columns(leases),
            worker_id=worker_id,
            request_id=request_id,
            kept_seconds=kept_seconds,
        )
    )
    return {(row[0], row[1]) for row in rows}


async def before(link: Link, *, worker_id: int, request_id: str) -> list[Lease] | None:
    """What the claim of that id brought; None where it brought nothing yet."""
    found = CLAIMED_BEFORE.bind(worker_id=worker_id, request_id=request_id)
    rows = await link.fetch(*found)
    return list(zip(rows[0][0], rows[0][1], strict=True)) if rows else None


async def new_id(link: Link) -> tuple[int, float]:
    """An id to claim jobs under that are handed over at once, and what time it is, epoch seconds."""
    made, now = (await link.fetch(*LINE_ID.bind()))[0]
    return made, now
