"""Claim due jobs, and rescue orphans whose lease has ended: one fenced statement."""

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
from service.jobs.store.statement import Statement, Transition

_DUE: Final = f"""
WITH due AS MATERIALIZED (
  SELECT j.ctid AS place, l.queue, l.lane_limit, l.turn
  FROM unnest(:queues::text[], :priorities::smallint[], :from_at::float8[], :from_id::bigint[],
      :limits::int[], :before_at::float8[], :before_id::bigint[])
    WITH ORDINALITY AS l(queue, priority, start_at, start_id, lane_limit, due_before, id_before, turn)
  CROSS JOIN LATERAL (
    SELECT b.ctid FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
      AND ({POSITION}) >= (to_timestamp(l.start_at), l.start_id)
      AND ({POSITION}) < (to_timestamp(l.due_before), l.id_before)
      AND b.job_type = ANY (:job_types::text[])
      AND {NOT_LEASED}
    ORDER BY {POSITION} LIMIT l.lane_limit FOR UPDATE SKIP LOCKED) j
  LIMIT :limit)"""


_WITHIN_LIMITS: Final = """,
pick AS (
  SELECT place FROM (
    SELECT place, lane_limit, row_number() OVER (PARTITION BY queue ORDER BY turn) AS nth FROM due) d
  WHERE nth <= lane_limit)"""


def _lease(picked: str) -> str:
    """Put what was picked under a new lease."""
    return f"""
UPDATE finmind_jobs.jobs_live b SET
  status = 'RUNNING', attempts = b.attempts + 1, started_at = now(), progress = NULL,
  lease_until = (SELECT now() + make_interval(secs => :lease_seconds)),
  lease_token = (SELECT nextval('finmind_jobs.background_job_lease_tokens')), worker_id = :worker_id,
  lost_leases = CASE b.status WHEN 'RUNNING' THEN b.lost_leases + 1 ELSE b.lost_leases END,
  last_error = CASE b.status WHEN 'RUNNING' THEN
    'LeaseLost: the worker stopped or stalled during attempt ' || b.attempts ELSE b.last_error END,
  errors = CASE b.status WHEN 'RUNNING' THEN {history("b.errors", LEASE_LOST_ENTRY)} ELSE b.errors END
WHERE b.ctid = ANY (ARRAY(SELECT place FROM {picked}))
RETURNING b.id, b.lease_token, b.queue, b.job_type, b.priority, b.attempts, b.max_retries,
  b.timeout_seconds, b.lost_leases, date_part('epoch', b.next_run_at),
  CASE WHEN isfinite(b.next_run_at) THEN date_part('epoch', now() - b.next_run_at) ELSE 0 END,
  b.payload::text, b.backoff::text,
  CASE WHEN b.lost_leases > 0 THEN b.errors -> -1 -> 'at' = to_jsonb(now()) ELSE false END
"""


CLAIM: Final = Transition(_DUE + _lease("due"))
"""Take due jobs lane by lane, in the order given.

No index holds a column that this changes: the update is HOT and writes no index entry. The start
of a lane skips index entries that are dead but cannot be removed yet. The join is by ctid: the
row was locked a moment ago by this very statement, and finding it again by id would cost a third
more buffers. A plain INSERT may have made a job due at -infinity: PostgreSQL before 17 cannot
subtract that, and it would ruin the average of the delays.
"""


CLAIM_WITHIN_LIMITS: Final = Transition(_DUE + _WITHIN_LIMITS + _lease("pick"))
"""The same where a queue that may take fewer than the whole claim is asked for in several lanes: no
more of it than it may take. The window costs a seventh of the claim, so others do without."""


WINDOW_ENDS: Final = Statement(f"""
SELECT l.turn, date_part('epoch', e.next_run_at), e.id
FROM unnest(:queues::text[], :priorities::smallint[], :from_at::float8[], :from_id::bigint[],
    :before_at::float8[], :before_id::bigint[])
  WITH ORDINALITY AS l(queue, priority, start_at, start_id, due_before, id_before, turn)
CROSS JOIN LATERAL (
  SELECT b.next_run_at, b.id FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
    AND ({POSITION}) >= (to_timestamp(l.start_at), l.start_id)
    AND ({POSITION}) < (to_timestamp(l.due_before), l.id_before)
  ORDER BY {POSITION} OFFSET :skip LIMIT 1) e
""")
"""Of the lanes that hold more than `:skip` due jobs between these places, whoever serves them: the place
of the first one behind so many. A claim up to there walks no further, and the next begins there.

Apart from the claim: a limit on what that walks would have it find every job twice, which costs
a third of it.
"""


