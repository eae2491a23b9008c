"""Rates: how many jobs of a queue, or of a concurrency key there, may start within a time, by reserved times.

A row of `rate_limits` keeps one time, from which on the next job may start. Each start moves it on by the
time between two. While it is past, one job more may start for each such time, up to the burst. So what
starts within any time is at most the burst and what the rate allows for that time; a restart forgets
nothing, and a change of the rate counts at once. Times are reckoned in microseconds.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.holds import MAX_KEY_CHARS, RATE
from service.jobs.core.queue_limits import MAX_LIMIT, MAX_RATE_SECONDS, MIN_RATE_SECONDS
from service.jobs.store.statement import Statement

_MICROSECOND: Final = "interval '1 microsecond'"


def name_of(queue: str, key: str | None = None) -> str:
    """The name of the rate of a queue, or of a key there, as `holds.rate_of` makes it."""
    name = f"'{RATE}' || replace(replace({queue}, '~', '~0'), '/', '~1')"
    return name if key is None else f"{name} || '/' || left({key}, {MAX_KEY_CHARS})"


def apart(rate: str) -> str:
    """The time between two starts, in microseconds; NULL: there is no rate.

    Args:
        rate: what the columns begin with: `q.rate` for the rate of a queue, `q.key_rate` for those of its keys.
    """
    return f"({_seconds(rate)} * 1e6::float8 / {rate}_limit)"


def _seconds(rate: str) -> str:
    """Plain SQL may set a time that no rule allows: then the nearest that one does."""
    return f"""CASE WHEN {rate}_seconds IS NOT NULL
      THEN LEAST(GREATEST({rate}_seconds, {MIN_RATE_SECONDS}), {MAX_RATE_SECONDS}) END"""


def burst(rate: str) -> str:
    """How many may start at once: by default what may start in a second, at least 1."""
    return f"""COALESCE({rate}_burst::float8,
      GREATEST(ceil({rate}_limit / {_seconds(rate)}), 1))"""


def _ahead(next_at: str) -> str:
    return f"(extract(epoch FROM {next_at} - now()) * 1000000)::bigint::float8"


def _free(*, ahead: str, apart: str, burst: str) -> str:
    return f"""CASE WHEN {apart} IS NULL THEN NULL WHEN {ahead} > 0 THEN 0
      ELSE LEAST({burst}, floor(-{ahead} / {apart}) + 1, {MAX_LIMIT}) END::int"""


def _after(*, ahead: str, apart: str, burst: str, jobs: str) -> str:
    """How far the reserved time is ahead once so many jobs have started."""
    return f"GREATEST({ahead}, -floor(({burst} - 1) * {apart})) + ceil({jobs} * {apart})"


_NEVER_USED: Final = "to_timestamp(0)"

_AHEAD: Final = _ahead(f"COALESCE(l.next_at, {_NEVER_USED})")


def _one_of(name: str) -> str:
    """The rate `r` of this name: one of the queue `q`, or of a key there."""
    return f"""CROSS JOIN LATERAL (SELECT
    CASE WHEN {name} LIKE '%/%' THEN {apart("q.key_rate")} ELSE {apart("q.rate")} END AS apart,
    CASE WHEN {name} LIKE '%/%' THEN {burst("q.key_rate")} ELSE {burst("q.rate")} END AS burst) r"""


_ROW: Final = "LEFT JOIN finmind_jobs.rate_limits l ON l.key = k.held_for"

RATE_HELD_FOR: Final = f"""{_ROW}
  {_one_of("k.held_for")}"""
"""The rate `r` that jobs of the queue `q` are held for by the name `k.held_for`, and its row `l`."""

FREE_STARTS: Final = _free(ahead=_AHEAD, apart="r.apart", burst="r.burst")
"""How many jobs that rate lets start now; NULL: there is none any more."""


RATED: Final = f"""
rates AS (
  SELECT key, min(apart) AS apart, min(burst) AS burst FROM (
    SELECT rate, apart, burst FROM asked WHERE admitted AND has IS NULL
    UNION ALL SELECT key_rate, key_apart, key_burst FROM asked WHERE admitted AND has IS NULL)
    r(key, apart, burst)
  WHERE key IS NOT NULL GROUP BY key),
reserved AS MATERIALIZED (
  SELECT r.key, r.apart, r.burst, l.ahead
  FROM (SELECT * FROM rates ORDER BY key) r
  CROSS JOIN LATERAL (
    SELECT {_ahead("next_at")} AS ahead FROM finmind_jobs.rate_limits WHERE key = r.key FOR UPDATE) l),
free_starts AS MATERIALIZED (
  SELECT COALESCE(jsonb_object_agg(key, {_free(ahead="ahead", apart="apart", burst="burst")}), '{{}}')
    AS of_key FROM reserved),
key_rated AS (
  SELECT a.*, CASE WHEN a.admitted AND a.has IS NULL AND a.key_rate IS NOT NULL
    THEN row_number() OVER (PARTITION BY a.has IS NULL, a.admitted, a.key_rate ORDER BY a.turn)
      <= (SELECT of_key ->> a.key_rate FROM free_starts)::int
    ELSE a.admitted END AS key_starts
  FROM asked a),
rated AS (
  SELECT k.*, CASE WHEN k.key_starts AND k.has IS NULL AND k.rate IS NOT NULL
    THEN row_number() OVER (PARTITION BY k.has IS NULL, k.key_starts, k.rate ORDER BY k.turn)
      <= (SELECT of_key ->> k.rate FROM free_starts)::int
    ELSE k.key_starts END AS starts
  FROM key_rated k)"""
"""Of the jobs in `asked` that have permits, those that the rates of their keys and of their queue let
start: CTEs of ADMIT.

