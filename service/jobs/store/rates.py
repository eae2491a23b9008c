"""Fold the counts by minute, to which every settle appends, into those kept by minute, hour and day."""

from typing import Final, NamedTuple

from service.db.connection import Link
from service.jobs.store.statement import Statement


class RateRow(NamedTuple):
    """A kept count, as `rate_series` reads them too."""

    key: str
    kind: str
    """`outcome`, `delay` or `run`."""
    name: str
    """Of the outcome, or the number of the bucket."""
    jobs: int


def _added(column: str) -> str:
    """A histogram, and what comes to it."""
    return (
        "(SELECT COALESCE(jsonb_object_agg(bucket, n), '{}') FROM (\n"
        "    SELECT key AS bucket, sum(value::bigint) AS n FROM (\n"
        f"      SELECT * FROM jsonb_each_text(rates.{column})\n"
        f"      UNION ALL SELECT * FROM jsonb_each_text(excluded.{column})) b\n"
        "    GROUP BY key) s)"
    )


FOLD_RATES: Final = Statement(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.job_rate_deltas WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.job_rate_deltas LIMIT :limit FOR UPDATE SKIP LOCKED))
  RETURNING date_trunc('minute', at, 'UTC') AS minute, date_trunc('day', at, 'UTC') AS day,
    queue, job_type, outcome, jobs, timings),
counted AS (
  SELECT minute, day, queue, job_type, outcome, 'jobs' AS kind, 0 AS bucket, sum(jobs) AS n
  FROM gone GROUP BY 1, 2, 3, 4, 5
  UNION ALL
  SELECT minute, day, queue, job_type, outcome, 'delay', timing / 128, count(*)
  FROM gone, unnest(timings) AS timing GROUP BY 1, 2, 3, 4, 5, 7
  UNION ALL
  SELECT minute, day, queue, job_type, outcome, 'run', timing % 128, count(*)
  FROM gone, unnest(timings) AS timing GROUP BY 1, 2, 3, 4, 5, 7),
known AS (
  SELECT DISTINCT at AS day, queue, job_type FROM finmind_jobs.job_rates
  WHERE step = 'day' AND scope = 'pair' AND at IN (SELECT DISTINCT day FROM gone) AND queue <> ''),
added AS (
  SELECT g.day, g.queue, g.job_type, row_number() OVER (
    PARTITION BY g.day ORDER BY sum(g.jobs) DESC, g.queue, g.job_type) AS place
  FROM gone g LEFT JOIN known k USING (day, queue, job_type) WHERE k.queue IS NULL GROUP BY 1, 2, 3),
named AS (
  SELECT day, queue, job_type, true AS is_named FROM known
  UNION ALL SELECT day, queue, job_type, true FROM added
  WHERE place <= :pairs - (SELECT count(*) FROM known WHERE known.day = added.day)),
of_named AS (
  SELECT minute, CASE WHEN is_named THEN queue ELSE '' END AS queue,
    CASE WHEN is_named THEN job_type ELSE '' END AS job_type, outcome, kind, bucket, n
  FROM counted LEFT JOIN named USING (day, queue, job_type)),
summed AS (
  SELECT step, date_trunc(step, minute, 'UTC') AS at, outcome, kind, bucket, sum(n) AS n,
    CASE WHEN grouping(queue) = 1 THEN 'total' WHEN grouping(job_type) = 1 THEN 'queue' ELSE 'pair'
    END AS scope, COALESCE(queue, '') AS queue, COALESCE(job_type, '') AS job_type
  FROM of_named CROSS JOIN (VALUES ('minute'), ('hour'), ('day')) AS steps(step)
  GROUP BY 1, 2, 3, 4, 5, GROUPING SETS ((of_named.queue, of_named.job_type), (of_named.queue), ())),
folded AS (
  INSERT INTO finmind_jobs.job_rates AS rates
    (step, scope, at, queue, job_type, outcome, jobs, delays, runs)
  SELECT step, scope, at, queue, job_type, outcome, COALESCE(sum(n) FILTER (WHERE kind = 'jobs'), 0),
    COALESCE(jsonb_object_agg(bucket, n) FILTER (WHERE kind = 'delay'), '{{}}'),
    COALESCE(jsonb_object_agg(bucket, n) FILTER (WHERE kind = 'run'), '{{}}')
  FROM summed GROUP BY 1, 2, 3, 4, 5, 6
  ON CONFLICT (step, scope, at, queue, job_type, outcome) DO UPDATE SET
    jobs = rates.jobs + excluded.jobs,
    delays = {_added("delays")},
    runs = {_added("runs")})
SELECT count(*) FROM gone
""")
"""Takes appended rows and adds them to the kept counts: both or neither. A pair of queue and type keeps its
name for a day once it has it; beyond `:pairs` a day, those with fewer jobs are summed under no name."""


RECENT_RATES: Final = Statement("""
WITH found AS MATERIALIZED (
  SELECT outcome, jobs, delays, runs FROM finmind_jobs.job_rates
  WHERE step = 'minute' AND scope = 'total'
    AND at >= date_trunc('minute', now(), 'UTC') - make_interval(mins => :minutes))
SELECT 'all', 'outcome', outcome, sum(jobs)::bigint FROM found GROUP BY outcome
UNION ALL
SELECT 'all', 'delay', key, sum(value::bigint)::bigint FROM found, jsonb_each_text(delays) GROUP BY key
UNION ALL
SELECT 'all', 'run', key, sum(value::bigint)::bigint FROM found, jsonb_each_text(runs) GROUP BY key
""")
"""What ended in the last minutes, in all: some thirty rows of the kept counts."""


DROP_RATES: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.job_rates WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.job_rates
    WHERE step = :step AND scope = :scope AND at < now() - make_interval(hours => :hours)
    ORDER BY at LIMIT :limit))
  RETURNING 1)
SELECT count(*) FROM gone
""")


async def fold(link: Link, *, limit: int, pairs: int) -> int:
    """Fold up to `limit` appended rows; how many there were."""
    rows: int = (await link.fetch(*FOLD_RATES.bind(limit=limit, pairs=pairs)))[0][0]
    return rows


async def recent(link: Link, *, minutes: int) -> list[RateRow]:
    """What ended in the last so many whole minutes and in the current one."""
    return [RateRow(*row) for row in await link.fetch(*RECENT_RATES.bind(minutes=minutes))]


async def drop(link: Link, *, step: str, scope: str, hours: int, limit: int) -> int:
    """Drop up to `limit` kept counts that began more than `hours` ago; how many."""
    values = DROP_RATES.bind(step=step, scope=scope, hours=hours, limit=limit)
    rows: int = (await link.fetch(*values))[0][0]
    return rows
