"""The permits of limits: counts compared with the jobs that run, and those that nobody uses dropped."""

from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.observability.logging import get_logger
from service.observability.metrics import PERMITS_REPAIRED

IDLE_SECONDS: Final = 3600.0
"""How long the row of a limit or of a rate is kept that no job comes under."""

BATCH: Final = 1000

MAX_BATCHES: Final = 50
"""Of a round: each concurrency key that jobs had within the last hour may have two rows."""

_log = get_logger(__name__)


async def repair(link: Link) -> None:
    """Set right the counts that do not agree with the jobs.

    Nothing of this version makes one wrong; plain SQL does, and so do workers of the version before
    that end a job which holds a permit.
    """
    for key, difference in (await store.admission.repair(link)).items():
        PERMITS_REPAIRED.inc()
        _log.error("permits_repaired", limit=key, difference=difference)


async def drop_idle(link: Link) -> None:
    """Delete the counts of limits and the rows of rates that are not used any more."""
    for drop in (store.admission.drop_idle, store.rate_limits.drop_idle):
        for _ in range(MAX_BATCHES):
            if await drop(link, idle_seconds=IDLE_SECONDS, limit=BATCH) < BATCH:
                break
