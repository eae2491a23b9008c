"""One worker: starts and stops what claims, runs, settles, heartbeats, listens and maintains."""

import time

from service.db.engine import Database
from service.jobs.handlers.published import publish_types
from service.jobs.handlers.registry import Registry, registry
from service.jobs.loops import Loop
from service.jobs.maintenance.maintainer import Maintainer
from service.jobs.notify.publisher import publisher_for
from service.jobs.notify.subscriber import Subscription, subscribe
from service.jobs.worker.pipeline import Pipeline
from service.jobs.worker.slots import Slots
from service.observability.logging import get_logger
from service.observability.metrics import (
    WORKER_SLOTS,
    WORKER_SLOTS_USED,
    WORKER_UP,
)
from service.settings import Settings

_log = get_logger(__name__)


class Worker:
    """Claims and runs jobs from `start` to `stop`; survives every failure of the database."""

    def __init__(
        self, database: Database, settings: Settings, *, handlers: Registry = registry
    ) -> None:
        self._settings = settings
        self._pipeline = Pipeline(database, settings, handlers=handlers)
        self._maintenance = Maintainer(database, settings, handlers=handlers)
        self._subscription: Subscription | None = None
        self._stop_began: float | None = None
        claimer = self._pipeline.claimer
        self._claims = Loop("claimer", claimer.run)
        self._others = [
            Loop("lanes", claimer.plan.watch_lanes),
            Loop("maintenance", self._maintenance.run),
        ]
        if settings.database_listen:
            changes = publisher_for(database.engine).changes
            self._others.append(
                Loop("listener", lambda: subscribe(database, self._pipeline.notified, changes))
            )

    @property
    def name(self) -> str:
        """Host, process id and a random part: as it stands in `job_workers` and in histories."""
        return self._pipeline.name

    @property
    def slots(self) -> Slots:
        """Its slots: for a pass by hand in the same process."""
        return self._pipeline.slots

    @property
    def alive(self) -> bool:
        """Whether all of its loops run."""
        return all(loop.alive for loop in (self._claims, *self._others, *self._pipeline.loops))

    @property
    def claims_fail_since(self) -> float | None:
        """Since when (monotonic) no claim has come through; None where they do."""
        return self._pipeline.claimer.claims_fail_since

    @property
    def last_loop_at(self) -> float:
        """Monotonic time at which the claiming loop last came round."""
        return self._pipeline.claimer.last_loop_at

    async def start(self) -> None:
        """Start claiming.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        await self._pipeline.open()
        await self._pipeline.start()
        await self._maintenance.prepare()
        await publish_types(
            self._pipeline.link,
            self._pipeline.handlers,
            max_payload_bytes=self._settings.max_payload_bytes,
        )
        self._subscription = Subscription(self._pipeline.notified)
        self._claims.start()
        for loop in self._others:
            loop.start()
        slots = self._pipeline.slots
        WORKER_UP.set(1)
        WORKER_SLOTS.set(slots.total)
        WORKER_SLOTS_USED.set_function(lambda: slots.used)
        _log.info(
            "worker_started",
            worker=self.name,
            slots=slots.total,
            queues=list(self._settings.worker_queues),
            job_types=self._pipeline.handlers.job_types(),
        )
        for name, jobs in self._pipeline.handlers.chunks().items():
            if jobs > slots.total:
                _log.warning("chunk_over_slots", job_type=name, chunk=jobs, slots=slots.total)

    def stop_claiming(self) -> None:
        """Claim no more; running jobs have the grace from this moment. Safe from a signal."""
        if self._stop_began is None:
            self._stop_began = time.monotonic()
        self._pipeline.claimer.stop()
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
        await self._pipeline.stop(grace_seconds=self._grace_left())
        _log.info("worker_stopped", seconds=round(time.monotonic() - started, 3))

    def _grace_left(self) -> float:
        began = self._stop_began or time.monotonic()
        return max(0.0, began + self._settings.shutdown_grace_seconds - time.monotonic())
