"""Month partitions of the audit log: made ahead of time, dropped whole.

The functions of the database that do it run as the owner of the tables: see
`service.jobs.maintenance.partitions`.
"""

from datetime import date
from typing import Final

from service.db.connection import Link
from service.observability.logging import get_logger

LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '50ms'"
"""Whoever waits for such a lock holds up every reader and writer of the log: rather the next round
tries again, long before the month begins."""

_TO_MAKE: Final = """
WITH wanted (month) AS (
  SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead))::date
  FROM generate_series(0, 1) AS ahead
  UNION
  SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC')::date FROM finmind_jobs.audit_log_default
  WHERE at >= timestamptz '2000-01-01 00:00:00+00' AND at < now() + interval '1 year')
SELECT month FROM wanted WHERE NOT EXISTS (
  SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'finmind_jobs.audit_log'::regclass
    AND c.relname = 'audit_log_' || to_char(month, 'YYYYMM'))
ORDER BY month"""
"""This month, the next, and those of which the default partition has caught something. An entry of
another age was written by hand: it stays there, lest one row keep every month from being made."""

_TO_DROP: Final = r"""
WITH months (month) AS (
  SELECT to_date(right(c.relname, 6), 'YYYYMM')
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'finmind_jobs.audit_log'::regclass AND c.relname ~ '^audit_log_\d{6}$')
SELECT month FROM months
WHERE (month::timestamp + interval '1 month') AT TIME ZONE 'UTC' <= now() - make_interval(days => $1)
ORDER BY month"""

_log = get_logger(__name__)


async def make_months(link: Link) -> None:
    """Make the partitions of this month and the next, where they are missing."""
    for row in await link.fetch(_TO_MAKE):
        await _change(link, "SELECT finmind_jobs.audit_make_month($1)", row["month"])
        _log.info("audit_month_made", month=f"{row['month']:%Y-%m}")


async def drop_months(link: Link, *, keep_days: int) -> None:
    """Drop the months all of whose entries are older than `keep_days`."""
    for row in await link.fetch(_TO_DROP, keep_days):
        await _change(link, "SELECT finmind_jobs.audit_drop_month($1)", row["month"])
        _log.info("audit_month_dropped", month=f"{row['month']:%Y-%m}")


async def _change(link: Link, statement: str, month: date) -> None:
    async with link.transaction() as connection:
        await connection.execute(LOCK_TIMEOUT)
        await connection.execute(link.render(statement), month)
