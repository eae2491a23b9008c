"""Claim due jobs: one fenced statement."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId
from service.jobs.core.lane import LaneRequest, Position
from service.jobs.store.fragments import (
    LEASE_LOST_ENTRY,
    NOT_LEASED,
    POSITION,
    REFUSED_ENTRY,
    failed_unrun,
    history,
)

_DUE: Final = f"""
WITH due AS MATERIALIZED (
  SELECT j.ctid AS place, l.queue, l.most, l.turn
  FROM unnest($1::text[], $2::smallint[], $3::float8[], $4::bigint[], $5::int[], $11::float8[],
      $12::bigint[])
    WITH ORDINALITY AS l(queue, priority, floor_at, floor_id, most, due_before, id_before, turn)
  CROSS JOIN LATERAL (
    SELECT b.ctid FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
      AND ({POSITION}) >= (to_timestamp(l.floor_at), l.floor_id)
      AND ({POSITION}) < (to_timestamp(l.due_before), l.id_before)
      AND b.job_type = ANY ($6::text[])
      AND {NOT_LEASED}
    ORDER BY {POSITION} LIMIT l.most FOR UPDATE SKIP LOCKED) j
  LIMIT $7)"""


_WITHIN_LIMITS: Final = """,
pick AS (
  SELECT place FROM (
    SELECT place, most, row_number() OVER (PARTITION BY queue ORDER BY turn) AS nth FROM due) d
  WHERE nth <= most)"""


def _lease(picked: str, *, seconds: str, worker: str, keep: str) -> str:
    """Put what was picked under a new lease."""
    return f"""
UPDATE finmind_jobs.jobs_live b SET
  status = 'RUNNING', attempts = b.attempts + 1, started_at = now(), progress = NULL,
  lease_until = (SELECT now() + make_interval(secs => {seconds})),
  lease_token = (SELECT nextval('finmind_jobs.background_job_lease_tokens')), worker_id = {worker},
  lost_leases = CASE b.status WHEN 'RUNNING' THEN b.lost_leases + 1 ELSE b.lost_leases END,
  last_error = CASE b.status WHEN 'RUNNING' THEN
    'LeaseLost: the worker stopped or stalled during attempt ' || b.attempts ELSE b.last_error END,
  errors = CASE b.status WHEN 'RUNNING' THEN {history("b.errors", LEASE_LOST_ENTRY, keep=keep)} ELSE b.errors END
WHERE b.ctid = ANY (ARRAY(SELECT place FROM {picked}))
RETURNING b.id, b.lease_token, b.queue, b.job_type, b.priority, b.attempts, b.max_retries,
  b.timeout_seconds, b.lost_leases, date_part('epoch', b.next_run_at),
  CASE WHEN isfinite(b.next_run_at) THEN date_part('epoch', now() - b.next_run_at) ELSE 0 END,
  b.payload::text, b.backoff::text,
  CASE WHEN b.lost_leases > 0 THEN b.errors -> -1 -> 'at' = to_jsonb(now()) ELSE false END
"""


CLAIM: Final = _DUE + _lease("due", seconds="$8", worker="$9", keep="$10")
"""Take due jobs lane by lane, in the order given.

No index holds a column that this changes: the update is HOT and writes no index entry. The floor
of a lane skips index entries that are dead but cannot be removed yet. The join is by ctid: the
row was locked a moment ago by this very statement, and finding it again by id would cost a third
more buffers. A plain INSERT may have made a job due at -infinity: PostgreSQL before 17 cannot
subtract that, and it would ruin the average of the delays.
"""


CLAIM_WITHIN_LIMITS: Final = (
    _DUE + _WITHIN_LIMITS + _lease("pick", seconds="$8", worker="$9", keep="$10")
)
"""The same where a queue that may take fewer than the whole claim is asked for in several lanes: no
more of it than it may take. The window costs a seventh of the claim, so others do without."""


WINDOW_ENDS: Final = f"""
SELECT l.turn, date_part('epoch', e.next_run_at), e.id
FROM unnest($1::text[], $2::smallint[], $3::float8[], $4::bigint[], $5::float8[], $6::bigint[])
  WITH ORDINALITY AS l(queue, priority, floor_at, floor_id, due_before, id_before, turn)
CROSS JOIN LATERAL (
  SELECT b.next_run_at, b.id FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
    AND ({POSITION}) >= (to_timestamp(l.floor_at), l.floor_id)
    AND ({POSITION}) < (to_timestamp(l.due_before), l.id_before)
  ORDER BY {POSITION} OFFSET $7 LIMIT 1) e
