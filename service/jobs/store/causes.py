"""Count dead letters by cause, and find the causes of those that were never given one."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.causes import MAX_WORKERS, TREND_DAYS
from service.jobs.core.fingerprint import Cause
from service.jobs.core.job import FIRST_MOMENT, JobId
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY
from service.jobs.store.statement import Statement

KEPT_HOURS: Final = timedelta(days=TREND_DAYS, hours=1)

FOLD_CAUSES: Final = Statement(f"""
WITH old AS (
  DELETE FROM finmind_jobs.cause_deltas WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.cause_deltas LIMIT :limit)) RETURNING *),
seen AS MATERIALIZED (
  SELECT fingerprint, job_type, jobs, deaths, worker_id,
    CASE WHEN at BETWEEN {FIRST_MOMENT} AND now() THEN at ELSE now() END AS at FROM old),
hours AS (
  INSERT INTO finmind_jobs.cause_hours AS h (fingerprint, hour, deaths)
  SELECT fingerprint, date_trunc('hour', at, 'UTC'), sum(deaths) FROM seen
  WHERE deaths <> 0 AND at > now() - :kept::interval GROUP BY 1, 2
  ON CONFLICT (fingerprint, hour) DO UPDATE SET deaths = h.deaths + EXCLUDED.deaths),
workers AS (
  SELECT s.fingerprint, (array_agg(DISTINCT w.name))[1:{MAX_WORKERS}] AS names
  FROM (SELECT DISTINCT fingerprint, worker_id FROM seen WHERE deaths > 0) s
  JOIN finmind_jobs.job_workers w ON w.id = s.worker_id GROUP BY 1),
folded AS (
  INSERT INTO finmind_jobs.causes AS c (fingerprint, job_type, jobs, deaths, first_seen, last_seen, workers)
  SELECT s.fingerprint, min(s.job_type), sum(s.jobs), sum(s.deaths),
    COALESCE(min(s.at) FILTER (WHERE s.deaths > 0), 'infinity'),
    COALESCE(max(s.at) FILTER (WHERE s.deaths > 0), '-infinity'),
    COALESCE((SELECT names FROM workers w WHERE w.fingerprint = s.fingerprint), '{{}}')
  FROM seen s GROUP BY s.fingerprint
  ON CONFLICT (fingerprint) DO UPDATE SET
    jobs = c.jobs + EXCLUDED.jobs, deaths = c.deaths + EXCLUDED.deaths,
    first_seen = LEAST(c.first_seen, EXCLUDED.first_seen),
    last_seen = GREATEST(c.last_seen, EXCLUDED.last_seen),
    workers = ARRAY(
      SELECT w.name FROM unnest(EXCLUDED.workers || c.workers) WITH ORDINALITY AS w(name, position)
      GROUP BY w.name ORDER BY min(w.position) LIMIT {MAX_WORKERS}),
    state = CASE
      WHEN c.state = 'resolved' AND EXCLUDED.last_seen > c.changed_at THEN 'unresolved'
      WHEN c.state = 'ignored' AND c.deaths + EXCLUDED.deaths > c.ignored_deaths THEN 'unresolved'
      ELSE c.state END,
    regressed_at = CASE WHEN c.state = 'resolved' AND EXCLUDED.last_seen > c.changed_at
      THEN EXCLUDED.last_seen ELSE c.regressed_at END
  RETURNING xmax = 0 AS is_new)
SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM folded WHERE is_new)
""")
"""Moves deltas into the causes. Deltas of a job may be folded in any order: one that left may be
counted before it came, which is why a cause may be below 0 for a moment."""


END_IGNORING: Final = Statement("""
UPDATE finmind_jobs.causes SET state = 'unresolved' WHERE state = 'ignored' AND ignored_until <= now()
""")


DROP_CAUSES: Final = Statement("""
DELETE FROM finmind_jobs.causes WHERE jobs = 0 AND (
  (deaths = 0 AND state = 'unresolved' AND NOT is_overflow)
  OR last_seen < now() - CASE state WHEN 'unresolved' THEN :kept::interval
    ELSE make_interval(days => :decided_days) END)
""")
"""Causes that have no dead letters any more; those that somebody resolved or ignores later."""


DROP_CAUSE_HOURS: Final = Statement("""
DELETE FROM finmind_jobs.cause_hours WHERE hour < now() - :kept::interval
""")


EXCESS_CAUSES: Final = Statement("""
SELECT fingerprint, job_type, of_type <= :per_type FROM (
  SELECT fingerprint, job_type, jobs, row_number() OVER (PARTITION BY job_type ORDER BY number) AS of_type,
    row_number() OVER (ORDER BY number) AS of_all
  FROM finmind_jobs.causes WHERE NOT is_overflow) c
