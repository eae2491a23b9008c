"""Notifications that somebody asked for the cancel of running jobs.

The row of the job is the truth: a notification makes this worker extend the leases of the jobs that it
names, and the answer tells whether they are to be cancelled. Without it the next heartbeat tells.
"""

import asyncio
from collections.abc import Collection
from typing import Final

from service.db.errors import DATABASE_ERRORS
from service.jobs.core.job import JobId
from service.jobs.worker.executor import Executor
from service.jobs.worker.heartbeat import BATCH, Heartbeat
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

AGAIN_SECONDS: Final = 0.2
"""When they are looked for again: the answer to the claim of one may still be under way."""

_log = get_logger(__name__)


class CancelRequests:
    """Looks at the running jobs that are said to be cancelled."""

    def __init__(self, executor: Executor, heartbeat: Heartbeat) -> None:
        self._executor = executor
        self._heartbeat = heartbeat
        self._ids: set[JobId] = set()
        self._all = False
        self._some = asyncio.Event()

    def notified(self, ids: Collection[JobId]) -> None:
        """Somebody asked for the cancel of these jobs; none: of more than could be named."""
        self._ids.update(ids)
        self._all = self._all or not ids
        self._some.set()

    async def run(self) -> None:
        """Look at them until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            ids = None if self._all else self._ids
            self._ids, self._all = set(), False
            try:
                await self._look(ids)
                await asyncio.sleep(AGAIN_SECONDS)
                await self._look(ids)
            except DATABASE_ERRORS as error:  # the next heartbeat tells
                record_database_error("heartbeat")
                _log.warning("cancel_not_looked_at", error=type(error).__name__)

    async def _look(self, ids: Collection[JobId] | None) -> None:
        runs = [
            run
            for run in self._executor.runs
            if run.cancel_seen is None and not run.ended and (ids is None or run.job.id in ids)
        ]
        for first in range(0, len(runs), BATCH):
            await self._heartbeat.extend(runs[first : first + BATCH])
