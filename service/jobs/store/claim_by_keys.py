"""Claim due jobs of the concurrency keys of a lane in turn, and find such claims whose answer was lost."""

from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.lane import KeysRequest, KeysWalk, Lane
from service.jobs.store.claim import LEASE_DUE
from service.jobs.store.fragments import NOT_LEASED, POSITION
from service.jobs.store.statement import Statement, Transition

KEYS_WALK: Final = 1_000
"""Keys that one claim looks at: some milliseconds of work. The next goes on behind them."""

LOST_JOBS_WALK: Final = 1_000
"""Jobs of one key that a look for lost claims walks."""

KEY: Final = 'left(b.concurrency_key, 255) COLLATE "C"'
"""As jobs_live_keys has it: a longer key would not fit into an index."""

_OF_LANE: Final = "b.queue = :queue AND b.priority = :priority AND b.concurrency_key IS NOT NULL"


def _next_key(more: str) -> str:
    """The first key of the lane, or of those behind some key."""
    return f"""FROM finmind_jobs.jobs_live b WHERE {_OF_LANE} AND {more} ORDER BY {KEY} LIMIT 1"""


_NEXT_KEY: Final = f"""
  CROSS JOIN LATERAL (
    (SELECT {KEY} AS key, r.round {_next_key(f"{KEY} > r.key")})
    UNION ALL
    (SELECT {KEY}, 1 {_next_key("r.round = 0")})
    LIMIT 1) n"""
"""The key behind that of `r`; behind the last comes the first, in round 1."""

_GOES_ON: Final = "r.turn < :walk AND (n.round = 0 OR n.key <= :after_key::text)"


_FREE: Final = (
    f"""b.next_run_at <= now() AND b.job_type = ANY (:job_types::text[]) AND {NOT_LEASED}"""
)


_FREE_OF_KEYS: Final = f"""
WITH RECURSIVE ring AS (
  SELECT 0 AS turn, 0 AS round, :after_key::text COLLATE "C" AS key, 0 AS found,
    NULL::timestamptz AS first_at, NULL::bigint AS first_id
  UNION ALL
  SELECT r.turn + 1, n.round, n.key, r.found + (f.id IS NOT NULL)::int, f.next_run_at, f.id
  FROM ring r{_NEXT_KEY}
  LEFT JOIN LATERAL (
    SELECT b.next_run_at, b.id FROM finmind_jobs.jobs_live b
    WHERE {_OF_LANE} AND {KEY} = n.key AND {_FREE} ORDER BY {POSITION} LIMIT 1) f ON true
  WHERE r.found < :limit AND {_GOES_ON})"""
"""The keys of a lane one after another, and the first free due job of each."""


CLAIM_BY_KEYS: Final = Transition(f"""{_FREE_OF_KEYS},
ending AS MATERIALIZED (
  SELECT key, turn < :walk AND found < :limit AS whole,
    GREATEST(ceil(:limit::float8 / NULLIF(found, 0)), 1)::int AS share
  FROM ring ORDER BY turn DESC LIMIT 1),
due AS MATERIALIZED (
  SELECT j.place FROM ring r
  CROSS JOIN LATERAL (
    SELECT b.ctid AS place FROM finmind_jobs.jobs_live b
    WHERE {_OF_LANE} AND {KEY} = r.key AND ({POSITION}) >= (r.first_at, r.first_id) AND {_FREE}
    ORDER BY {POSITION} LIMIT (SELECT share FROM ending) FOR UPDATE SKIP LOCKED) j
  WHERE r.first_id IS NOT NULL
  LIMIT :limit),
taken AS ({LEASE_DUE})
SELECT ending.key, ending.whole, taken.* FROM ending LEFT JOIN taken ON true
""")
"""Take due jobs of one lane, of each of its concurrency keys as many.

From one key it goes to the next by the index, over as many keys as jobs are wanted and no more than
`:walk`: each key costs three probes, however many jobs it has. Those that have a free job share the
claim. The answer has one row at least: the last key that was looked at, and whether that were all.
"""


FIRST_BY_KEYS: Final = Statement(f"""{_FREE_OF_KEYS}
SELECT b.id, b.job_type FROM ring r JOIN finmind_jobs.jobs_live b ON b.id = ANY (ARRAY[r.first_id])
ORDER BY r.turn LIMIT 1
""")
"""What a claim by keys would take first, without taking it: for one that PostgreSQL refuses."""


LOST_BY_KEYS: Final = Statement(f"""
WITH RECURSIVE ring AS (
  SELECT 0 AS turn, 0 AS round, :after_key::text COLLATE "C" AS key
  UNION ALL
  SELECT r.turn + 1, n.round, n.key FROM ring r{_NEXT_KEY} WHERE {_GOES_ON})
SELECT j.id, j.lease_token FROM ring r
CROSS JOIN LATERAL (
  SELECT b.id, b.status, b.worker_id, b.lease_token FROM finmind_jobs.jobs_live b
  WHERE {_OF_LANE} AND {KEY} = r.key AND b.next_run_at <= now()
  ORDER BY {POSITION} LIMIT :jobs_walk) j
WHERE r.turn > 0 AND j.status = 'RUNNING' AND j.worker_id = :worker_id
  AND j.lease_token <> ALL (:known::bigint[])
""")
"""What such a claim took whose answer never came: this worker's, under tokens that it never saw. It took the
first that it could of each key."""


async def take(
    link: Link,
    request: KeysRequest,
    job_types: list[str],
    *,
    lease_seconds: float,
    worker_id: int,
    max_errors: int,
) -> tuple[list[ClaimedJob], KeysWalk]:
    """Take due jobs of the keys of one lane under a new lease, and how far the claim went."""
    rows = await link.fetch(
        *CLAIM_BY_KEYS.bind(
            queue=request.lane.queue,
            priority=request.lane.priority,
            after_key=request.after_key,
            limit=request.limit,
            walk=KEYS_WALK,
            job_types=job_types,
            lease_seconds=lease_seconds,
            worker_id=worker_id,
            max_errors=max_errors,
        )
    )
    jobs = [ClaimedJob(*row[2:]) for row in map(tuple, rows) if row[2] is not None]
    return jobs, KeysWalk(*tuple(rows[0])[:2])


async def first(link: Link, request: KeysRequest, job_types: list[str]) -> tuple[JobId, str] | None:
    """Id and type of the first job that a claim by keys would take; None where there is none."""
    rows = await link.fetch(
        *FIRST_BY_KEYS.bind(
            queue=request.lane.queue,
            priority=request.lane.priority,
            after_key=request.after_key,
            limit=1,
            walk=KEYS_WALK,
            job_types=job_types,
        )
    )
    return (rows[0][0], rows[0][1]) if rows else None


async def find_lost(
    link: Link, lane: Lane, after_key: str, *, worker_id: int, known: list[LeaseToken]
) -> list[Lease]:
    """This worker's claims by keys that began behind that one, under other tokens than it knows."""
    rows = await link.fetch(
        *LOST_BY_KEYS.bind(
            queue=lane.queue,
            priority=lane.priority,
            after_key=after_key,
            walk=KEYS_WALK,
            jobs_walk=LOST_JOBS_WALK,
            worker_id=worker_id,
            known=known,
        )
    )
    return [(row[0], row[1]) for row in rows]
