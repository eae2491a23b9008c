"""Acts on batches whose counts have changed: cancels members, enqueues the job of one that is complete."""

from collections.abc import Collection
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.lane import Lane
from service.jobs.notify.publisher import publish_cancel_over
from service.observability.logging import get_logger
from service.observability.metrics import record_event

MEMBERS: Final = 1_000
"""Members that one statement cancels."""

MAX_STATEMENTS: Final = 20
"""Limit on these statements before other ends have their turn."""

_log = get_logger(__name__)


async def look(link: Link, ids: Collection[int], *, max_errors: int) -> set[Lane]:
    """Look at these batches; the lanes with jobs that may start now.

    Raises:
        DATABASE_ERRORS: the database failed; the leader looks again.
    """
    for batch_id in await store.batches.cancelled(link, ids):
        await _cancel_members(link, batch_id, max_errors=max_errors)
    lanes: set[Lane] = set()
    for batch in await store.batches.complete(link, ids):
        if batch.job_type is not None and batch.lane is not None:
            record_event("enqueued", batch.job_type)
            lanes.add(batch.lane)
        _log.info("batch_complete" if batch.complete else "batch_failed", batch_id=batch.id)
    return lanes


async def look_at_due(link: Link, *, limit: int, max_errors: int) -> set[Lane]:
    """Look at the batches that somebody should have acted on."""
    due = await store.batches.due(link, limit=limit)
    return await look(link, due, max_errors=max_errors) if due else set()


async def _cancel_members(link: Link, batch_id: int, *, max_errors: int) -> None:
    for _ in range(MAX_STATEMENTS):
        cancelled = await store.batches.cancel_members(
            link, batch_id, limit=MEMBERS, max_errors=max_errors
        )
        for _, job_type in cancelled:
            record_event("cancelled", job_type, "batch")
        if len(cancelled) < MEMBERS:
            break
    else:
        await store.batches.note(link.fetch, batch_id)
    asked = await store.batches.ask_cancel(link, batch_id, limit=MEMBERS)
    if asked:
        await publish_cancel_over(link, asked)
