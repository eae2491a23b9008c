"""Day partitions of finished jobs: made ahead of time, dropped whole.

The functions of the database that do it run as the owner of the tables: the service itself needs no
right to change the schema (docs/operations.md, "Least privilege").
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Final

import asyncpg

from service.db.engine import Link
from service.jobs import statements
from service.observability.logging import get_logger

PREFIX: Final = "jobs_done_"
LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '50ms'"
"""A wait for a table lock holds up every later reader and writer of the table: none of them shall
feel it. DETACH CONCURRENTLY would not wait so, but is refused beside a default partition."""

LOCK_ATTEMPTS: Final = 20
LOCK_PAUSE_SECONDS: Final = 0.25
"""Between two waits for a lock those that it held up get their turn."""

_log = get_logger(__name__)


async def make_ahead(link: Link, *, days: int) -> None:
    """Make the day partitions from today to `days` days ahead, those that are missing."""
    today: date = (await link.fetch(statements.TODAY))[0][0]
    await make(link, (today + timedelta(days=ahead) for ahead in range(days + 1)))


async def make(link: Link, days: Iterable[date]) -> None:
    """Make the partitions of these days, those that are missing."""
    standing = await _days(link)
    for day in days:
        if day not in standing:
            await _patiently(partial(_make, link, day))


async def drop_before(link: Link, first_kept: date) -> None:
    """Drop the day partitions before `first_kept`, their counts with them."""
    for day in sorted(await _days(link)):
        if day < first_kept:
            await _patiently(partial(_drop, link, day))


async def _patiently(change: Callable[[], Awaitable[None]]) -> None:
    """Make a change that needs a table lock, trying again where it is not to be had at once."""
    for _ in range(LOCK_ATTEMPTS - 1):
        try:
            return await change()
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
    return await change()


async def _drop(link: Link, day: date) -> None:
    async with link.transaction() as connection:
        await connection.execute(LOCK_TIMEOUT)
        await connection.execute(link.render(statements.DROP_DAY), day)
    _log.info("partition_dropped", day=day.isoformat())


async def _days(link: Link) -> set[date]:
    names = [row[0] for row in await link.fetch(statements.DAY_LEAVES)]
    days = set()
    for name in names:
        suffix = name.removeprefix(PREFIX)
        if suffix.isdigit() and len(suffix) == 8:
            days.add(datetime.strptime(suffix, "%Y%m%d").replace(tzinfo=UTC).date())
    return days


async def _make(link: Link, day: date) -> None:
    """Make one partition: apart, then attached, which blocks neither reads nor writes of others."""
    try:
        async with link.transaction() as connection:
            await connection.execute(LOCK_TIMEOUT)
            await connection.execute(link.render(statements.MAKE_DAY), day)
    except (
        asyncpg.DuplicateTableError,
        asyncpg.DuplicateObjectError,
        asyncpg.UniqueViolationError,
    ):
        # Another process was faster; the rows of its catalogue are seen one after another: those of
        # the type that goes with a table may come before the table.
        return
    _log.info("partition_made", day=day.isoformat())
