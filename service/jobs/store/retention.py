"""Drop what is older than its retention, a batch at a time."""

from typing import Final

from service.db.connection import Link
from service.jobs.store.fragments import COUNT
from service.jobs.store.statement import Statement

DROP_DEAD_BEFORE: Final = Statement(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_dead WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.jobs_dead WHERE finished_at < now() - make_interval(days => :age)
    ORDER BY finished_at LIMIT :limit FOR UPDATE SKIP LOCKED))
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="-", source="gone")})
SELECT count(*) FROM gone
""")


DROP_DEFAULT_BEFORE: Final = Statement(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_done_default WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.jobs_done_default
    WHERE finished_at < (date_trunc('day', now() AT TIME ZONE 'UTC') - make_interval(days => :age))
      AT TIME ZONE 'UTC'
    ORDER BY finished_at LIMIT :limit FOR UPDATE SKIP LOCKED))
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="-", source="gone")})
SELECT count(*) FROM gone
""")
"""Days that never had a partition, since nobody led: the same days as are dropped whole."""


DROP_IDEMPOTENCY_KEYS: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.idempotency_keys WHERE created_at < now() - make_interval(hours => :age)
    ORDER BY created_at LIMIT :limit))
  RETURNING 1)
SELECT count(*) FROM gone
""")


DROP_CALLER_USAGE: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.caller_usage WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.caller_usage WHERE since < now() - make_interval(days => :age)
    ORDER BY since LIMIT :limit))
  RETURNING 1)
SELECT count(*) FROM gone
""")


DROP_JOB_NAMES: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.job_names WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.job_names WHERE seen_at < now() - make_interval(days => :age)
    ORDER BY seen_at LIMIT :limit))
  RETURNING 1)
SELECT count(*) FROM gone
""")


DROP_OLD_WORKERS: Final = Statement(
    "DELETE FROM finmind_jobs.job_workers WHERE seen_at < now() - interval '1 day'"
)


async def drop_dead(link: Link, *, days: int, limit: int) -> int:
    """Drop up to `limit` dead letters that ended so long ago; how many."""
    return await _drop(link, DROP_DEAD_BEFORE, days, limit)


async def drop_late(link: Link, *, days: int, limit: int) -> int:
    """Drop up to `limit` finished jobs of days that never had a partition; how many."""
    return await _drop(link, DROP_DEFAULT_BEFORE, days, limit)


async def drop_idempotency_keys(link: Link, *, hours: int, limit: int) -> int:
    """Drop up to `limit` idempotency keys that are so old; how many."""
    return await _drop(link, DROP_IDEMPOTENCY_KEYS, hours, limit)


async def drop_caller_usage(link: Link, *, days: int, limit: int) -> int:
    """Drop up to `limit` counts of what callers used of their quotas; how many."""
    return await _drop(link, DROP_CALLER_USAGE, days, limit)


async def drop_job_names(link: Link, *, days: int, limit: int) -> int:
    """Drop up to `limit` names that no caller has used for so long; how many."""
    return await _drop(link, DROP_JOB_NAMES, days, limit)


async def drop_old_workers(link: Link) -> None:
    """Drop workers that were last seen over a day ago."""
    await link.fetch(*DROP_OLD_WORKERS.bind())


async def _drop(link: Link, statement: Statement, age: int, limit: int) -> int:
    dropped: int = (await link.fetch(*statement.bind(age=age, limit=limit)))[0][0]
    return dropped
