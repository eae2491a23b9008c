"""Make and drop the day partitions of finished jobs."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Final

import asyncpg

from service.db.connection import Link
from service.jobs.store.statement import Statement

TODAY: Final = Statement("SELECT (now() AT TIME ZONE 'UTC')::date")


DAY_LEAVES: Final = Statement("""
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'finmind_jobs.jobs_done'::regclass
""")


DAY_TABLES: Final = Statement("""
SELECT c.relname FROM pg_class c JOIN pg_class p ON p.relnamespace = c.relnamespace
WHERE p.oid = 'finmind_jobs.jobs_done'::regclass AND c.relkind = 'r'
  AND c.relname ~ '^jobs_done_[0-9]{8}$'
""")
"""The same, and those that a leader had begun to fill when it ended: not attached yet."""


COPY_LATE: Final = Statement("""
SELECT last_at, last_id
FROM finmind_jobs.jobs_copy_late(
  :day::date, COALESCE(:after_at::timestamptz, '-infinity'), :after_id::bigint, :limit::int)
""")


MAKE_DAY: Final = Statement("SELECT finmind_jobs.jobs_make_day(:day)")


DROP_DAY: Final = Statement("SELECT finmind_jobs.jobs_drop_day(:day)")


LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '50ms'"
"""A wait for a table lock holds up every later reader and writer of the table: none of them shall
feel it. DETACH CONCURRENTLY would not wait so, but is refused beside a default partition."""

DAY_SECONDS: Final = 30.0
"""Bound on making or dropping one day: longer than a statement may take, since late rows may move."""

_STATEMENT_TIMEOUT: Final = f"SET LOCAL statement_timeout = '{DAY_SECONDS:g}s'"

PREFIX: Final = "jobs_done_"


async def today(link: Link) -> date:
    """Which day it is for the database, UTC."""
    day: date = (await link.fetch(*TODAY.bind()))[0][0]
    return day


async def attached(link: Link) -> set[date]:
    """Days that have a partition."""
    return _days(await link.fetch(*DAY_LEAVES.bind()))


async def tables(link: Link) -> set[date]:
    """Days that have a table, attached or not."""
    return _days(await link.fetch(*DAY_TABLES.bind()))


async def copy_late(
    link: Link, day: date, *, after: tuple[datetime, int] | None, limit: int
) -> tuple[datetime, int] | None:
    """Copy up to `limit` rows of the day out of the default partition; the last, None if none."""
    after_at, after_id = after or (None, 0)
    copied = COPY_LATE.bind(day=day, after_at=after_at, after_id=after_id, limit=limit)
    last_at, last_id = (await link.fetch(*copied))[0]
    return None if last_id is None else (last_at, last_id)


async def make_day(link: Link, day: date) -> None:
    """Make the partition of a day: apart, then attached, which blocks nobody else's reads and writes.

    Raises:
        asyncpg.LockNotAvailableError: a lock was not to be had at once.
    """
    await _change(link, MAKE_DAY, day)


async def drop_day(link: Link, day: date) -> None:
    """Drop the partition of a day with its counts.

    Raises:
        asyncpg.LockNotAvailableError: a lock was not to be had at once.
    """
    await _change(link, DROP_DAY, day)


async def _change(link: Link, statement: Statement, day: date) -> None:
    sql, *values = statement.bind(day=day)
    async with link.transaction() as connection:
        await connection.execute(LOCK_TIMEOUT)
        await connection.execute(_STATEMENT_TIMEOUT)
        await connection.execute(link.render(sql), *values, timeout=DAY_SECONDS)


def _days(rows: Iterable[asyncpg.Record]) -> set[date]:
    days = set()
    for (name,) in rows:
        suffix = name.removeprefix(PREFIX)
        if suffix.isdigit() and len(suffix) == 8:
            days.add(datetime.strptime(suffix, "%Y%m%d").replace(tzinfo=UTC).date())
    return days
