"""What is owed for a job that has ended: its callback, and the end of its result's time."""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.job import JobId
from service.jobs.store.enqueue import Fetch
from service.jobs.store.fragments import readable
from service.jobs.store.statement import Statement

TAKE_OWED: Final = Statement("""
WITH taken AS (
  SELECT e.id, e.owed_by, e.status FROM finmind_jobs.job_endings e
  WHERE e.id = ANY (:ids::bigint[]) AND e.owed_by IS NOT NULL ORDER BY e.id FOR UPDATE),
paid AS (
  UPDATE finmind_jobs.job_endings e SET owed_by = NULL FROM taken WHERE e.id = taken.id)
SELECT owed_by, status FROM taken ORDER BY id
""")
"""Take what these ends owe, once: it is paid in the same transaction."""

OWING_JOBS: Final = Statement(f"""
SELECT s.* FROM unnest(:ids::bigint[]) AS r(id) CROSS JOIN LATERAL (
  SELECT b.id, b.job_type, b.queue, b.enqueued_by, b.callback ->> 'url', b.callback ->> 'sign_with', b.attempts,
    {readable("finished_at")}, left(b.last_error, 4000),
    CASE WHEN octet_length(b.result::text) <= :max_bytes THEN b.result::text END, b.result IS NOT NULL
  FROM finmind_jobs.background_jobs b WHERE b.id = r.id LIMIT 1) s
""")

KEEP_RESULTS_UNTIL: Final = Statement("""
INSERT INTO finmind_jobs.result_drops (job_id, drop_at)
SELECT s.id, s.drop_at FROM unnest(:ids::bigint[]) AS r(id) CROSS JOIN LATERAL (
  SELECT b.id, clock_timestamp() + make_interval(secs => least(b.result_ttl_seconds, 3e9)) AS drop_at
  FROM finmind_jobs.background_jobs b
  WHERE b.id = r.id AND b.result_ttl_seconds IS NOT NULL AND b.result IS NOT NULL LIMIT 1) s
ON CONFLICT (job_id) DO UPDATE SET drop_at = excluded.drop_at
""")

DROP_RESULTS: Final = Statement("""
WITH due AS MATERIALIZED (
  SELECT d.job_id FROM finmind_jobs.result_drops d WHERE d.drop_at <= now()
  ORDER BY d.drop_at LIMIT :limit FOR UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.result_drops d USING due WHERE d.job_id = due.job_id),
dropped AS (
  UPDATE finmind_jobs.background_jobs b SET result = NULL
  WHERE b.id = ANY (ARRAY(SELECT job_id FROM due)) AND b.status = 'SUCCESS' AND b.result IS NOT NULL)
SELECT count(*) FROM due
""")


class Owed(NamedTuple):
    """A job that has ended, as far as its callback tells of it."""

    id: JobId
    job_type: str
    queue: str
    enqueued_by: str | None
    url: str | None
    sign_with: str | None
    attempts: int
    finished_at: Any
    last_error: str | None
    result: str | None
    """JSON text; None where it is too long, too."""
    has_result: bool


async def take(run: Fetch, ids: Collection[int]) -> list[tuple[JobId, str]]:
    """Take what these ends owe: the job and how it ended."""
    return [(row[0], row[1]) for row in await run(*TAKE_OWED.bind(ids=sorted(ids)))]


async def jobs(run: Fetch, ids: Collection[JobId], *, max_bytes: int) -> dict[JobId, Owed]:
    """These jobs, those that are still there."""
    rows = await run(*OWING_JOBS.bind(ids=sorted(ids), max_bytes=max_bytes))
    return {row[0]: Owed(*row) for row in rows}


async def keep_results(run: Fetch, ids: Collection[JobId]) -> None:
    """Have the results of these jobs dropped when their time is over."""
    await run(*KEEP_RESULTS_UNTIL.bind(ids=sorted(ids)))


async def drop_results(link: Link, *, limit: int) -> int:
    """Drop results whose time is over; how many were looked at."""
    rows = await link.fetch(*DROP_RESULTS.bind(limit=limit))
    count: int = rows[0][0]
    return count