"""
"""Of the lanes that hold more than $7 due jobs between these places, whoever serves them: the place
of the first one behind so many. A claim up to there walks no further, and the next begins there.

Apart from the claim: a limit on what that walks would have it find every job twice, which costs
a third of it.
"""


DUE_JOBS: Final = f"""
SELECT b.id, b.job_type FROM finmind_jobs.jobs_live b
WHERE b.queue = $1 AND b.priority = $2 AND b.next_run_at <= now()
  AND ({POSITION}) >= (to_timestamp($3), $4::bigint)
  AND ({POSITION}) < (to_timestamp($5), $6::bigint)
  AND b.job_type = ANY ($7::text[]) AND {NOT_LEASED}
ORDER BY {POSITION} LIMIT $8
"""
"""What a claim of one lane would take, without taking it: for one that PostgreSQL refuses."""


CLAIM_ONE: Final = f"""
WITH due AS MATERIALIZED (
  SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
  WHERE b.id = $1 AND b.next_run_at <= now() AND {NOT_LEASED} FOR UPDATE SKIP LOCKED)
{_lease("due", seconds="$2", worker="$3", keep="$4")}"""


FAIL_REFUSED: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.id = $1 AND {NOT_LEASED} RETURNING *),
{failed_unrun("$2::text", REFUSED_ENTRY, keep="$3")}
SELECT id FROM kept
"""


async def take(
    link: Link,
    requests: Sequence[LaneRequest],
    job_types: list[str],
    *,
    limit: int,
    lease_seconds: float,
    worker_id: int,
    max_errors: int,
) -> list[ClaimedJob]:
    """Take up to `limit` due jobs, lane by lane in the order given, under a new lease."""
    bounded = Counter(request.lane.queue for request in requests if request.most < limit)
    rows = await link.fetch(
        CLAIM_WITHIN_LIMITS if any(lanes > 1 for lanes in bounded.values()) else CLAIM,
        [request.lane.queue for request in requests],
        [request.lane.priority for request in requests],
        [request.floor.due_at for request in requests],
        [request.floor.job_id for request in requests],
        [request.most for request in requests],
        job_types,
        limit,
        lease_seconds,
        worker_id,
        max_errors,
        [request.due_before for request in requests],
        [request.id_before for request in requests],
    )
    return [ClaimedJob(*row) for row in rows]


async def within_windows(
    link: Link, requests: Sequence[LaneRequest], *, jobs: int
) -> list[LaneRequest]:
    """The same requests, each up to so many jobs of its lane at the most, whoever serves them."""
    rows = await link.fetch(
        WINDOW_ENDS,
        [request.lane.queue for request in requests],
        [request.lane.priority for request in requests],
        [request.floor.due_at for request in requests],
        [request.floor.job_id for request in requests],
        [request.due_before for request in requests],
        [request.id_before for request in requests],
        jobs,
    )
    narrowed = list(requests)
    for turn, due_at, job_id in rows:
        request = narrowed[turn - 1]
        # Else a time that is too far off to be told to the microsecond would be walked for ever.
        if Position(due_at, job_id) > request.floor:
            narrowed[turn - 1] = request._replace(due_before=due_at, id_before=job_id, goes_on=True)
    return narrowed


async def due_jobs(
    link: Link, request: LaneRequest, job_types: list[str], *, limit: int
) -> list[tuple[JobId, str]]:
    """Ids and types of the first jobs that a claim of this lane would take."""
    rows = await link.fetch(
        DUE_JOBS,
        request.lane.queue,
        request.lane.priority,
        request.floor.due_at,
        request.floor.job_id,
        request.due_before,
        request.id_before,
        job_types,
        limit,
    )
    return [(row[0], row[1]) for row in rows]


async def take_one(
    link: Link, job_id: JobId, *, lease_seconds: float, worker_id: int, max_errors: int
) -> list[ClaimedJob]:
    """Take this very job, if it is still due and free."""
    rows = await link.fetch(CLAIM_ONE, job_id, lease_seconds, worker_id, max_errors)
    return [ClaimedJob(*row) for row in rows]


async def fail_refused(link: Link, job_id: JobId, reason: str, *, max_errors: int) -> bool:
    """End a job that cannot be claimed; False where it is not there any more."""
    return bool(await link.fetch(FAIL_REFUSED, job_id, reason, max_errors))
