"""Permits: grant them to claimed jobs or hold the jobs, and claim held jobs when permits are free.

A job's turns under the rates of its key and of its queue (`store/rate_limits.py`) are the last that it needs.

A permit belongs to a RUNNING job, and `job_permits` counts how many there are under each limit. What takes
a job out of RUNNING frees its permits in the same statement (`store/settle.py`). Statements lock the rows
of their jobs first, then those of limits in the order of their keys: none waits for another in a circle.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.holds import KEY, MAX_KEY_CHARS, QUEUE, RATE
from service.jobs.core.job import JobId
from service.jobs.store import rate_limits
from service.jobs.store.claim import LEASED
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY
from service.jobs.store.statement import Statement, Transition

_APART: Final = rate_limits.apart("q.rate")
_KEY_APART: Final = rate_limits.apart("q.key_rate")


def asks(*, key_limit: str) -> str:
    """Of a job `b` and its queue `q`: the limits and rates that it comes under, and what it has.

    Args:
        key_limit: the limit for its concurrency key that its type sets, NULL where it sets none.
    """
    least = f"LEAST({key_limit}, q.max_running_per_key)"
    return f"""b.permits AS has, b.cancel IS NOT NULL AS cancelled,
    CASE WHEN b.cancel IS NULL AND {least} IS NOT NULL
      THEN '{KEY}' || left(b.concurrency_key, {MAX_KEY_CHARS}) END AS key_permit,
    {least} AS key_limit,
    CASE WHEN b.cancel IS NULL AND q.max_running IS NOT NULL
      THEN '{QUEUE}' || b.queue END AS queue_permit,
    q.max_running AS queue_limit,
    CASE WHEN b.cancel IS NULL AND {_APART} IS NOT NULL
      THEN {rate_limits.name_of("b.queue")} END AS rate,
    {_APART} AS apart, {rate_limits.burst("q.rate")} AS burst,
    CASE WHEN b.cancel IS NULL AND {_KEY_APART} IS NOT NULL
      THEN {rate_limits.name_of("b.queue", "b.concurrency_key")} END AS key_rate,
    {_KEY_APART} AS key_apart, {rate_limits.burst("q.key_rate")} AS key_burst"""


DECIDED: Final = f"""
limits AS (
  SELECT key, min(max_running) AS max_running FROM (
    SELECT key_permit, key_limit FROM mine WHERE has IS NULL
    UNION ALL SELECT queue_permit, queue_limit FROM mine WHERE has IS NULL) l(key, max_running)
  WHERE key IS NOT NULL GROUP BY key),
counted AS MATERIALIZED (
  SELECT l.key, l.max_running - p.running AS free
  FROM (SELECT * FROM limits ORDER BY key) l
  CROSS JOIN LATERAL (
    SELECT running FROM finmind_jobs.job_permits WHERE key = l.key FOR UPDATE) p),
free AS MATERIALIZED (SELECT COALESCE(jsonb_object_agg(key, free), '{{}}') AS of_key FROM counted),
keyed AS (
  SELECT m.*, m.has IS NOT NULL OR m.key_permit IS NULL
      OR row_number() OVER (PARTITION BY m.has IS NULL, m.key_permit ORDER BY m.turn)
        <= (SELECT of_key ->> m.key_permit FROM free)::int AS key_allows
  FROM mine m),
asked AS (
  SELECT k.*, k.key_allows AND (k.has IS NOT NULL OR k.queue_permit IS NULL
      OR row_number() OVER (PARTITION BY k.has IS NULL, k.key_allows, k.queue_permit ORDER BY k.turn)
        <= (SELECT of_key ->> k.queue_permit FROM free)::int) AS admitted
  FROM keyed k),
{rate_limits.RATED},
decided AS MATERIALIZED (
  SELECT id, place, token, starts AS admitted, has, cancelled, key_permit, key_limit, queue_permit, queue_limit,
    rate, apart, burst, key_rate, key_apart, key_burst,
    COALESCE(has, CASE WHEN starts THEN
      NULLIF(array_remove(ARRAY[key_permit, queue_permit, key_rate, rate], NULL), '{{}}') END) AS permits,
    CASE WHEN NOT starts THEN CASE WHEN key_starts THEN rate WHEN admitted THEN key_rate
      WHEN key_allows IS NOT FALSE THEN queue_permit ELSE key_permit END END AS held_for
  FROM rated),
