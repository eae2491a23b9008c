"""Claim due jobs, and rescue orphans whose lease has ended: one fenced statement."""

from collections.abc import Sequence
from itertools import groupby, pairwise
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
    free_permits,
    history,
)
from service.jobs.store.statement import Statement, Transition


def _due_of_lane(limit: str, *, only: str = "") -> str:
    """The first free due jobs of the lane `l`, locked."""
    return f"""(
    SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
    WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
      AND ({POSITION}) >= (to_timestamp(l.start_at), l.start_id)
      AND ({POSITION}) < (to_timestamp(l.due_before), l.id_before)
      AND b.job_type = ANY (:job_types::text[])
      AND {NOT_LEASED}{only}
    ORDER BY {POSITION} LIMIT {limit} FOR UPDATE SKIP LOCKED)"""


_DUE: Final = f"""
WITH due AS MATERIALIZED (
  SELECT j.place
  FROM unnest(:queues::text[], :priorities::smallint[], :from_at::float8[], :from_id::bigint[],
      :before_at::float8[], :before_id::bigint[], :limits::int[])
    AS l(queue, priority, start_at, start_id, due_before, id_before, lane_limit)
  CROSS JOIN LATERAL {_due_of_lane("l.lane_limit")} j
  LIMIT :limit)"""


def due_within_limits(*, more: str = "", only: str = "") -> str:
    """A CTE `due`: the same, of several lanes of a queue no more than the queue may bring.

    Args:
        more: a column of the lanes more.
        only: a condition more on their jobs.
    """
    column = f",\n        (:{more}::bool[])[q.first_lane : q.last_lane]" if more else ""
    name = f", {more}" if more else ""
    return f"""
WITH due AS MATERIALIZED (
  SELECT j.place
  FROM unnest(:first_lanes::int[], :last_lanes::int[], :limits::int[])
    AS q(first_lane, last_lane, queue_limit)
  CROSS JOIN LATERAL (
    SELECT n.place
    FROM unnest((:queues::text[])[q.first_lane : q.last_lane],
        (:priorities::smallint[])[q.first_lane : q.last_lane],
        (:from_at::float8[])[q.first_lane : q.last_lane],
        (:from_id::bigint[])[q.first_lane : q.last_lane],
        (:before_at::float8[])[q.first_lane : q.last_lane],
        (:before_id::bigint[])[q.first_lane : q.last_lane]{column})
      AS l(queue, priority, start_at, start_id, due_before, id_before{name})
    CROSS JOIN LATERAL {_due_of_lane("q.queue_limit", only=only)} n
    LIMIT q.queue_limit) j
  LIMIT :limit)"""


LEASED: Final = """status = 'RUNNING', attempts = b.attempts + 1, started_at = now(), progress = NULL,
  lease_until = (SELECT now() + make_interval(secs => :lease_seconds)),
  lease_token = (SELECT nextval('finmind_jobs.background_job_lease_tokens')), worker_id = :worker_id"""
"""What a claim sets."""


RESCUED: Final = f"""
  lost_leases = CASE b.status WHEN 'RUNNING' THEN b.lost_leases + 1 ELSE b.lost_leases END,
  last_error = CASE b.status WHEN 'RUNNING' THEN
    'LeaseLost: the worker stopped or stalled during attempt ' || b.attempts ELSE b.last_error END,
  errors = CASE b.status WHEN 'RUNNING' THEN {history("b.errors", LEASE_LOST_ENTRY)} ELSE b.errors END"""
"""What it sets besides where it takes the job from a worker that let its lease run out."""


CLAIMED: Final = """b.id, b.lease_token, b.queue, b.job_type, b.priority, b.attempts, b.max_retries,
  b.timeout_seconds, b.lost_leases, date_part('epoch', b.next_run_at),
  CASE WHEN isfinite(b.next_run_at) THEN date_part('epoch', now() - b.next_run_at) ELSE 0 END,
  b.payload::text, b.backoff::text,
  CASE WHEN b.lost_leases > 0 THEN b.errors -> -1 -> 'at' = to_jsonb(now()) ELSE false END,
  b.cancel IS NOT NULL, b.concurrency_key, b.permits, b.unique_until_start"""
"""What it tells of a job, for a `ClaimedJob`."""


LEASE_DUE: Final = f"""
UPDATE finmind_jobs.jobs_live b SET
  {LEASED},{RESCUED}
WHERE b.ctid = ANY (ARRAY(SELECT place FROM due))
RETURNING {CLAIMED}
"""
"""Put what was found under a new lease."""


