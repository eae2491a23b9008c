"""History: a database filled with what weeks of use leave behind, by the server itself."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from service.db.engine import Database
from service.jobs.maintenance import partitions

STEP = 50_000
"""Jobs that one statement makes."""

CONNECTIONS = 2
"""Connections that fill at once, each its own stretch of time."""

TYPES, QUEUES = 20, 10


@dataclass(frozen=True, slots=True)
class Contents:
    """What to fill a database with."""

    finished: int = 0
    scheduled: int = 0
    dead: int = 0
    days: int = 7
    """For how many days jobs were created."""
    ended_days_ago: int | None = None
    """The midnight (UTC) before which they were created; None: up to now."""


async def fill(database: Database, contents: Contents) -> None:
    """Put `contents` into an empty database, as workers would have left it; vacuumed, analysed.

    Ids are in the order of creation, and the kept counts agree with the rows. Job types are of
    uneven frequency (`type-0` more than a quarter, `type-19` two in a thousand), and nine jobs in
    ten are in the queue of their type. Two in a hundred finished ones were cancelled, one in a
    hundred failed once before it succeeded, one in twenty has a unique key.
    """
    connections = [await asyncpg.connect(database.dsn) for _ in range(CONNECTIONS)]
    link = database.link()
    try:
        first, *_ = connections
        started: datetime = await first.fetchval(
            "SELECT CASE WHEN $2::int IS NULL THEN now() ELSE"
            " date_trunc('day', now(), 'UTC') - make_interval(days => $2) END"
            " - make_interval(days => $1)",
            contents.days,
            contents.ended_days_ago,
        )
        first_day = started.astimezone(UTC).date()
        await partitions.make(
            link, (first_day + timedelta(days=after) for after in range(contents.days + 1))
        )
        await partitions.make_ahead(link, days=7)
        for connection in connections:
            await connection.execute("SET synchronous_commit = off; SET jit = off")
        kinds = (
            (_FINISHED, contents.finished),
            (_DEAD, contents.dead),
            (_SCHEDULED, contents.scheduled),
        )
        slots = max(jobs for _, jobs in kinds)
        for statement, jobs in kinds:
            await _fill_kind(
                connections, statement, jobs, (jobs, slots, started, contents.days * 86_400.0)
            )
        await first.execute(_COUNTS)
        await first.fetchval(
            "SELECT setval('finmind_jobs.background_job_ids', $1)", max(4 * slots + 2, 1)
        )
        await first.execute("VACUUM (ANALYZE) finmind_jobs.background_jobs, finmind_jobs.job_stats")
        await first.execute("CHECKPOINT")
    finally:
        await link.close()
        for connection in connections:
            await connection.close()


async def _fill_kind(
    connections: list["asyncpg.Connection[asyncpg.Record]"],
    statement: str,
    jobs: int,
    arguments: tuple[object, ...],
) -> None:
    async def fill_stretch(number: int, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        end = jobs * (number + 1) // len(connections)
        for low in range(jobs * number // len(connections), end, STEP):
            await connection.execute(statement, low + 1, min(low + STEP, end), *arguments)

    async with asyncio.TaskGroup() as stretches:
        for number, connection in enumerate(connections):
            stretches.create_task(fill_stretch(number, connection))


def _drawn(kind: int) -> str:
    """Ids, moments and names of jobs $1 to $2 of $3, among $4 slots from $5 on for $6 seconds.

    Of four ids a slot has, finished jobs take the first, dead and scheduled ones the next two.
    """
    return f"""
      SELECT d.*, 'type-' || d.type AS job_type,
        'queue-' || (d.type * 7 + CASE WHEN d.stray THEN 1 + d.id % 9 ELSE 0 END) % {QUEUES}
          AS queue,
        jsonb_build_object('user_id', d.id, 'message', repeat('x', 160)) AS payload
      FROM (
        SELECT n, 4 * (n * $4::bigint / $3) + {kind} AS id,
          $5::timestamptz + make_interval(secs => $6::float8 * n / $3) AS created_at,
          least(floor(-3 * ln(1 - random())), {TYPES - 1})::int AS type,
          random() < 0.1 AS stray, random() AS chance
        FROM generate_series($1::bigint, $2::bigint) AS n) AS d"""


_ENTRY = """jsonb_build_object('event', 'error', 'attempt', attempt, 'type', 'ConnectionError',
  'message', 'the mail server at mx' || id % 50 || '.example.org did not answer', 'traceback',
  repeat('  File "handlers.py", line 42, in send' || chr(10), 12), 'started_at', created_at,
  'at', created_at, 'worker', 'web-1:831:ab12cd', 'by', NULL)"""

# One in fifty was retried, or run later: due up to an hour after it was made.
_FINISHED = f"""
WITH drawn AS MATERIALIZED ({_drawn(0)}),
due AS (
  SELECT *, CASE WHEN chance < 0.02 THEN least(created_at + chance * interval '50 hours', now())
    ELSE created_at END AS next_run_at
  FROM drawn)
