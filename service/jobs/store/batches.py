"""Make batches, count their members, and enqueue the job of one that is complete, once."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.batch import ADDED, CHANGED
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane
from service.jobs.store.cancel import ASK_CANCEL
from service.jobs.store.enqueue import Fetch
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY, NO_LEASE, keep_ended, noted
from service.jobs.store.statement import Statement, Transition

COUNTS: Final = {
    "jobs": ADDED,
    "succeeded": "SUCCESS",
    "failed": "FAILED",
    "dead_lettered": "DEAD_LETTER",
    "cancelled": "CANCELLED",
    "deleted": "DELETED",
}
"""The columns that count members, and what is counted."""


ENDED: Final = "b.succeeded + b.failed + b.dead_lettered + b.cancelled + b.deleted"
"""How many members of the batch `b` have ended."""


CREATE_BATCH: Final = Statement("""
INSERT INTO finmind_jobs.batches (name, on_complete, on_failure, created_by)
VALUES (:name, :on_complete::jsonb, :on_failure::jsonb, :created_by) RETURNING id
""")


OPEN_BATCHES: Final = Statement("""
SELECT b.id, b.created_by, b.closed_at IS NULL, b.jobs FROM finmind_jobs.batches b
WHERE b.id = ANY (:ids::bigint[]) ORDER BY b.id FOR KEY SHARE
""")
"""Keeps them open to the end of the transaction: whoever closes one waits for those who are adding to it.
Counting does not."""


CHANGE_COUNTS: Final = Statement("""
INSERT INTO finmind_jobs.job_endings (batch_id, status, jobs)
SELECT * FROM unnest(:batch_ids::bigint[], :statuses::text[], :jobs::int[])
""")


CLOSE_BATCH: Final = Statement("""
WITH open AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.batches b WHERE b.id = :batch_id AND b.closed_at IS NULL FOR UPDATE)
UPDATE finmind_jobs.batches b SET closed_at = clock_timestamp() FROM open WHERE b.id = open.id
RETURNING b.id
""")


CANCEL_BATCH: Final = Statement("""
WITH open AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.batches b
  WHERE b.id = :batch_id AND b.cancelled_at IS NULL AND b.completed_at IS NULL FOR UPDATE)
UPDATE finmind_jobs.batches b SET cancelled_at = clock_timestamp(), cancelled_by = :by,
  closed_at = COALESCE(b.closed_at, clock_timestamp())
FROM open WHERE b.id = open.id
RETURNING b.id
""")


SETTLE_ENDINGS: Final = Statement(f"""
WITH locked AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.batches b
  WHERE b.id IN (SELECT e.batch_id FROM finmind_jobs.job_endings e WHERE e.id = ANY (:ids::bigint[]))
  ORDER BY b.id FOR NO KEY UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.job_endings e
  WHERE e.id = ANY (:ids::bigint[]) AND (e.batch_id IS NULL
    OR e.batch_id IN (SELECT id FROM locked)
    OR NOT EXISTS (SELECT FROM finmind_jobs.batches b WHERE b.id = e.batch_id))
  RETURNING e.id, e.batch_id, e.status, e.jobs),
sums AS (
  SELECT batch_id AS id, {
    ", ".join(
        f"COALESCE(sum(jobs) FILTER (WHERE status = '{status}'), 0) AS {column}"
        for column, status in COUNTS.items()
    )
}
  FROM gone WHERE batch_id IS NOT NULL GROUP BY 1),
counted AS (
  UPDATE finmind_jobs.batches b SET {
    ", ".join(f"{column} = b.{column} + r.{column}" for column in COUNTS)
}
  FROM sums r WHERE {ID_BY_PRIMARY_KEY})
SELECT id, batch_id FROM gone
""")
"""Drop ends that have been acted on, and in the same statement count them for their batches: once, whoever
else may have taken them. Those of a batch that somebody has locked are left."""


COMPLETE_BATCHES: Final = Transition(f"""
WITH due AS MATERIALIZED (
  SELECT b.id, b.closed_at IS NOT NULL AND b.completed_at IS NULL AND {ENDED} >= b.jobs AS is_complete,
    b.on_failure IS NOT NULL AND b.failure_job_id IS NULL AND b.failed + b.dead_lettered > 0 AS has_failed
  FROM finmind_jobs.batches b
  WHERE b.id = ANY (:ids::bigint[])
    AND NOT EXISTS (SELECT FROM finmind_jobs.job_endings e WHERE e.batch_id = b.id)
  ORDER BY b.id FOR NO KEY UPDATE OF b SKIP LOCKED),
