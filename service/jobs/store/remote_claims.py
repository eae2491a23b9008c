"""Hand claimed jobs over to workers that claim over HTTP, and remember what each claim brought."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.claimed_job import Lease
from service.jobs.store.fragments import LEASE_HOLDS
from service.jobs.store.leases import lease_columns
from service.jobs.store.statement import Statement

HAND_OVER: Final = Statement(f"""
WITH r AS MATERIALIZED (
  SELECT * FROM unnest(:ids::bigint[], :tokens::bigint[], :worker_ids::bigint[], :request_ids::text[])
    AS r(id, token, worker_id, request_id)),
given AS (
  UPDATE finmind_jobs.jobs_live b SET worker_id = r.worker_id FROM r WHERE {LEASE_HOLDS}
  RETURNING b.id, b.lease_token, r.worker_id, r.request_id),
too_old AS (
  DELETE FROM finmind_jobs.remote_claims c
  WHERE c.worker_id = ANY (ARRAY(SELECT worker_id FROM r WHERE request_id IS NOT NULL))
    AND c.created_at < now() - make_interval(secs => :kept_seconds)),
noted AS (
  INSERT INTO finmind_jobs.remote_claims AS c (worker_id, request_id, job_ids, tokens)
  SELECT worker_id, request_id, array_agg(id), array_agg(lease_token) FROM given
  WHERE request_id IS NOT NULL GROUP BY 1, 2
  ON CONFLICT (worker_id, request_id) DO UPDATE
    SET job_ids = c.job_ids || EXCLUDED.job_ids, tokens = c.tokens || EXCLUDED.tokens)
SELECT id, lease_token FROM given
""")
"""Their workers have them from now on, under the leases that they were claimed under. No index holds the
column: the update is HOT. Two claims under one request id, of which one was given up while it waited, are one."""

CLAIMED_BEFORE: Final = Statement("""
SELECT job_ids, tokens FROM finmind_jobs.remote_claims
WHERE worker_id = :worker_id AND request_id = :request_id
""")

LINE_ID: Final = Statement(
    "SELECT -nextval('finmind_jobs.background_job_lease_tokens'), extract(epoch FROM now())::float8"
)
"""Negative: no registered worker has such an id."""


class Given(NamedTuple):
    """A job that a worker is to have."""

    lease: Lease
    worker_id: int
    request_id: str | None
    """Of the claim: under it the job can be asked for again."""


async def hand_over(link: Link, given: Iterable[Given], *, kept_seconds: float) -> set[Lease]:
    """Give jobs to the workers that claimed them; the leases that held.

    What these workers claimed `kept_seconds` ago can be asked for no more.
    """
    ordered = sorted(given)
    rows = await link.fetch(
        *HAND_OVER.bind(
            **lease_columns(one.lease for one in ordered),
            worker_ids=[one.worker_id for one in ordered],
            request_ids=[one.request_id for one in ordered],
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