WHERE of_type > :per_type OR of_all > :in_all
ORDER BY of_all LIMIT :limit
""")
"""Causes beyond the limits, those counted last; whether their type is within its own limit."""


ADD_OVERFLOW: Final = Statement("""
INSERT INTO finmind_jobs.causes AS c (fingerprint, job_type, title, is_overflow, jobs, deaths, first_seen, last_seen)
SELECT DISTINCT ON (fingerprint) r.fingerprint, r.job_type, r.title, true, 0, 0, 'infinity'::timestamptz, '-infinity'::timestamptz
FROM unnest(:fingerprints::text[], :job_types::text[], :titles::text[]) AS r(fingerprint, job_type, title)
ORDER BY fingerprint
ON CONFLICT (fingerprint) DO UPDATE SET is_overflow = true, title = EXCLUDED.title, job_type = EXCLUDED.job_type
WHERE NOT c.is_overflow
""")


MERGE_CAUSES: Final = Statement("""
WITH excess AS (
  SELECT * FROM unnest(:fingerprints::text[], :overflows::text[]) AS r(fingerprint, overflow)),
here AS MATERIALIZED (
  SELECT d.id, excess.overflow FROM excess CROSS JOIN LATERAL (
    SELECT id FROM finmind_jobs.jobs_dead b WHERE b.fingerprint = excess.fingerprint
    ORDER BY b.fingerprint, b.id LIMIT :limit FOR UPDATE SKIP LOCKED) d
  LIMIT :limit),
moved AS (
  UPDATE finmind_jobs.jobs_dead b SET fingerprint = r.overflow FROM here r
  WHERE b.id = ANY (ARRAY[r.id]) RETURNING b.id),
emptied AS (
  DELETE FROM finmind_jobs.causes c USING excess
  WHERE c.fingerprint = excess.fingerprint AND c.jobs = 0)
SELECT count(*) FROM moved
""")
"""Gives dead letters of these causes to the overflow. What is left without any is dropped."""


_LAST_FAILURE: Final = """
  CROSS JOIN LATERAL (
    SELECT left(entry ->> 'type', 200) AS kind, left(entry ->> 'message', 2001) AS message,
      right(entry ->> 'traceback', 8001) AS traceback
    FROM (SELECT CASE WHEN pg_column_size(b.errors) <= 1000000 AND jsonb_typeof(b.errors) = 'array'
      THEN b.errors -> -1 END AS entry) last) e"""


UNDESCRIBED: Final = Statement(f"""
SELECT c.fingerprint, d.* FROM (
  SELECT fingerprint FROM finmind_jobs.causes WHERE title IS NULL AND jobs > 0
  ORDER BY fingerprint LIMIT :limit) c
CROSS JOIN LATERAL (
  SELECT left(b.job_type, 100), left(b.last_error, 2300), e.kind, e.message, e.traceback
  FROM (SELECT job_type, last_error, errors FROM finmind_jobs.jobs_dead j
    WHERE j.fingerprint = c.fingerprint ORDER BY j.fingerprint DESC, j.id DESC LIMIT 1) b
  {_LAST_FAILURE}) d
""")
"""Causes without words yet, each with the failure of its newest dead letter."""


DESCRIBE: Final = Statement("""
UPDATE finmind_jobs.causes c SET kind = r.kind, title = r.title
FROM unnest(:fingerprints::text[], :kinds::text[], :titles::text[]) AS r(fingerprint, kind, title)
WHERE c.fingerprint = ANY (ARRAY[r.fingerprint])
""")


UNMARKED: Final = Statement(f"""
WITH head AS MATERIALIZED (
  SELECT b.id, COALESCE(pg_column_size(b.errors), 0) + COALESCE(pg_column_size(b.last_error), 0) AS size
  FROM finmind_jobs.jobs_dead b WHERE b.fingerprint IS NULL AND b.id > :after_id ORDER BY b.id LIMIT :limit),
bounded AS (
  SELECT id FROM (SELECT id, sum(size) OVER (ORDER BY id) AS up_to, row_number() OVER (ORDER BY id) AS nth
    FROM head) h WHERE up_to <= :max_bytes OR nth = 1)
SELECT b.id, left(b.job_type, 100), left(b.last_error, 2300), e.kind, e.message, e.traceback
FROM bounded r JOIN finmind_jobs.jobs_dead b ON {ID_BY_PRIMARY_KEY} {_LAST_FAILURE}
""")
"""The next dead letters without a fingerprint, up to so many bytes, each with its last failure. A
history of more than a million bytes is not read: `last_error` says enough."""


NEXT_UNMARKED: Final = Statement("""
SELECT id FROM finmind_jobs.jobs_dead WHERE fingerprint IS NULL AND id > :after_id ORDER BY id LIMIT 1
""")


MARK: Final = Statement("""
WITH here AS MATERIALIZED (
  SELECT b.id, r.fingerprint FROM unnest(:ids::bigint[], :fingerprints::text[]) AS r(id, fingerprint)
  CROSS JOIN LATERAL (
    SELECT j.id FROM finmind_jobs.jobs_dead j WHERE j.id = r.id AND j.fingerprint IS NULL
    FOR UPDATE SKIP LOCKED) b)
