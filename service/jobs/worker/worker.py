"""One worker: starts and stops what claims, runs, settles, heartbeats, listens and maintains."""

import os
import secrets
import socket
import time
from collections.abc import Callable

from service.db.engine import DATABASE_ERRORS, Database, Link
from service.jobs import store
from service.jobs.core.outcomes import Outcome
from service.jobs.handlers.registry import Registry, registry
from service.jobs.loops import Loop
from service.jobs.maintenance.maintainer import Maintenance
from service.jobs.notify.wakeup import Subscription, hear
from service.jobs.store.workers import WorkerEntry
from service.jobs.worker.claimer import Claimer
from service.jobs.worker.executor import Runner
from service.jobs.worker.heartbeat import Heartbeat
from service.jobs.worker.progress import ProgressWriter
from service.jobs.worker.settler import Settler
from service.jobs.worker.slots import Slots
from service.observability.logging import get_logger
from service.observability.metrics import (
    WORKER_SLOTS,
    WORKER_SLOTS_USED,
    WORKER_UP,
    record_database_error,
)
from service.settings import Settings

SETTLE_GRACE_SECONDS = 10.0
"""How long a stopping worker tries to record the last outcomes."""

_log = get_logger(__name__)


class Engine:
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
        self.runner = Runner(
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
            runner=self.runner,
            settler=self.settler,
            worker_id=lambda: self.worker_id,
        )
        heartbeat = Heartbeat(
            settings,
            link=self._links["heartbeat"],
            runner=self.runner,
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
        self.claimer.begin(now)
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
        await self.runner.drain(grace_seconds)
        if not await self.settler.flushed(SETTLE_GRACE_SECONDS):
            _log.error("outcomes_not_recorded", jobs=self.settler.waiting)
        for loop in self.loops:
            await loop.stop()
        try:
            await self.claimer.lost_answers.recover_wholly()
            await store.workers.stopped(self.link, self.worker_id, forget=forget)
        except DATABASE_ERRORS as error:
            record_database_error("stop")
            _log.warning("worker_stop_not_recorded", error=type(error).__name__)
        for link in self._links.values():
            await link.close()

    def tally(self, count: Callable[[Outcome], None]) -> None:
        """Have every recorded outcome told to `count`."""
        self.settler.tally = count


class Worker:
    """Claims and runs jobs from `start` to `stop`; survives every failure of the database."""

    def __init__(
        self, database: Database, settings: Settings, *, handlers: Registry = registry
    ) -> None:
        self._settings = settings
        self._engine = Engine(database, settings, handlers=handlers)
        self._maintenance = Maintenance(database, settings, handlers=handlers)
        self._subscription: Subscription | None = None
        self._stop_began: float | None = None
        claimer = self._engine.claimer
        self._claims = Loop("claimer", claimer.run)
        self._others = [
            Loop("lanes", claimer.listing.watch),
            Loop("maintenance", self._maintenance.run),
        ]
        if settings.database_listen:
            self._others.append(Loop("listener", lambda: hear(database, claimer.wake)))

    @property
    def name(self) -> str:
        """Host, process id and a random part: as it stands in `job_workers` and in histories."""
        return self._engine.name

    @property
    def slots(self) -> Slots:
        """Its slots: for a pass by hand in the same process."""
        return self._engine.slots

    @property
    def alive(self) -> bool:
        """Whether all of its loops run."""
        return all(loop.alive for loop in (self._claims, *self._others, *self._engine.loops))

    @property
    def claims_fail_since(self) -> float | None:
        """Since when (monotonic) no claim has come through; None where they do."""
        return self._engine.claimer.claims_fail_since

    @property
    def last_loop_at(self) -> float:
        """Monotonic time at which the claiming loop last came round."""
        return self._engine.claimer.last_loop_at

    async def start(self) -> None:
        """Start claiming.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        await self._engine.open()
        await self._engine.start()
        await self._maintenance.prepare()
        self._subscription = Subscription(self._engine.claimer.wake)
        self._claims.start()
        for loop in self._others:
            loop.start()
        slots = self._engine.slots
        WORKER_UP.set(1)
        WORKER_SLOTS.set(slots.total)
        WORKER_SLOTS_USED.set_function(lambda: slots.used)
        _log.info(
            "worker_started",
            worker=self.name,
            slots=slots.total,
            queues=list(self._settings.worker_queues),
            job_types=self._engine.handlers.job_types(),
        )

    def stop_claiming(self) -> None:
        """Claim no more; running jobs have the grace from this moment. Safe from a signal."""
        if self._stop_began is None:
            self._stop_began = time.monotonic()
        self._engine.claimer.stop()
        WORKER_UP.set(0)

    async def stop(self) -> None:
        """Stop claiming, let running jobs finish within the grace, give back the others, their attempts not counted."""
        started = time.monotonic()
        self.stop_claiming()
        if self._subscription is not None:
            self._subscription.close()
        # Not cancelled: a claim under way would leave jobs behind under a lease nobody serves.
        await self._claims.join(timeout_seconds=self._settings.database_command_timeout_seconds)
        for loop in self._others:
            await loop.stop()
        await self._maintenance.close()
        await self._engine.stop(grace_seconds=self._grace_left())
        _log.info("worker_stopped", seconds=round(time.monotonic() - started, 3))

    def _grace_left(self) -> float:
        began = self._stop_began or time.monotonic()
        return max(0.0, began + self._settings.shutdown_grace_seconds - time.monotonic())
