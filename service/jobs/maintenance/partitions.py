"""Day partitions of finished jobs: made ahead of time, dropped whole.

The functions of the database that do it run as the owner of the tables: the service itself needs no
right to change the schema (docs/operations.md, "Least privilege").
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import date, datetime, timedelta
from functools import partial
from typing import Final

import asyncpg

from service.db.connection import Link
from service.jobs import store
from service.observability.logging import get_logger

LOCK_ATTEMPTS: Final = 20
LOCK_PAUSE_SECONDS: Final = 0.25
"""Between two waits for a lock those that it held up get their turn."""

COPY_BATCH: Final = 2000
MAX_COPIES: Final = 5000
"""Batches of late rows that one round copies for a day; what is left moves with the attach."""

_log = get_logger(__name__)


async def make_ahead(link: Link, *, days: int) -> None:
    """Make the day partitions from today to `days` days ahead, those that are missing."""
    today = await store.partitions.today(link)
    await make(link, (today + timedelta(days=ahead) for ahead in range(days + 1)))


async def make(link: Link, days: Iterable[date]) -> None:
    """Make the partitions of these days, those that are missing: the newest first, each by itself.

    Old days may hold much. What ends tomorrow shall find its partition all the same.

    Raises:
        DATABASE_ERRORS: one of them could not be made; the others were tried as well.
    """
    attached = await store.partitions.attached(link)
    today = await store.partitions.today(link)

    async def make_one(day: date) -> None:
        if day <= today:
            await _copy_late(link, day)
        await _patiently(partial(_make, link, day))

    await _each(sorted(set(days) - attached, reverse=True), make_one, "partition_not_made")


async def drop_before(link: Link, first_kept: date) -> None:
    """Drop the day partitions before `first_kept`, their counts with them, each by itself.

    Raises:
        DATABASE_ERRORS: one of them could not be dropped; the others were tried as well.
    """

    async def drop_one(day: date) -> None:
        await _patiently(partial(_drop, link, day))

    tables = await store.partitions.tables(link)
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
    last: tuple[datetime, int] | None = None
    for _ in range(MAX_COPIES):
        last = await store.partitions.copy_late(link, day, after=last, limit=COPY_BATCH)
        if last is None:
            return


async def _patiently(change: Callable[[], Awaitable[None]]) -> None:
    """Make a change that needs a table lock, trying again where it is not to be had at once."""
    for _ in range(LOCK_ATTEMPTS - 1):
        try:
            return await change()
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
    return await change()


async def _drop(link: Link, day: date) -> None:
    await store.partitions.drop_day(link, day)
    _log.info("partition_dropped", day=day.isoformat())


async def _make(link: Link, day: date) -> None:
    """Make one partition: apart, then attached, which blocks neither reads nor writes of others."""
    try:
        await store.partitions.make_day(link, day)
    except (
        asyncpg.DuplicateTableError,
        asyncpg.DuplicateObjectError,
        asyncpg.UniqueViolationError,
    ):
        # Another process was faster; the rows of its catalogue are seen one after another: those of
        # the type that goes with a table may come before the table.
        return
    _log.info("partition_made", day=day.isoformat())
