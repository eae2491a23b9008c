"""Drop what is older than its retention, in batches."""

from datetime import timedelta
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.maintenance import partitions
from service.jobs.store.statement import Statement
from service.settings import Settings

BATCH: Final = 1000
MAX_BATCHES: Final = 200
"""Limit on what one round drops of each kind, in batches."""

USAGE_DAYS: Final = 2
"""How long it is kept what callers used of their quotas: the longest window is a day."""

NAME_DAYS: Final = 30
"""How long a name counts as known that no caller of the API uses any more."""

WINDOW_HOURS: Final = 1
"""How long a window of `unique_for_seconds` is kept that is over: its key may be used again soon."""


REMOTE_CLAIM_HOURS: Final = 3
"""How long claims of workers that are gone are kept: longer than two leases of the longest kind."""


async def drop_days(link: Link, settings: Settings) -> None:
    """Drop the days of finished jobs that are over their retention."""
    days = settings.retention_days
    # A day takes its counts along: what never got into its partition must have gone before.
    if await _repeat(link, store.retention.DROP_DEFAULT_BEFORE, days):
        today = await store.partitions.today(link)
        await partitions.drop_before(link, today - timedelta(days=days))


async def drop_old(link: Link, settings: Settings) -> None:
    """Drop what is over its retention: dead letters, keys, usage, names, log lines, batches, claims, operations, ticks, workers."""
    for statement, age in (
        (store.retention.DROP_DEAD_BEFORE, settings.dead_retention_days),
        (store.retention.DROP_IDEMPOTENCY_KEYS, settings.idempotency_key_hours),
        (store.retention.DROP_CALLER_USAGE, USAGE_DAYS),
        (store.retention.DROP_JOB_NAMES, NAME_DAYS),
        (store.retention.DROP_JOB_LOGS, settings.job_log_days),
        (store.retention.DROP_BATCHES, settings.batch_retention_days),
        (store.retention.DROP_UNIQUE_WINDOWS, WINDOW_HOURS),
        (store.retention.DROP_REMOTE_CLAIMS, REMOTE_CLAIM_HOURS),
        (store.retention.DROP_OPERATIONS, settings.operation_retention_days),
        (store.retention.DROP_SCHEDULE_TICKS, settings.schedule_tick_days),
    ):
        await _repeat(link, statement, age)
    await store.retention.drop_old_workers(link)
    await store.served_types.forget(link, days=settings.served_type_memory_days)


async def drop_results(link: Link) -> None:
    """Drop results whose own time is over; their jobs stay."""
    for _ in range(MAX_BATCHES):
        if await store.owed.drop_results(link, limit=BATCH) < BATCH:
            return


async def _repeat(link: Link, statement: Statement, age: int) -> bool:
    """Drop batch after batch; False where more is left than one round may drop."""
    for _ in range(MAX_BATCHES):
        if await store.retention.drop(link, statement, age=age, limit=BATCH) < BATCH:
            return True
    return False