done AS (
  UPDATE finmind_jobs.batches b SET
    completed_at = CASE WHEN r.is_complete THEN clock_timestamp() ELSE b.completed_at END,
    complete_job_id = CASE WHEN r.is_complete AND b.on_complete IS NOT NULL
      THEN nextval('finmind_jobs.background_job_ids') ELSE b.complete_job_id END,
    failure_job_id = CASE WHEN r.has_failed
      THEN nextval('finmind_jobs.background_job_ids') ELSE b.failure_job_id END
  FROM due r WHERE {ID_BY_PRIMARY_KEY} AND (r.is_complete OR r.has_failed)
  RETURNING b.*, r.is_complete, r.has_failed),
wanted AS (
  SELECT d.complete_job_id AS job_id, d.on_complete AS job, d.* FROM done d
  WHERE d.is_complete AND d.on_complete IS NOT NULL
  UNION ALL
  SELECT d.failure_job_id, d.on_failure, d.* FROM done d WHERE d.has_failed),
made AS (
  INSERT INTO finmind_jobs.jobs_live (id, job_type, payload, queue, priority, max_retries, timeout_seconds,
    backoff, enqueued_by, next_run_at, lease_token)
  SELECT w.job_id, w.job ->> 'job_type',
    (w.job -> 'payload') || jsonb_build_object('batch', jsonb_build_object('id', w.id, 'name', w.name,
      {", ".join(f"'{column}', w.{column}" for column in COUNTS)})),
    w.job ->> 'queue', (w.job ->> 'priority')::smallint, (w.job ->> 'max_retries')::smallint,
    (w.job ->> 'timeout_seconds')::float8, w.job -> 'backoff', w.created_by, clock_timestamp(), 0
  FROM wanted w
  RETURNING id, job_type, queue, priority)
SELECT d.id, d.name, d.is_complete, m.job_type, m.queue, m.priority FROM done d
LEFT JOIN made m ON m.id IN (d.complete_job_id, d.failure_job_id)
ORDER BY d.id, m.id
""")
"""Enqueue the jobs of batches that are complete, or have their first failed member. After SETTLE_ENDINGS has
committed: of two that count the last members at the same time, the later one finds all counted."""


DUE_BATCHES: Final = Statement(f"""
SELECT b.id FROM finmind_jobs.batches b
WHERE b.completed_at IS NULL AND (
  b.cancelled_at IS NOT NULL
  OR b.closed_at IS NOT NULL AND {ENDED} >= b.jobs
  OR b.on_failure IS NOT NULL AND b.failure_job_id IS NULL AND b.failed + b.dead_lettered > 0)