taken AS (
  UPDATE finmind_jobs.job_permits p
  SET running = p.running + t.jobs, max_running = t.max_running, used_at = now()
  FROM (
    SELECT key, min(max_running) AS max_running, count(*)::int AS jobs FROM (
      SELECT key_permit, key_limit FROM decided WHERE admitted AND has IS NULL
      UNION ALL SELECT queue_permit, queue_limit FROM decided WHERE admitted AND has IS NULL)
      g(key, max_running)
    WHERE key IS NOT NULL GROUP BY key) t
  WHERE p.key = t.key),
{rate_limits.STARTED}"""
"""Who of `mine` is admitted, in the order of `turn`, and who is held for what; takes the permits and turns of
those that are.

`mine` holds locked jobs: id, place, token, turn, and what `asks` tells. Limits are probed one by one, and looked
up in an object: PostgreSQL takes the batch for one row, and joins would compare each job with each limit.
"""


ADMIT: Final = Transition(f"""
WITH r AS (
  SELECT * FROM unnest(:ids::bigint[], :tokens::bigint[], :key_limits::int[])
    WITH ORDINALITY AS r(id, token, key_limit, turn)),
mine AS MATERIALIZED (
  SELECT b.id, b.ctid AS place, r.token, r.turn,
    {asks(key_limit="r.key_limit")}
  FROM r JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  LEFT JOIN finmind_jobs.queues q ON q.name = b.queue
  WHERE b.lease_token = r.token AND b.status = 'RUNNING' FOR UPDATE OF b),
{DECIDED},
changed AS (
  UPDATE finmind_jobs.jobs_live b SET
    permits = a.permits, held_for = a.held_for,
    held_since = CASE WHEN NOT a.admitted THEN COALESCE(b.held_since, now()) END,
    held_due_at = CASE WHEN NOT a.admitted THEN b.next_run_at END,
    next_run_at = CASE WHEN a.admitted THEN b.next_run_at ELSE 'infinity' END,
    status = CASE WHEN a.admitted THEN 'RUNNING' ELSE 'PENDING' END,
    attempts = CASE WHEN a.admitted THEN b.attempts ELSE b.attempts - 1 END,
    lease_until = CASE WHEN a.admitted THEN b.lease_until END,
    worker_id = CASE WHEN a.admitted THEN b.worker_id END,
    started_at = CASE WHEN a.admitted THEN b.started_at END
  FROM decided a
  WHERE {ID_BY_PRIMARY_KEY.replace("r.", "a.")} AND a.admitted IS NOT NULL AND a.has IS NULL)
SELECT id, token, admitted, permits, held_for, cancelled FROM decided
""")
"""Grant permits to claimed jobs, in the order given, and hold those over a limit: PENDING, their attempt
given back, due at infinity.

Answers nothing of a job whose lease was lost, and NULL where the row of a limit or of a rate is missing. Sent
again after its answer was lost it grants nothing twice: a job that has permits keeps them, of which its
start under a rate is one. One that somebody cancels needs none to end. Limits are probed one by one, and looked up in an object: PostgreSQL
takes the batch for one row, and joins would compare each job with each limit.
"""


MAKE_PERMITS: Final = Statement(f"""
INSERT INTO finmind_jobs.job_permits (key)
SELECT DISTINCT key FROM (
  SELECT '{KEY}' || left(key, {MAX_KEY_CHARS}) FROM unnest(:keys::text[]) key
  UNION ALL SELECT '{QUEUE}' || queue FROM unnest(:queues::text[]) queue) k(key)
WHERE key IS NOT NULL ORDER BY key
ON CONFLICT (key) DO NOTHING
""")


_MINE: Final = """b.status = 'PENDING' AND b.next_run_at = 'infinity' AND b.job_type = ANY (:job_types::text[])
      AND b.queue <> ALL (:left_out::text[]) AND (:queues::text[] IS NULL OR b.queue = ANY (:queues))"""
"""Held jobs that this worker may run. One that the version before, or plain SQL, has made due is due at its own
time: lanes bring it."""


CLAIM_HELD: Final = Transition(f"""
WITH asked AS (
  SELECT k.held_for, COALESCE(CASE WHEN k.held_for LIKE '{RATE}%' THEN {rate_limits.FREE_STARTS}
      ELSE CASE WHEN k.held_for LIKE '{QUEUE}%' THEN q.max_running
        ELSE LEAST(t.max_running, q.max_running_per_key) END - COALESCE(p.running, 0) END, :limit) AS free
  FROM unnest(:holds::text[]) AS k(held_for)
  CROSS JOIN LATERAL (
    SELECT b.queue, b.job_type FROM finmind_jobs.jobs_live b WHERE b.held_for = k.held_for AND {_MINE}
    ORDER BY b.priority, b.held_due_at, (b.id + 0) LIMIT 1) first
  LEFT JOIN finmind_jobs.queues q ON q.name = first.queue
  LEFT JOIN finmind_jobs.job_permits p ON p.key = k.held_for
  {rate_limits.RATE_HELD_FOR}
  LEFT JOIN unnest(:limited_types::text[], :type_limits::int[]) AS t(job_type, max_running)
    ON t.job_type = first.job_type),
