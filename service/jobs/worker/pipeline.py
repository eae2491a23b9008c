"""The parts that take one process's jobs from claim to settlement, wired together."""

import os
import secrets
import socket
from collections.abc import Callable

from service.db.connection import Link
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.outcomes import Outcome
from service.jobs.flow.admission import Admission
from service.jobs.handlers.registry import Registry, registry
from service.jobs.loops import Loop
from service.jobs.store.workers import WorkerEntry
from service.jobs.worker.claimer import Claimer
from service.jobs.worker.executor import Executor
from service.jobs.worker.heartbeat import Heartbeat
from service.jobs.worker.progress import ProgressWriter
from service.jobs.worker.settler import Settler
from service.jobs.worker.slots import Slots
from service.observability.logging import get_logger
from service.observability.metrics import (
    record_database_error,
)
from service.settings import Settings

SETTLE_GRACE_SECONDS = 10.0
"""How long a stopping worker tries to record the last outcomes."""

_log = get_logger(__name__)


class Pipeline:
    """The parts that take one process's jobs from claim to settlement, wired together.

    A `Worker` runs them until it is stopped; `process_due_jobs` for one pass.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        handlers: Registry = registry,
        slots: Slots | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.settings = settings
        self.handlers = handlers
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.worker_id = 0
        self.slots = slots or Slots.parse(
            settings.worker_concurrency,
            settings.worker_queues,
        )
        self._links = {
            duty: database.link()
            for duty in ("claim", "lanes", "settle", "requeue", "heartbeat", "progress")
        }
        self.settler = Settler(
            settings, link=self._links["settle"], requeue_link=self._links["requeue"]
        )
        self.progress = ProgressWriter(self._links["progress"])
        self.executor = Executor(
            settings,
            registry=handlers,
            slots=self.slots,
            settle=self.settler.settle,
            progress=self.progress,
            worker_name=self.name,
        )
        self.claimer = Claimer(
            settings,
            registry=handlers,
            link=self._links["claim"],
            lanes_link=self._links["lanes"],
            slots=self.slots,
            executor=self.executor,
            settler=self.settler,
            worker_id=lambda: self.worker_id,
            admission=admission or Admission(),
        )
        heartbeat = Heartbeat(
            settings,
            link=self._links["heartbeat"],
            executor=self.executor,
            settler=self.settler,
            announce=self._announce,
        )
        self.loops = [
            *self.settler.loops,
            Loop("heartbeat", heartbeat.run),
            Loop("progress", self.progress.run),
        ]

    @property
    def link(self) -> Link:
        """The connection that claims."""
        return self._links["claim"]

    async def start(self) -> None:
        """Enter the worker and start to settle and to heartbeat.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        self.worker_id, now = await store.workers.register(self.link, **self._entry())
        self.claimer.plan.begin(now)
        for loop in self.loops:
            loop.start()

    async def _announce(self) -> None:
        """Tell that the worker lives, and what it serves by now; enter it anew if its row is gone."""
        before, link = self.worker_id, self._links["heartbeat"]
        self.worker_id = await store.workers.seen(link, before, **self._entry())
        if self.worker_id != before:
            _log.warning("worker_entered_again", worker_id=self.worker_id, before=before)

    def _entry(self) -> WorkerEntry:
        return {
            "name": self.name,
            "queues": list(self.settings.worker_queues),
            "job_types": self.handlers.job_types(),
            "concurrency": self.slots.total,
        }

    async def open(self) -> None:
        """Connect for what cannot wait until others give a connection back.

        Raises:
            DATABASE_ERRORS: the database does not answer, or has no connection left.
        """
        # Claims wait a little for the first listing: that shall not have to connect before it.
        for duty in ("settle", "requeue", "heartbeat", "lanes"):
            await self._links[duty].connection()

    async def stop(self, *, grace_seconds: float, forget: bool = False) -> None:
        """Let running handlers finish, release what is left, record every outcome, close.

        With `forget` no trace of the worker is kept: its types count as served no longer.
        """
        await self.executor.drain(grace_seconds)
        if not await self.settler.flushed(SETTLE_GRACE_SECONDS):
            _log.error("outcomes_not_recorded", jobs=self.settler.waiting)
        for loop in self.loops:
            await loop.stop()
        try:
            await self.claimer.recovery.recover_wholly()
            await store.workers.stopped(self.link, self.worker_id, forget=forget)
        except DATABASE_ERRORS as error:
            record_database_error("stop")
            _log.warning("worker_stop_not_recorded", error=type(error).__name__)
        for link in self._links.values():
            await link.close()

    def tally(self, count: Callable[[Outcome], None]) -> None:
        """Have every recorded outcome told to `count`."""
        self.settler.tally = count