ORDER BY b.id LIMIT :limit
""")
"""Batches that are waited for: a worker may have been killed behind the last count."""


CANCELLED_BATCHES: Final = Statement("""
SELECT b.id FROM finmind_jobs.batches b
WHERE b.id = ANY (:ids::bigint[]) AND b.cancelled_at IS NOT NULL AND b.completed_at IS NULL
""")


CANCEL_MEMBERS: Final = Transition(f"""
WITH free AS MATERIALIZED (
  SELECT b.id, c.cancelled_by FROM finmind_jobs.jobs_live b
  JOIN finmind_jobs.batches c ON c.id = b.batch_id
  WHERE b.batch_id = :batch_id::bigint AND b.status = 'PENDING'
  LIMIT :limit FOR UPDATE OF b SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b USING free r WHERE {ID_BY_PRIMARY_KEY}
  RETURNING b.*, {noted("b.errors", "cancelled").replace(":by::text", "COALESCE(r.cancelled_by, 'python')")} AS history),
{keep_ended(NO_LEASE | {"status": "'CANCELLED'", "errors": "history"})}
SELECT id, job_type FROM kept
""")


RUNNING_MEMBERS: Final = Statement("""
SELECT b.id, c.cancelled_by FROM finmind_jobs.jobs_live b
JOIN finmind_jobs.batches c ON c.id = b.batch_id
WHERE b.batch_id = :batch_id::bigint AND b.status = 'RUNNING' AND b.cancel IS NULL LIMIT :limit
""")


class Open(NamedTuple):
    """A batch that jobs are to be added to."""

    id: int
    created_by: str | None
    open: bool
    jobs: int


class Reached(NamedTuple):
    """A batch that is complete or has failed for the first time, and a job that was enqueued for that."""

    id: int
    name: str
    complete: bool
    job_type: str | None
    lane: Lane | None


async def create(
    run: Fetch,
    *,
    name: str,
    on_complete: str | None,
    on_failure: str | None,
    created_by: str | None,
) -> int:
    """A new batch; its jobs as JSON text."""
    rows = await run(
        *CREATE_BATCH.bind(
            name=name, on_complete=on_complete, on_failure=on_failure, created_by=created_by
        )
    )
    batch_id: int = rows[0][0]
    return batch_id


async def opened(run: Fetch, ids: Collection[int]) -> dict[int, Open]:
    """These batches; nobody closes one before the transaction ends."""
    return {row[0]: Open(*row) for row in await run(*OPEN_BATCHES.bind(ids=sorted(ids)))}


async def add_members(run: Fetch, jobs: Mapping[int, int]) -> None:
    """Note how many jobs were added to each batch."""
    ids = sorted(jobs)
    values = {"statuses": [ADDED] * len(ids), "jobs": [jobs[one] for one in ids]}
    await run(*CHANGE_COUNTS.bind(batch_ids=ids, **values))


async def close(run: Fetch, batch_id: int) -> bool:
    """Close a batch, after those who are adding to it; False where it was closed, or is not there."""
    return await _noted(run, batch_id, await run(*CLOSE_BATCH.bind(batch_id=batch_id)))


async def cancel(run: Fetch, batch_id: int, *, by: str | None) -> bool:
    """Close a batch and have its members cancelled; False where it has ended, or is not there."""
    return await _noted(run, batch_id, await run(*CANCEL_BATCH.bind(batch_id=batch_id, by=by)))


async def note(run: Fetch, batch_id: int) -> None:
    """Have somebody look at a batch."""
    await run(*CHANGE_COUNTS.bind(batch_ids=[batch_id], statuses=[CHANGED], jobs=[0]))


async def _noted(run: Fetch, batch_id: int, rows: Sequence[Any]) -> bool:
    if rows:
        await note(run, batch_id)
    return bool(rows)


async def settle_endings(link: Link, ids: Iterable[int]) -> tuple[set[int], set[int]]:
    """Drop ends and count them for their batches: those that were dropped, and the batches."""
    rows = await link.fetch(*SETTLE_ENDINGS.bind(ids=sorted(ids)))
    return {row[0] for row in rows}, {row[1] for row in rows if row[1] is not None}


async def complete(link: Link, ids: Collection[int]) -> list[Reached]:
    """Enqueue the jobs of those that are complete, or failed for the first time."""
    rows = await link.fetch(*COMPLETE_BATCHES.bind(ids=sorted(ids)))
    return [
        Reached(row[0], row[1], row[2], row[3], None if row[4] is None else Lane(row[4], row[5]))
        for row in rows
    ]


async def due(link: Link, *, limit: int) -> list[int]:
    """Batches that are to be completed or cancelled, or have failed."""
    return [row[0] for row in await link.fetch(*DUE_BATCHES.bind(limit=limit))]


async def cancelled(link: Link, ids: Collection[int]) -> list[int]:
    """Those of these batches whose members are to be cancelled."""
    return [row[0] for row in await link.fetch(*CANCELLED_BATCHES.bind(ids=sorted(ids)))]


async def cancel_members(
    link: Link, batch_id: int, *, limit: int, max_errors: int
) -> list[tuple[JobId, str]]:
    """Cancel up to so many PENDING members; their ids and types."""
    rows = await link.fetch(
        *CANCEL_MEMBERS.bind(
            batch_id=batch_id, limit=limit, max_errors=max_errors, message="its batch was cancelled"
        )
    )
    return [(JobId(row[0]), row[1]) for row in rows]


async def ask_cancel(link: Link, batch_id: int, *, limit: int) -> list[JobId]:
    """Ask for the cancel of up to so many RUNNING members."""
    running = await link.fetch(*RUNNING_MEMBERS.bind(batch_id=batch_id, limit=limit))
    if not running:
        return []
    asked = ASK_CANCEL.bind(
        ids=sorted(row[0] for row in running),
        asked_by=running[0][1] or "python",
        asked_reason="its batch was cancelled",
    )
    return [JobId(row[0]) for row in await link.fetch(*asked)]
