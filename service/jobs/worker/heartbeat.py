"""Extends the leases of this worker's claims, in batches, over a connection of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from itertools import islice
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.attempt import Stop
from service.jobs.worker import lease_clock
from service.jobs.worker.executor import HEARTBEAT_RETRY_SECONDS, LEASE_MARGIN, Executor
from service.jobs.worker.run import Run
from service.jobs.worker.settler import Settler
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event
from service.settings import Settings

BATCH: Final = 1000
_log = get_logger(__name__)


class Heartbeat:
    """Extends the lease of every claim whose outcome is not recorded yet.

    A handler whose lease cannot be extended in time is cancelled before the lease ends, so that no
    job runs in two places for longer than a handler takes to stop.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        executor: Executor,
        settler: Settler,
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._link = link
        self._executor = executor
        self._settler = settler
        self._announce = announce
        self._lease_seconds = settings.lease_seconds
        self._every_seconds = settings.heartbeat_seconds
        self._margin_seconds = settings.lease_seconds * LEASE_MARGIN
        self._next_at = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        pause = self._every_seconds
        while True:
            self._next_at = lease_clock.now() + pause
            await lease_clock.pause(self._seconds_to_next)
            bound = max(self._every_seconds, HEARTBEAT_RETRY_SECONDS)
            try:
                # A beat that hangs must not delay the look at leases that are about to end.
                async with asyncio.timeout(min(bound, self._seconds_left())):
                    await self._beat()
            except DATABASE_ERRORS as error:
                record_database_error("heartbeat")
                _log.warning("heartbeat_failed", error=type(error).__name__)
                pause = min(HEARTBEAT_RETRY_SECONDS, self._every_seconds)
            else:
                pause = self._every_seconds
            self._cancel_expiring()

    async def _beat(self) -> None:
        await self._announce()
        soon = lease_clock.now() + self._lease_seconds - self._every_seconds / 2
        held = set(self._executor.runs)
        held.update(run for run in self._settler.unsettled() if isinstance(run, Run))
        due = iter([run for run in held if run.lease_deadline < soon])
        while batch := list(islice(due, BATCH)):
            await self.extend(batch)

    async def extend(self, runs: Collection[Run]) -> None:
        """Extend the leases of these runs, and stop those that lost theirs or are to be cancelled.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        # Read before the statement, so the lease in the database can only end later.
        deadline = lease_clock.now() + self._lease_seconds
        extended = await store.leases.extend(
            self._link, [run.job.lease for run in runs], lease_seconds=self._lease_seconds
        )
        for run in runs:
            cancel_asked = extended.get(run.job.lease)
            if cancel_asked is not None:
                run.lease_deadline = deadline
            elif run.task is not None and not run.ended:
                self._lost(run)
            if cancel_asked:
                self._executor.cancel(run, Stop.CANCELLED)

    def _lost(self, run: Run) -> None:
        record_event("stale_heartbeat", run.job.job_type, "lease_lost")
        _log.warning("lease_lost", job_id=run.job.id, job_type=run.job.job_type)
        self._executor.cancel(run, Stop.LEASE_LOST)

    def _seconds_to_next(self) -> float:
        return min(self._next_at - lease_clock.now(), self._seconds_left())

    def _seconds_left(self) -> float:
        """Until the first handler must be cancelled for want of a heartbeat."""
        deadlines = (run.lease_deadline for run in self._executor.runs if _cancellable(run))
        first = min(deadlines, default=float("inf"))
        return max(0.0, first - self._margin_seconds - lease_clock.now())

    def _cancel_expiring(self) -> None:
        limit = lease_clock.now() + self._margin_seconds
        for run in list(self._executor.runs):
            if run.lease_deadline <= limit and _cancellable(run):
                _log.warning("lease_unsure", job_id=run.job.id, job_type=run.job.job_type)
                self._executor.cancel(run, Stop.LEASE_UNSURE)


def _cancellable(run: Run) -> bool:
    return run.task is not None and run.stop is None and not run.ended