INSERT INTO finmind_jobs.background_jobs (id, created_at, next_run_at, started_at, finished_at, lease_token,
  worker_id, priority, attempts, queue, job_type, status, unique_key, last_error, payload, errors)
SELECT id, created_at, next_run_at, next_run_at + interval '3 ms',
  least(next_run_at + interval '50 ms', now()), id, 1,
  CASE WHEN id % 40 = 4 THEN 0 WHEN id % 40 = 8 THEN 5 ELSE 2 END,
  CASE WHEN chance < 0.01 THEN 2 ELSE 1 END, queue, job_type,
  CASE WHEN chance > 0.98 THEN 'CANCELLED' ELSE 'SUCCESS' END,
  CASE WHEN n % 20 = 0 THEN 'order:' || id END,
  CASE WHEN chance < 0.01 THEN 'ConnectionError: the mail server at mx' || id % 50
    || '.example.org did not answer' END,
  payload, CASE WHEN chance < 0.01 THEN
    (SELECT jsonb_agg({_ENTRY}) FROM generate_series(1, 1) AS attempt) END
FROM due"""

_DEAD = f"""
WITH drawn AS MATERIALIZED ({_drawn(1)})
INSERT INTO finmind_jobs.background_jobs (id, created_at, next_run_at, started_at, finished_at, lease_token,
  worker_id, attempts, queue, job_type, status, unique_key, last_error, payload, errors)
SELECT id, created_at, created_at, created_at, least(created_at + interval '11 minutes', now()),
  id, 1, CASE WHEN chance < 0.2 THEN 1 ELSE 4 END, queue, job_type,
  CASE WHEN chance < 0.2 THEN 'FAILED' ELSE 'DEAD_LETTER' END,
  CASE WHEN n % 20 = 0 THEN 'order:' || id END,
  'ConnectionError: the mail server at mx' || id % 50 || '.example.org did not answer', payload,
  (SELECT jsonb_agg({_ENTRY}) FROM generate_series(1, CASE WHEN chance < 0.2 THEN 1 ELSE 4 END)
    AS attempt)
FROM drawn"""

_SCHEDULED = f"""
WITH drawn AS MATERIALIZED ({_drawn(2)})
INSERT INTO finmind_jobs.background_jobs (id, created_at, next_run_at, queue, job_type, unique_key, payload)
SELECT id, created_at, now() + interval '1 hour' + chance * interval '30 days', queue, job_type,
  CASE WHEN n % 20 = 0 THEN 'later:' || id END, payload
FROM drawn"""

_COUNTS = """
INSERT INTO finmind_jobs.job_stats (queue, job_type, status, day, jobs)
SELECT queue, job_type, status, (finished_at AT TIME ZONE 'UTC')::date, count(*)
FROM finmind_jobs.background_jobs WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4"""