next AS MATERIALIZED (
  SELECT j.ctid AS place FROM asked a
  CROSS JOIN LATERAL (
    SELECT b.ctid FROM finmind_jobs.jobs_live b
    WHERE b.held_for = a.held_for AND {_MINE}
    ORDER BY b.priority, b.held_due_at, (b.id + 0)
    LIMIT GREATEST(LEAST(a.free, :limit), 0) FOR UPDATE SKIP LOCKED) j
  LIMIT :limit)
UPDATE finmind_jobs.jobs_live b SET
  {LEASED},
  next_run_at = COALESCE(b.held_due_at, now()), held_for = NULL, held_due_at = NULL
WHERE b.ctid = ANY (ARRAY(SELECT place FROM next))
RETURNING b.id, b.lease_token, b.queue, b.job_type, b.priority, b.attempts, b.max_retries,
  b.timeout_seconds, b.lost_leases, date_part('epoch', b.next_run_at),
  CASE WHEN isfinite(b.next_run_at) THEN date_part('epoch', now() - b.next_run_at) ELSE 0 END,
  b.payload::text, b.backoff::text, false, b.cancel IS NOT NULL, b.concurrency_key,
  NULL::text[], b.unique_until_start
""")
"""Claim jobs that are held for these limits, as many of each as there seem to be free permits, in the
order of priority and due time. `ADMIT` decides; `held_since` stays until then.

Queues may allow a key different numbers: that of the first job that this worker may run counts, not that
of one before it which waits in a paused queue, or for other workers."""


HOLDS: Final = Statement("""
WITH RECURSIVE h AS (
  (SELECT held_for FROM finmind_jobs.jobs_live WHERE held_for > :after ORDER BY held_for LIMIT 1)
  UNION ALL
  SELECT (SELECT b.held_for FROM finmind_jobs.jobs_live b WHERE b.held_for > h.held_for
    ORDER BY b.held_for LIMIT 1)
  FROM h WHERE h.held_for IS NOT NULL)
SELECT held_for FROM (SELECT held_for FROM h LIMIT :limit) h WHERE held_for IS NOT NULL
""")
"""What jobs are held for, a probe of the index for each."""


QUEUE_PERMITS: Final = Statement(f"""
SELECT q.name, q.max_running - COALESCE(p.running, 0)
FROM finmind_jobs.queues q LEFT JOIN finmind_jobs.job_permits p ON p.key = '{QUEUE}' || q.name
WHERE q.max_running IS NOT NULL
""")


UNHOLD_FIRST: Final = Transition("""
UPDATE finmind_jobs.jobs_live b SET next_run_at = COALESCE(b.held_due_at, now()),
  held_for = NULL, held_due_at = NULL
WHERE b.ctid = (
  SELECT f.ctid FROM finmind_jobs.jobs_live f WHERE f.held_for = :held_for AND f.status = 'PENDING'
  ORDER BY f.priority, f.held_due_at, (f.id + 0) LIMIT 1 FOR UPDATE)
RETURNING b.id
""")
"""Put the first of those that are held for a limit back into its lane: it cannot be claimed here, and a
claim of the lane ends such jobs."""


REPAIR_PERMITS: Final = Statement("""
WITH wrong AS MATERIALIZED (
  SELECT key, sum(jobs)::int AS difference FROM (
    SELECT key, -running AS jobs FROM finmind_jobs.job_permits
    UNION ALL
    SELECT key, 1 FROM finmind_jobs.jobs_live b, unnest(b.permits) key
    WHERE b.permits IS NOT NULL AND EXISTS (SELECT FROM finmind_jobs.job_permits)) counted
  GROUP BY key HAVING sum(jobs) <> 0 ORDER BY key)
UPDATE finmind_jobs.job_permits p SET running = p.running + w.difference
FROM wrong w WHERE p.key = w.key
RETURNING p.key, w.difference
""")
"""Compare the counts with the jobs as of one moment, and add the difference: what changed since then
is kept. Starts under rates are noted among the permits as well, and have no count here.

