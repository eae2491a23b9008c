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

from service.db.connection import Link
from service.jobs import store
from service.observability.logging import get_logger

PREFIX: Final = "jobs_done_"
LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '50ms'"
"""A wait for a table lock holds up every later reader and writer of the table: none of them shall
feel it. DETACH CONCURRENTLY would not wait so, but is refused beside a default partition."""

LOCK_ATTEMPTS: Final = 20
LOCK_PAUSE_SECONDS: Final = 0.25
"""Between two waits for a lock those that it held up get their turn."""

DAY_SECONDS: Final = 30.0
"""Bound on making or dropping one day: longer than a statement may take, since late rows may move."""

COPY_BATCH: Final = 2000
MAX_COPIES: Final = 5000
"""Batches of late rows that one round copies for a day; what is left moves with the attach."""

_STATEMENT_TIMEOUT: Final = f"SET LOCAL statement_timeout = '{DAY_SECONDS:g}s'"

_log = get_logger(__name__)


async def make_ahead(link: Link, *, days: int) -> None:
    """Make the day partitions from today to `days` days ahead, those that are missing."""
    today: date = (await link.fetch(store.partitions.TODAY))[0][0]
    await make(link, (today + timedelta(days=ahead) for ahead in range(days + 1)))


async def make(link: Link, days: Iterable[date]) -> None:
    """Make the partitions of these days, those that are missing: the newest first, each by itself.

    Old days may hold much. What ends tomorrow shall find its partition all the same.

    Raises:
        DATABASE_ERRORS: one of them could not be made; the others were tried as well.
    """
    standing = await _days(link)
    today: date = (await link.fetch(store.partitions.TODAY))[0][0]

    async def make_one(day: date) -> None:
        if day <= today:
            await _copy_late(link, day)
        await _patiently(partial(_make, link, day))

    await _each(sorted(set(days) - standing, reverse=True), make_one, "partition_not_made")


async def drop_before(link: Link, first_kept: date) -> None:
    """Drop the day partitions before `first_kept`, their counts with them, each by itself.

    Raises:
        DATABASE_ERRORS: one of them could not be dropped; the others were tried as well.
    """

    async def drop_one(day: date) -> None:
        await _patiently(partial(_drop, link, day))

    tables = await _days(link, store.partitions.DAY_TABLES)
    old = sorted(day for day in tables if day < first_kept)
    await _each(old, drop_one, "partition_not_dropped")


async def _each(days: Iterable[date], change: Callable[[date], Awaitable[None]], word: str) -> None:
    failed: Exception | None = None
    for day in days:
        try:
            await change(day)
        except (asyncpg.PostgresError, TimeoutError) as error:
            if isinstance(error, asyncpg.PostgresConnectionError):
                raise
            _log.warning(word, day=day.isoformat(), error=type(error).__name__)
            failed = error
    if failed is not None:
        raise failed


async def _copy_late(link: Link, day: date) -> None:
    """Copy in batches what the default partition caught of the day, so that little is left to move."""
    place: tuple[datetime | None, int] = (None, 0)
    for _ in range(MAX_COPIES):
        last_at, last_id = (await link.fetch(store.partitions.COPY_LATE, day, *place, COPY_BATCH))[
            0
        ]
        if last_id is None:
            return
        place = (last_at, last_id)


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
        await connection.execute(_STATEMENT_TIMEOUT)
        await connection.execute(link.render(store.partitions.DROP_DAY), day, timeout=DAY_SECONDS)
    _log.info("partition_dropped", day=day.isoformat())


async def _days(link: Link, statement: str = store.partitions.DAY_LEAVES) -> set[date]:
    names = [row[0] for row in await link.fetch(statement)]
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
            await connection.execute(_STATEMENT_TIMEOUT)
            await connection.execute(
                link.render(store.partitions.MAKE_DAY), day, timeout=DAY_SECONDS
            )
    except (
        asyncpg.DuplicateTableError,
        asyncpg.DuplicateObjectError,
        asyncpg.UniqueViolationError,
    ):
        # Another process was faster; the rows of its catalogue are seen one after another: those of
        # the type that goes with a table may come before the table.
        return
    _log.info("partition_made", day=day.isoformat())