The rows of rates are locked after those of permits, and in the order of their keys.
"""

STARTED: Final = f"""
started AS (
  UPDATE finmind_jobs.rate_limits l SET next_at = now() + {_MICROSECOND} * (
    {_after(ahead=_ahead("l.next_at"), apart="s.apart", burst="s.burst", jobs="s.jobs")})
  FROM (
    SELECT key, min(apart) AS apart, min(burst) AS burst, count(*) AS jobs FROM (
      SELECT rate, apart, burst FROM decided WHERE admitted AND has IS NULL
      UNION ALL SELECT key_rate, key_apart, key_burst FROM decided WHERE admitted AND has IS NULL)
      r(key, apart, burst)
    WHERE key IS NOT NULL GROUP BY key) s
  WHERE l.key = s.key)"""
"""Reserve the times of those that start: a CTE of ADMIT."""


MAKE_RATES: Final = Statement(f"""
INSERT INTO finmind_jobs.rate_limits (key, queue)
SELECT {name_of("q.name")}, q.name FROM finmind_jobs.queues q
WHERE q.name = ANY (:queues::text[]) AND q.rate_limit IS NOT NULL
UNION SELECT {name_of("q.name", "j.key")}, q.name
FROM unnest(:queues, :keys::text[]) AS j(queue, key) JOIN finmind_jobs.queues q ON q.name = j.queue
WHERE q.key_rate_limit IS NOT NULL AND j.key IS NOT NULL
ORDER BY 1
ON CONFLICT (key) DO NOTHING
""")


QUEUE_STARTS: Final = Statement(f"""
SELECT q.name, {_free(ahead=_AHEAD, apart=apart("q.rate"), burst=burst("q.rate"))}
FROM finmind_jobs.queues q
LEFT JOIN finmind_jobs.rate_limits l ON l.key = {name_of("q.name")}
WHERE q.rate_limit IS NOT NULL AND q.rate_seconds IS NOT NULL
""")


TURNS: Final = Statement(f"""
SELECT t.held_for, t.holds, t.free,
  ({_after(ahead="t.ahead", apart="t.apart", burst="t.burst", jobs="t.free")}) / 1e6::float8,
  (t.burst - 1) * t.apart / 1e6::float8
FROM (
  SELECT k.held_for, first.queue IS NOT NULL AS holds, {FREE_STARTS} AS free, r.apart, r.burst,
    {_AHEAD} AS ahead
  FROM unnest(:holds::text[]) AS k(held_for)
  {_ROW}
  LEFT JOIN LATERAL (
    SELECT b.queue FROM finmind_jobs.jobs_live b WHERE b.held_for = k.held_for
    ORDER BY b.priority, b.held_due_at, (b.id + 0) LIMIT 1) first ON true
  LEFT JOIN finmind_jobs.queues q ON q.name = COALESCE(first.queue, l.queue)
  {_one_of("k.held_for")}
  WHERE first.queue IS NOT NULL OR l.key IS NOT NULL) t
""")
"""When the next jobs may start under rates, and whether they hold any; nothing of one that holds none and has
no row."""


DROP_RATE_LIMITS: Final = Statement(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.rate_limits l USING (
    SELECT l.key FROM finmind_jobs.rate_limits l LEFT JOIN finmind_jobs.queues q ON q.name = l.queue
    {_one_of("l.key")}
    WHERE l.next_at < now() - make_interval(secs => :idle_seconds)
      AND COALESCE({_ahead("l.next_at")} <= -(r.burst - 1) * r.apart, true)
    ORDER BY l.key LIMIT :limit FOR UPDATE OF l SKIP LOCKED) old
  WHERE l.key = old.key RETURNING 1)
SELECT count(*) FROM gone
""")
"""A row that is dropped says no less than none: as many may start at once as ever."""


class Turn(NamedTuple):
    """When the next jobs may start under a rate."""

    holds: bool
    """Whether it holds jobs."""
    free: int | None
    """How many may start now; None: the queue has no rate any more."""
    next_in_seconds: float
    """When one more may start, after those."""
    spare_seconds: float
    """How much later one may look without a loss: starts that are left are kept for so long."""


async def make_rates(link: Link, jobs: Sequence[ClaimedJob]) -> None:
    """Make the rows of all rates that these jobs come under."""
    under = {(job.queue, job.concurrency_key) for job in jobs}
    await link.fetch(
        *MAKE_RATES.bind(queues=[queue for queue, _ in under], keys=[key for _, key in under])
    )


async def queue_starts(link: Link) -> dict[str, int]:
    """How many jobs the rate of each queue that has one lets start now."""
    return {row[0]: row[1] for row in await link.fetch(*QUEUE_STARTS.bind())}


async def turns(link: Link, holds: Sequence[str]) -> dict[str, Turn]:
    """When the next jobs may start under these rates; nothing of one that holds none and has no row."""
    rows = await link.fetch(*TURNS.bind(holds=list(holds)))
    return {row[0]: Turn(row[1], row[2], row[3] or 0.0, row[4] or 0.0) for row in rows}


async def drop_idle(link: Link, *, idle_seconds: float, limit: int) -> int:
    """Delete the rows of rates that no job has come under for so long; how many."""
    rows = await link.fetch(*DROP_RATE_LIMITS.bind(idle_seconds=idle_seconds, limit=limit))
    return int(rows[0][0])
