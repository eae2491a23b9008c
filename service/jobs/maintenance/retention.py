"""Drop what is older than its retention, in batches."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.maintenance import partitions
from service.settings import Settings

BATCH: Final = 1000
MAX_BATCHES: Final = 200
"""Limit on what one round drops of each kind, in batches."""

USAGE_DAYS: Final = 2
"""How long it is kept what callers used of their quotas: the longest window is a day."""

NAME_DAYS: Final = 30
"""How long a name counts as known that no caller of the API uses any more."""


async def drop_days(link: Link, settings: Settings) -> None:
    """Drop the days of finished jobs that are over their retention."""
    days = settings.retention_days
    # A day takes its counts along: what never got into its partition must have gone before.
    if await _repeat(partial(store.retention.drop_late, link, days=days)):
        today = await store.partitions.today(link)
        await partitions.drop_before(link, today - timedelta(days=days))


async def drop_old(link: Link, settings: Settings) -> None:
    """Drop dead letters, idempotency keys, usage, names and workers that are over theirs."""
    retention = store.retention
    await _repeat(partial(retention.drop_dead, link, days=settings.dead_retention_days))
    await _repeat(
        partial(retention.drop_idempotency_keys, link, hours=settings.idempotency_key_hours)
    )
    await _repeat(partial(retention.drop_caller_usage, link, days=USAGE_DAYS))
    await _repeat(partial(retention.drop_job_names, link, days=NAME_DAYS))
    await retention.drop_old_workers(link)
    await store.served_types.forget(link, days=settings.served_type_memory_days)


async def _repeat(drop: Callable[..., Awaitable[int]]) -> bool:
    """Drop batch after batch; False where more is left than one round may drop."""
    for _ in range(MAX_BATCHES):
        if await drop(limit=BATCH) < BATCH:
            return True
    return False
