"""Progress that handlers report, written for many jobs with one statement."""

import asyncio
from itertools import islice
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.notify.changes import Changes
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event

MAX_BATCH: Final = 500
TRIES: Final = 2
"""A connection may have been cut since it was last used."""

_log = get_logger(__name__)


class _Waiting:
    """The newest progress of one job, and who waits until it is written."""

    def __init__(self, job_type: str, text: str) -> None:
        self.job_type = job_type
        self.text = text
        self.held: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class ProgressWriter:
    """Writes the latest progress of each job; while one statement runs, the next batch gathers.

    A database that does not answer is logged and counted, and fails no attempt.
    """

    def __init__(self, link: Link, changes: Changes) -> None:
        self._link = link
        self._changes = changes
        self._waiting: dict[Lease, _Waiting] = {}
        self._some = asyncio.Event()
        self._stopped = False

    async def write(self, job: ClaimedJob, text: str) -> bool:
        """Record progress (JSON text); False where the lease was lost and the handler should stop."""
        if self._stopped:
            return True
        waiting = self._waiting.get(job.lease)
        if waiting is None:
            waiting = self._waiting[job.lease] = _Waiting(job.job_type, text)
        else:
            waiting.text = text
        self._some.set()
        return await asyncio.shield(waiting.held)  # others may wait for the same

    async def run(self) -> None:
        """Write until cancelled; what waits then is not written."""
        batch: dict[Lease, _Waiting] = {}
        self._stopped = False
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                while self._waiting:
                    batch = dict(islice(self._waiting.items(), MAX_BATCH))
                    for lease in batch:
                        del self._waiting[lease]
                    _answer(batch, await self._write(batch))
                    self._changes.happened(job_id for job_id, _ in batch)
        finally:
            self._stopped = True
            _answer(batch | self._waiting, None)
            self._waiting.clear()

    async def _write(self, batch: dict[Lease, _Waiting]) -> set[Lease] | None:
        """The leases that held; None where that is not known."""
        texts = {lease: waiting.text for lease, waiting in batch.items()}
        for _ in range(TRIES):
            try:
                return await store.progress.write(self._link, texts)
            except DATABASE_ERRORS as error:
                record_database_error("progress")
                _log.warning("progress_failed", jobs=len(batch), error=type(error).__name__)
        return None


def _answer(batch: dict[Lease, _Waiting], held: set[Lease] | None) -> None:
    for lease, waiting in batch.items():
        if waiting.held.done():
            continue
        holds = held is None or lease in held
        waiting.held.set_result(holds)
        if not holds:
            # Here, not where it is waited for: a handler may be cancelled while it waits.
            record_event("stale_progress", waiting.job_type, "lease_lost")