CLAIM: Final = Transition(_DUE + LEASE_DUE)
"""Take due jobs lane by lane, in the order given.

No index holds a column that this changes: the update is HOT and writes no index entry. The start
of a lane skips index entries that are dead but cannot be removed yet. The join is by ctid: the
row was locked a moment ago by this very statement, and finding it again by id would cost a third
more buffers. A plain INSERT may have made a job due at -infinity: PostgreSQL before 17 cannot
subtract that, and it would ruin the average of the delays.
"""


CLAIM_WITHIN_LIMITS: Final = Transition(due_within_limits() + LEASE_DUE)
"""The same where a queue that may take fewer than the whole claim is asked for in several lanes: no
more of it than it may take, the most urgent first."""


CLAIM_ORPHANS: Final = Transition(due_within_limits(only=" AND b.status = 'RUNNING'") + LEASE_DUE)
"""The same of orphans alone, past the due jobs that may not start: where a queue is at its limit, orphans
have the permits that all wait for."""


CLAIM_BESIDE_KEYS: Final = Transition(
    due_within_limits(
        more="unkeyed",
        only=" AND (NOT l.unkeyed OR b.concurrency_key IS NULL OR b.status = 'RUNNING')",
    )
    + LEASE_DUE
)
"""The same where keys of some lanes take turns: of those only jobs without a key, and orphans.
`CLAIM_BY_KEYS` takes the others."""


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
{LEASE_DUE}""")


FAIL_REFUSED: Final = Transition(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_live b WHERE b.id = :job_id AND {NOT_LEASED} RETURNING *),
{failed_unrun(":reason::text", REFUSED_ENTRY)},
{free_permits("gone")}
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
    orphans_alone: bool = False,
) -> list[ClaimedJob]:
    """Take up to `limit` due jobs, lane by lane in the order given, under a new lease.

    The lanes of a queue stand together, and the limit of each is that of the queue. With `orphans_alone`
    none that is PENDING is taken.
    """
    lanes = lane_columns(requests)
    statement, lanes["limits"] = CLAIM, [request.limit for request in requests]
    if orphans_alone:
        statement = CLAIM_ORPHANS
    elif any(request.unkeyed for request in requests):
        statement, lanes["unkeyed"] = CLAIM_BESIDE_KEYS, [one.unkeyed for one in requests]
    elif _some_lanes_share_a_limit(requests, limit):
        statement = CLAIM_WITHIN_LIMITS
    if statement is not CLAIM:
        lanes |= queue_columns(requests)
    rows = await link.fetch(
        *statement.bind(
            **lanes,
            job_types=job_types,
            limit=limit,
            lease_seconds=lease_seconds,
            worker_id=worker_id,
            max_errors=max_errors,
        )
    )
    return [ClaimedJob(*row) for row in rows]


def _some_lanes_share_a_limit(requests: Sequence[LaneRequest], limit: int) -> bool:
    return any(
        one.lane.queue == other.lane.queue and one.limit < limit
        for one, other in pairwise(requests)
    )


def queue_columns(requests: Sequence[LaneRequest]) -> dict[str, list[object]]:
    """The first and the last lane of each queue, counted from 1, and its limit."""
    columns: dict[str, list[object]] = {"first_lanes": [], "last_lanes": [], "limits": []}
    last = 0
    for _, lanes in groupby(requests, key=lambda request: request.lane.queue):
        limits = [request.limit for request in lanes]
        columns["first_lanes"].append(last + 1)
        last += len(limits)
        columns["last_lanes"].append(last)
        columns["limits"].append(limits[0])
    return columns


async def within_windows(
    link: Link, requests: Sequence[LaneRequest], *, jobs: int
) -> list[LaneRequest]:
    """The same requests, each up to at most so many jobs of its lane, whoever serves them."""
    rows = await link.fetch(*WINDOW_ENDS.bind(**lane_columns(requests), skip=jobs))
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


def lane_columns(requests: Sequence[LaneRequest]) -> dict[str, list[object]]:
    """The lanes that are asked for, and from where up to where."""
    return {
        "queues": [request.lane.queue for request in requests],
        "priorities": [request.lane.priority for request in requests],
        "from_at": [request.start.due_at for request in requests],
        "from_id": [request.start.job_id for request in requests],
        "before_at": [request.due_before for request in requests],
        "before_id": [request.id_before for request in requests],
    }
