"""The parts that take one process's jobs from claim to settlement, wired together."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable

from service.db.connection import Link
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.outcomes import Outcome
from service.jobs.flow.endings import Endings
from service.jobs.flow.queues import entries_of
from service.jobs.flow.unique_turns import UniqueTurns
from service.jobs.handlers.parents import ParentReader
from service.jobs.handlers.registry import Registry, registry
from service.jobs.loops import Loop
from service.jobs.notify import messages
from service.jobs.notify.publisher import publisher_for
from service.jobs.store.workers import WorkerEntry
from service.jobs.worker.cancel_requests import CancelRequests
from service.jobs.worker.claimer import Claimer
from service.jobs.worker.executor import Executor
from service.jobs.worker.heartbeat import Heartbeat
from service.jobs.worker.log_lines import LogLines
from service.jobs.worker.progress import ProgressWriter
from service.jobs.worker.settler import Settler
from service.jobs.worker.slots import Slots
from service.jobs.worker.step_writer import StepWriter
from service.observability.logging import get_logger
from service.observability.metrics import (
    record_database_error,
)
from service.settings import Settings
from service.version import running_version

SETTLE_GRACE_SECONDS = 10.0
"""How long a stopping worker tries to record the last outcomes."""

ENDINGS_GRACE_SECONDS = 2.0
"""How long it goes on to act on what others wait for."""

LOGS_GRACE_SECONDS = 2.0
"""How long it tries to write the last lines that handlers logged."""

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
    ) -> None:
        self.settings = settings
        self.handlers = handlers
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.worker_id = 0
        self._version = running_version()
        self.slots = slots or Slots.parse(
            settings.worker_concurrency,
            settings.worker_queues,
        )
        self._links = {
            duty: database.link(duty=duty)
            for duty in (
                "claim",
                "lanes",
                "settle",
                "requeue",
                "heartbeat",
                "progress",
                "logs",
                "endings",
                "parents",
                "steps",
                "keys",
            )
        }
        changes = publisher_for(database.engine).changes
        self.endings = Endings(
            self._links["endings"],
            max_errors=settings.max_error_entries,
        )
        self.unique_turns = UniqueTurns(
            self._links["keys"],
            max_errors=settings.max_error_entries,
        )
        self.settler = Settler(
            settings,
            link=self._links["settle"],
            requeue_link=self._links["requeue"],
            changes=changes,
            told=self.endings.wake,
        )
        self.progress = ProgressWriter(self._links["progress"], changes)
        self._log_lines = LogLines(self._links["logs"], settings, changes)
        self.steps = StepWriter(self._links["steps"], changes)
        self.executor = Executor(
            settings,
            registry=handlers,
            slots=self.slots,
            settle=self.settler.settle,
            progress=self.progress,
            log_lines=self._log_lines,
            parents=ParentReader(self._links["parents"]),
            steps=self.steps,
            keys_link=self._links["keys"],
            worker_name=self.name,
        )
        self.claimer = Claimer(
            settings,
            registry=handlers,
            link=self._links["claim"],
            lanes_link=self._links["lanes"],
            slots=self.slots,
            queues=self.slots.queues.serving(settings.worker_queues),
            executor=self.executor,
            settler=self.settler,
            worker_id=lambda: self.worker_id,
            changes=changes,
        )
        self.settler.on_permits_freed = self.claimer.permits_freed
        self.endings.on_released = self.claimer.notified
        self.unique_turns.on_released = self.claimer.notified
        heartbeat = Heartbeat(
            settings,
            link=self._links["heartbeat"],
            executor=self.executor,
            settler=self.settler,
            announce=self._announce,
        )
        self._cancels = CancelRequests(self.executor, heartbeat)
        self.loops = [
            *self.settler.loops,
            Loop("heartbeat", heartbeat.run),
            Loop("cancels", self._cancels.run),
            Loop("progress", self.progress.run),
            Loop("logs", self._log_lines.run),
            Loop("steps", self.steps.run),
            Loop("endings", self.endings.run),
            Loop("unique_turns", self.unique_turns.run),
        ]

    def notified(self, message: messages.Message) -> None:
        """A notification came, of this process or of another."""
        if isinstance(message, messages.Endings | messages.Look):
            self.endings.wake()
            self.unique_turns.wake()
        if isinstance(message, messages.Cancel):
            self._cancels.notified(message.ids)
        self.claimer.notified(message)

    @property
    def link(self) -> Link:
        """The connection that claims."""
        return self._links["claim"]

    async def start(self) -> None:
        """Enter the worker and start to settle and to heartbeat.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        for queue in self.handlers.computing_queues():
            # What waits for a process holds a slot, and no other worker could take it. One more than run
            # for each of them, so that none waits for a claim. WORKER_QUEUES has the last word.
            self.slots.queues.limits.setdefault(queue, 2 * self.executor.processes.limit)
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
            "queues": entries_of(self.settings.worker_queues),
            "job_types": self.handlers.job_types(),
            "concurrency": self.slots.total,
            "version": self._version,
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
        drained = asyncio.Event()
        # Beside the others: what a lost claim took must not wait until its lease ends.
        recovery = asyncio.create_task(
            self.claimer.recovery.recover_wholly(drained), name="jobs.recovery"
        )
        await self.executor.drain(grace_seconds)
        if not await self.settler.flushed(SETTLE_GRACE_SECONDS):
            _log.error("outcomes_not_recorded", jobs=self.settler.waiting)
        await self._log_lines.flushed(LOGS_GRACE_SECONDS)
        await self.endings.finished(ENDINGS_GRACE_SECONDS)
        for loop in self.loops:
            await loop.stop()
        drained.set()
        try:
            await recovery
            await store.workers.stopped(self.link, self.worker_id, forget=forget)
        except DATABASE_ERRORS as error:
            record_database_error("stop")
            _log.warning("worker_stop_not_recorded", error=type(error).__name__)
        for link in self._links.values():
            await link.close()

    def tally(self, count: Callable[[Outcome], None]) -> None:
        """Have every recorded outcome told to `count`."""
        self.settler.tally = count
