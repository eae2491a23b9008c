"""Drop what is older than its retention, a batch at a time."""

from typing import Final

from service.db.connection import Link
from service.jobs.store.fragments import COUNT, TOLD_DELETED
from service.jobs.store.statement import Statement

DROP_DEAD_BEFORE: Final = Statement(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_dead WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.jobs_dead WHERE finished_at < now() - make_interval(days => :age)
    ORDER BY finished_at LIMIT :limit FOR UPDATE SKIP LOCKED))
  RETURNING id, queue, job_type, status, finished_at, has_children, batch_id),
counted AS ({COUNT.format(sign="-", source="gone")}),
{TOLD_DELETED}
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


def _drop_older(table: str, since: str, unit: str, *, but: str = "false") -> Statement:
    """Drop rows of a table that nothing is counted of, `but` for some."""
    return Statement(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.{table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM finmind_jobs.{table} WHERE {since} < now() - make_interval({unit} => :age)
      AND NOT ({but})
    ORDER BY {since} LIMIT :limit))
  RETURNING 1)
SELECT count(*) FROM gone
""")


DROP_IDEMPOTENCY_KEYS: Final = _drop_older("idempotency_keys", "created_at", "hours")


DROP_CALLER_USAGE: Final = _drop_older("caller_usage", "since", "days")


DROP_JOB_NAMES: Final = _drop_older("job_names", "seen_at", "days")


DROP_JOB_LOGS: Final = _drop_older("job_logs", "at", "days")


DROP_REMOTE_CLAIMS: Final = _drop_older("remote_claims", "created_at", "hours")
"""Of workers that claim no more; each claim drops what is older of its own worker."""


DROP_SCHEDULE_TICKS: Final = _drop_older(
    "schedule_ticks", "decided_at", "days", but="job_id IS NOT NULL AND run_status IS NULL"
)
"""But for those whose job has not ended: `overlap` asks for them."""


DROP_OPERATIONS: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.operations WHERE ctid = ANY (ARRAY(
    SELECT o.ctid FROM finmind_jobs.operations o
    WHERE o.finished_at < now() - make_interval(days => :age)
      OR o.finished_at IS NULL AND o.started_at < now() - make_interval(days => :age)
      AND (o.state <> 'running' OR NOT EXISTS (SELECT FROM finmind_jobs.background_jobs b
        WHERE b.id = o.job_id AND b.status IN ('PENDING', 'RUNNING')))
    LIMIT :limit))
  RETURNING 1)
SELECT count(*) FROM gone
""")
"""What they skipped goes with them. Those that nobody resumed do not stay for ever."""


DROP_BATCHES: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.batches WHERE ctid = ANY (ARRAY(
    SELECT b.ctid FROM finmind_jobs.batches b
    WHERE b.created_at < now() - make_interval(days => :age)
      AND (b.completed_at < now() - make_interval(days => :age)
        OR b.completed_at IS NULL
        AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_live j WHERE j.batch_id = b.id))
    ORDER BY b.id LIMIT :limit FOR UPDATE SKIP LOCKED))
  RETURNING 1)
SELECT count(*) FROM gone
""")
"""Complete ones, and those that nobody completed and that have no live member."""


DROP_OLD_WORKERS: Final = Statement(
    "DELETE FROM finmind_jobs.job_workers WHERE seen_at < now() - interval '1 day'"
)


DROP_UNIQUE_WINDOWS: Final = Statement("""
WITH gone AS (
  DELETE FROM finmind_jobs.unique_windows WHERE key = ANY (ARRAY(
    SELECT key FROM finmind_jobs.unique_windows WHERE until < now() - make_interval(hours => :age)
    ORDER BY until LIMIT :limit FOR UPDATE SKIP LOCKED))
  RETURNING 1)
SELECT count(*) FROM gone
""")
"""One that is locked is being opened."""


async def drop(link: Link, statement: Statement, *, age: int, limit: int) -> int:
    """Drop up to `limit` rows older than `age`, in the unit of the statement; how many."""
    dropped: int = (await link.fetch(*statement.bind(age=age, limit=limit)))[0][0]
    return dropped


async def drop_old_workers(link: Link) -> None:
    """Drop workers that were last seen over a day ago."""
    await link.fetch(*DROP_OLD_WORKERS.bind())