It reads all live jobs, unless no limit has a count. Summed up, not joined: PostgreSQL takes the jobs with
permits for a handful, and would compare each of them with each of fifty thousand keys."""


DROP_PERMITS: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.job_permits p USING (
    SELECT key FROM finmind_jobs.job_permits
    WHERE running = 0 AND used_at < now() - make_interval(secs => :idle_seconds)
    ORDER BY key LIMIT :limit FOR UPDATE SKIP LOCKED) old
  WHERE p.key = old.key AND p.running = 0 RETURNING 1)
SELECT count(*) FROM gone
""")


class Answer(NamedTuple):
    """What ADMIT did with one job."""

    admitted: bool | None
    """None: a limit has no row in `job_permits` yet, or a rate none in `rate_limits`."""
    permits: list[str] | None
    held_for: str | None
    cancelled: bool
    """Whether somebody asked for its cancel since it was claimed: it needs no permit, and must not run."""


async def admit(
    link: Link, jobs: Sequence[ClaimedJob], *, key_limits: Sequence[int | None]
) -> dict[Lease, Answer]:
    """Grant permits to these jobs or hold them; nothing of those whose lease was lost.

    Args:
        link: the connection.
        jobs: in the order in which they are to be admitted.
        key_limits: the limit for each concurrency key that the type of the job sets.
    """
    rows = await link.fetch(
        *ADMIT.bind(
            ids=[job.id for job in jobs],
            tokens=[job.lease_token for job in jobs],
            key_limits=list(key_limits),
        )
    )
    return {(row[0], row[1]): Answer(*row[2:]) for row in rows}


async def make_permits(link: Link, jobs: Sequence[ClaimedJob]) -> None:
    """Make the rows of all limits that these jobs may come under."""
    keys = {job.concurrency_key for job in jobs}
    await link.fetch(
        *MAKE_PERMITS.bind(keys=[*filter(None, keys)], queues=list({job.queue for job in jobs}))
    )


async def claim_held(
    link: Link,
    holds: Sequence[str],
    job_types: list[str],
    *,
    queues: list[str] | None,
    left_out: list[str],
    type_limits: Mapping[str, int],
    limit: int,
    lease_seconds: float,
    worker_id: int,
) -> list[ClaimedJob]:
    """Claim up to `limit` jobs that are held for these limits, as far as permits seem to be free.

    Args:
        link: the connection.
        holds: what the jobs are held for.
        job_types: those that this worker serves.
        queues: those that it serves; None for all.
        left_out: of these the ones of which it may take none.
        type_limits: the limits for each concurrency key that types set.
        limit: limit on the jobs.
        lease_seconds: of their leases.
        worker_id: of this worker.
    """
    rows = await link.fetch(
        *CLAIM_HELD.bind(
            holds=list(holds),
            job_types=job_types,
            queues=queues,
            left_out=left_out,
            limited_types=list(type_limits),
            type_limits=list(type_limits.values()),
            limit=limit,
            lease_seconds=lease_seconds,
            worker_id=worker_id,
        )
    )
    return [ClaimedJob(*row) for row in rows]


async def holds(link: Link, *, after: str, limit: int) -> list[str]:
    """What jobs are held for, behind `after` in order."""
    return [row[0] for row in await link.fetch(*HOLDS.bind(after=after, limit=limit))]


async def queue_permits(link: Link) -> dict[str, int]:
    """How many permits each queue with a limit has free; less than 0 where the limit was lowered."""
    return {row[0]: row[1] for row in await link.fetch(*QUEUE_PERMITS.bind())}


async def unhold_first(link: Link, held_for: str) -> JobId | None:
    """Put the first job that is held for a limit back into its lane; None where there is none."""
    rows = await link.fetch(*UNHOLD_FIRST.bind(held_for=held_for))
    return JobId(rows[0][0]) if rows else None


async def repair(link: Link) -> dict[str, int]:
    """Set right the counts that do not agree with the jobs: by how much each was wrong."""
    return {row[0]: row[1] for row in await link.fetch(*REPAIR_PERMITS.bind())}


async def drop_idle(link: Link, *, idle_seconds: float, limit: int) -> int:
    """Delete the counts of limits that no job has come under for so long; how many."""
    rows = await link.fetch(*DROP_PERMITS.bind(idle_seconds=idle_seconds, limit=limit))
    return int(rows[0][0])
