"""What becomes of jobs that find their limit reached, in queues where they do not just wait."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from service.db import schema
from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId
from service.jobs.core.queue_limits import AtLimit
from service.jobs.flow.queue_settings import QueueSettings
from service.jobs.notify.messages import Cancel, encode
from service.jobs.notify.subscriber import notify_local
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event

BY: Final = "limit"
"""Who cancelled the job, in its history."""

_log = get_logger(__name__)


class Reached:
    """Acts on jobs that were held.

    A statement after the one that held them: cut off in between they wait like others, and the next job
    that is held makes good for them, but for `drop_new`.
    """

    def __init__(self, link: Link, settings: QueueSettings, *, max_errors: int) -> None:
        self._link = link
        self._settings = settings
        self._max_errors = max_errors

    async def act(self, held: Sequence[tuple[ClaimedJob, str]], *, again: bool = False) -> None:
        """Let others make way for these jobs, or end them, as their queues have it.

        Args:
            held: the jobs, each with the limit that it is held for.
            again: whether they were held before: a running job has made way for each of them already.
        """
        by_way: dict[str, list[tuple[ClaimedJob, str]]] = {}
        for job, held_for in held:
            limits = self._settings.settings_of(job.queue)
            if limits is None or (again and limits.at_limit == AtLimit.CANCEL_RUNNING):
                continue
            if limits.at_limit != AtLimit.WAIT:
                by_way.setdefault(limits.at_limit, []).append((job, held_for))
        for way, jobs in by_way.items():
            try:
                await self._act(way, jobs)
            except DATABASE_ERRORS as error:
                record_database_error("at_limit")
                _log.warning("at_limit_failed", at_limit=way, error=type(error).__name__)

    async def _act(self, way: str, held: Sequence[tuple[ClaimedJob, str]]) -> None:
        match way:
            case AtLimit.DROP_NEW:
                ids = [job.id for job, _ in held]
                await self._cancel(ids, "dropped: the limit was reached")
            case AtLimit.KEEP_LATEST:
                older = await store.at_limit.superseded(self._link, {limit for _, limit in held})
                await self._cancel(older, "superseded by a later job under the same limit")
            case AtLimit.CANCEL_RUNNING:
                wanted = Counter((held_for, job.queue) for job, held_for in held)
                await self._ask_cancel(await store.at_limit.running_under(self._link, wanted))

    async def _cancel(self, ids: Collection[JobId], why: str) -> None:
        """Cancel those that wait still; one that was handed a permit meanwhile runs."""
        if not ids:
            return
        cancelled = store.actions.CANCEL.bind(
            ids=sorted(ids), by=BY, message=why, max_errors=self._max_errors, asked_by=BY,
            asked_reason=why,
        )  # fmt: skip
        for _, job_type in await self._link.fetch(*cancelled):
            record_event("cancelled", job_type, "limit")

    async def _ask_cancel(self, ids: Collection[JobId]) -> None:
        if not ids:
            return
        asked = store.cancel.ASK_CANCEL.bind(
            ids=sorted(ids), asked_by=BY, asked_reason="a later job needs its permit"
        )
        for _, job_type in await self._link.fetch(*asked):
            record_event("cancel_requested", job_type)
        message = Cancel(tuple(sorted(ids)))
        notify_local(message)
        channel = schema.channel(self._link.schema)
        await store.notify.send(self._link, encode(message), channel=channel)