DUE_JOBS: Final = Statement(f"""
SELECT b.id, b.job_type FROM finmind_jobs.jobs_live b
WHERE b.queue = :queue AND b.priority = :priority AND b.next_run_at <= now()
  AND ({POSITION}) >= (to_timestamp(:from_at), :from_id::bigint)
  AND ({POSITION}) < (to_timestamp(:before_at), :before_id::bigint)
  AND b.job_type = ANY (:job_types::text[]) AND {NOT_LEASED}
ORDER BY {POSITION} LIMIT :limit
""")
"""What a claim of one lane would take, without taking it: for one that PostgreSQL refuses."""


CLAIM_ONE: Final = Transition(f"""
WITH due AS MATERIALIZED (
  SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
  WHERE b.id = :job_id AND b.next_run_at <= now() AND {NOT_LEASED} FOR UPDATE SKIP LOCKED)
{_lease("due")}""")


FAIL_REFUSED: Final = Transition(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.id = :job_id AND {NOT_LEASED} RETURNING *),
{failed_unrun(":reason::text", REFUSED_ENTRY)}
SELECT id FROM kept
""")


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
    bounded = Counter(request.lane.queue for request in requests if request.limit < limit)
    statement = CLAIM_WITHIN_LIMITS if any(lanes > 1 for lanes in bounded.values()) else CLAIM
    rows = await link.fetch(
        *statement.bind(
            **_lane_columns(requests),
            limits=[request.limit for request in requests],
            job_types=job_types,
            limit=limit,
            lease_seconds=lease_seconds,
            worker_id=worker_id,
            max_errors=max_errors,
        )
    )
    return [ClaimedJob(*row) for row in rows]


async def within_windows(
    link: Link, requests: Sequence[LaneRequest], *, jobs: int
) -> list[LaneRequest]:
    """The same requests, each up to at most so many jobs of its lane, whoever serves them."""
    rows = await link.fetch(*WINDOW_ENDS.bind(**_lane_columns(requests), skip=jobs))
    narrowed = list(requests)
    for turn, due_at, job_id in rows:
        request = narrowed[turn - 1]
        # Else a time that is too far off to be told to the microsecond would be walked for ever.
        if Position(due_at, job_id) > request.start:
            narrowed[turn - 1] = request._replace(
                due_before=due_at, id_before=job_id, continues=True
            )
    return narrowed


async def due_jobs(
    link: Link, request: LaneRequest, job_types: list[str], *, limit: int
) -> list[tuple[JobId, str]]:
    """Ids and types of the first jobs that a claim of this lane would take."""
    rows = await link.fetch(
        *DUE_JOBS.bind(
            queue=request.lane.queue,
            priority=request.lane.priority,
            from_at=request.start.due_at,
            from_id=request.start.job_id,
            before_at=request.due_before,
            before_id=request.id_before,
            job_types=job_types,
            limit=limit,
        )
    )
    return [(row[0], row[1]) for row in rows]


async def take_one(
    link: Link, job_id: JobId, *, lease_seconds: float, worker_id: int, max_errors: int
) -> list[ClaimedJob]:
    """Take this very job, if it is still due and free."""
    rows = await link.fetch(
        *CLAIM_ONE.bind(
            job_id=job_id, lease_seconds=lease_seconds, worker_id=worker_id, max_errors=max_errors
        )
    )
    return [ClaimedJob(*row) for row in rows]


async def fail_refused(link: Link, job_id: JobId, reason: str, *, max_errors: int) -> bool:
    """End a job that cannot be claimed; False where it is not there any more."""
    failed = FAIL_REFUSED.bind(job_id=job_id, reason=reason, max_errors=max_errors)
    return bool(await link.fetch(*failed))


def _lane_columns(requests: Sequence[LaneRequest]) -> dict[str, list[object]]:
    return {
        "queues": [request.lane.queue for request in requests],
        "priorities": [request.lane.priority for request in requests],
        "from_at": [request.start.due_at for request in requests],
        "from_id": [request.start.job_id for request in requests],
        "before_at": [request.due_before for request in requests],
        "before_id": [request.id_before for request in requests],
    }