UPDATE finmind_jobs.jobs_dead b SET fingerprint = r.fingerprint FROM here r WHERE b.id = ANY (ARRAY[r.id])
""")


CAUSE_GAUGES: Final = Statement("""
SELECT state, count(*) FROM finmind_jobs.causes WHERE jobs > 0 GROUP BY state
""")


class DeadJob(NamedTuple):
    """What is stored of a job's last failure."""

    key: str | JobId
    """Its id, or the fingerprint that it stands for."""
    job_type: str
    last_error: str | None
    kind: str | None
    message: str | None
    traceback: str | None


async def fold(link: Link, *, limit: int) -> tuple[int, int]:
    """Move up to `limit` deltas into the causes: how many, and how many causes are new."""
    row = (await link.fetch(*FOLD_CAUSES.bind(limit=limit, kept=KEPT_HOURS)))[0]
    return row[0], row[1]


async def end_ignoring(link: Link) -> None:
    """Make causes unresolved whose time of being ignored is over."""
    await link.fetch(*END_IGNORING.bind())


async def drop_old(link: Link, *, decided_days: int) -> None:
    """Drop causes without dead letters, and deaths by the hour that no page shows."""
    await link.fetch(*DROP_CAUSES.bind(kept=KEPT_HOURS, decided_days=decided_days))
    await link.fetch(*DROP_CAUSE_HOURS.bind(kept=KEPT_HOURS))


async def excess(
    link: Link, *, per_type: int, in_all: int, limit: int
) -> list[tuple[str, str | None, bool]]:
    """Causes beyond the limits: fingerprint, job type, whether only the limit on all is exceeded."""
    rows = await link.fetch(*EXCESS_CAUSES.bind(per_type=per_type, in_all=in_all, limit=limit))
    return [(row[0], row[1], row[2]) for row in rows]


async def add_overflow(link: Link, overflows: Sequence[tuple[str, str | None, str]]) -> None:
    """Make sure that these overflow causes exist: fingerprint, job type and title of each."""
    await link.fetch(
        *ADD_OVERFLOW.bind(
            fingerprints=[one[0] for one in overflows],
            job_types=[one[1] for one in overflows],
            titles=[one[2] for one in overflows],
        )
    )


async def merge(link: Link, merged: Sequence[tuple[str, str]], *, limit: int) -> int:
    """Give up to `limit` dead letters of causes to overflow causes, by pairs; how many."""
    moved: int = (
        await link.fetch(
            *MERGE_CAUSES.bind(
                fingerprints=[one for one, _ in merged],
                overflows=[overflow for _, overflow in merged],
                limit=limit,
            )
        )
    )[0][0]
    return moved


async def undescribed(link: Link, *, limit: int) -> list[DeadJob]:
    """Causes without words, each with a dead letter of it."""
    return [DeadJob(*row) for row in await link.fetch(*UNDESCRIBED.bind(limit=limit))]


async def describe(link: Link, causes: Sequence[tuple[str, Cause]]) -> None:
    """Write down what these causes, by their fingerprint, are in words."""
    await link.fetch(
        *DESCRIBE.bind(
            fingerprints=[fingerprint for fingerprint, _ in causes],
            kinds=[cause.kind for _, cause in causes],
            titles=[cause.title for _, cause in causes],
        )
    )


async def unmarked(link: Link, *, after_id: int, limit: int, max_bytes: int) -> list[DeadJob]:
    """The next dead letters without a fingerprint, in order of id."""
    rows = await link.fetch(*UNMARKED.bind(after_id=after_id, limit=limit, max_bytes=max_bytes))
    return sorted((DeadJob(*row) for row in rows), key=lambda job: job.key)


async def next_unmarked(link: Link, *, after_id: int) -> int | None:
    """The id of the next dead letter without a fingerprint; nothing else of it is read."""
    rows = await link.fetch(*NEXT_UNMARKED.bind(after_id=after_id))
    return rows[0][0] if rows else None


async def mark(link: Link, fingerprints: Sequence[tuple[int, str]]) -> None:
    """Give dead letters their fingerprints; those that somebody else holds stay without."""
    await link.fetch(
        *MARK.bind(
            ids=[job_id for job_id, _ in fingerprints],
            fingerprints=[fingerprint for _, fingerprint in fingerprints],
        )
    )


async def by_state(link: Link) -> dict[str, int]:
    """How many causes have dead letters, by state."""
    return {row[0]: row[1] for row in await link.fetch(*CAUSE_GAUGES.bind())}
