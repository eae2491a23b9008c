"""Keep the slots of a worker filled: slots, plan, claim, admit, start; wake-ups and polling."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS, REFUSED_ERRORS
from service.jobs import store
from service.jobs.batch_limit import BatchLimit
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane, LaneRequest
from service.jobs.flow.admission import Admission
from service.jobs.handlers.registry import Registry
from service.jobs.loops import Pause
from service.jobs.worker import lease_clock
from service.jobs.worker.claim_recovery import ClaimRecovery
from service.jobs.worker.executor import Executor
from service.jobs.worker.plan.claim_plan import ClaimPlan
from service.jobs.worker.refused_claims import RefusedClaims
from service.jobs.worker.settler import Settler
from service.jobs.worker.slots import Slots
from service.jobs.worker.starter import Starter
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

GATHER_SECONDS: Final = 0.003
"""While all slots are busy: how long a claim waits for more than one of them to become free."""

GIVE_BACK_SECONDS: Final = 1.0
"""How long claims wait for jobs to be given back, of which one may be a row that somebody locks."""

_log = get_logger(__name__)


class Claimer:
    """Keeps the slots of one worker filled with due jobs."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry,
        link: Link,
        lanes_link: Link,
        slots: Slots,
        executor: Executor,
        settler: Settler,
        worker_id: Callable[[], int],
        admission: Admission,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._link = link
        self._slots = slots
        self._starter = Starter(slots=slots, executor=executor)
        self._settler = settler
        self._worker_id = worker_id
        self.recovery = ClaimRecovery(
            link,
            worker_id=worker_id,
            lease_seconds=settings.lease_seconds,
            held=lambda: executor.runs | settler.unsettled(),
        )
        self._admission = admission
        self._woken = asyncio.Event()
        self.plan = ClaimPlan(
            settings,
            link=link,
            lanes_link=lanes_link,
            queues=slots.queues.serving(settings.worker_queues),
            wake=self._woken.set,
        )
        self._refused = RefusedClaims(
            link,
            lanes=self._claim_lanes,
            one=self._claim_one,
            max_errors=settings.max_error_entries,
        )
        self._leased_at = 0.0
        self._backlog = False
        self._ahead = 0
        """How many jobs more than slots are free the next round may bring."""
        self._stopping = asyncio.Event()
        self.last_loop_at = time.monotonic()
        """When the loop last came round: /health/ready looks at it."""
        self._limit = BatchLimit(
            settings.claim_batch_size, seconds=settings.database_command_timeout_seconds
        )
        self.claims_fail_since: float | None = None
        """Monotonic time of the first of the failures that no claim has come through since."""

    def wake(self, lanes: Iterable[Lane]) -> None:
        """Jobs were committed in these lanes; with none, somewhere."""
        self.plan.wake(list(lanes))
        self._woken.set()

    def stop(self) -> None:
        """Claim no more; what is claimed goes on."""
        self._stopping.set()
        self._woken.set()
        self._slots.look_again()

    async def run(self) -> None:
        """Claim until stopped."""
        self._slots.queues.on_limit_freed = self._woken.set
        await self.plan.find_first_lanes(self._pause)
        failures = Pause()
        pause = self._settings.poll_min_seconds
        while not self._stopping.is_set():
            self.last_loop_at = time.monotonic()
            self._woken.clear()
            try:
                # With every slot taken too: what was lost waits for nobody.
                await self.recovery.recover()
                if not await self._slots_ready():
                    continue
                began = time.monotonic()
                claimed, asked = await self.claim_once(self._limit.rows, ahead=self._ahead)
            except DATABASE_ERRORS as error:
                # Large payloads may be what takes so long: the next claim asks for fewer.
                self._limit.failed(self._limit.rows)
                if self.claims_fail_since is None:
                    self.claims_fail_since = time.monotonic()
                record_database_error("claim")
                _log.warning("claim_failed", error=type(error).__name__, detail=str(error)[:200])
                await failures.wait()
                continue
            failures.reset()
            self.claims_fail_since = None
            self._limit.succeeded(time.monotonic() - began)
            self._backlog = claimed >= asked
            if self._backlog or self.plan.walks_on:
                continue
            if claimed:
                # Others' claims may have hidden some: look again soon.
                pause = self._settings.poll_min_seconds
                await self._idle(GATHER_SECONDS)
            else:
                await self._rest()
                until_due = self.plan.seconds_until_due() or pause
                until_look = min(self.recovery.seconds_until_look, self.plan.seconds_until_sweep())
                await self._idle(min(pause, until_due, until_look))
                pause = min(pause * 2, self._settings.poll_max_seconds)

    async def _pause(self, seconds: float) -> bool:
        """Wait for a wake-up; False when claiming is over."""
        if not self._stopping.is_set():
            self._woken.clear()
            await self._idle(seconds)
        return not self._stopping.is_set()

    async def claim_once(self, limit: int, *, ahead: int = 0) -> tuple[int, int]:
        """One round of claims and the start of what they brought.

        It brings as many jobs as slots are free, and up to `ahead` more where no sweep is due.

        Returns:
            How many jobs came, and how many could have.
        """
        async with self._slots.claiming:
            free = self._slots.free
            sweeping = self.plan.start_round()
            asked = min(limit, free if sweeping else free + ahead)
            claimed = 0
            while claimed < asked and (step := await self.plan.next(asked - claimed)):
                jobs, full = await self._claim(step.requests, limit=asked - claimed)
                self.plan.returned(step, jobs, full=full)
                # The lease began no earlier than the statement: this process's view of it ends first.
                lease_deadline = self._leased_at + self._settings.lease_seconds
                admitted, _ = await self._admission.admit(jobs)
                await self._starter.start(admitted, lease_deadline=lease_deadline)
                claimed += len(jobs)
            return claimed, asked

    async def _claim(
        self, requests: Sequence[LaneRequest], *, limit: int
    ) -> tuple[list[ClaimedJob], bool]:
        """Up to `limit` jobs, and whether there may be more of them in the same place."""
        self._leased_at = lease_clock.now()
        try:
            jobs = await self._claim_lanes(requests, limit)
        except REFUSED_ERRORS:
            types = self._registry.job_types()
            return await self._refused.narrow(requests, types, limit=limit), True
        return jobs, len(jobs) >= limit

    async def _claim_one(self, request: LaneRequest, job_id: JobId) -> list[ClaimedJob]:
        with self.recovery.expected([request]):
            return await store.claim.take_one(
                self._link,
                job_id,
                lease_seconds=self._settings.lease_seconds,
                worker_id=self._worker_id(),
                max_errors=self._settings.max_error_entries,
            )

    async def _claim_lanes(self, requests: Sequence[LaneRequest], limit: int) -> list[ClaimedJob]:
        with self.recovery.expected(requests):
            return await store.claim.take(
                self._link,
                requests,
                self._registry.job_types(),
                limit=limit,
                lease_seconds=self._settings.lease_seconds,
                worker_id=self._worker_id(),
                max_errors=self._settings.max_error_entries,
            )

    async def _slots_ready(self) -> bool:
        """Wait for free slots, and for room among the unsettled; False to look again."""
        self._ahead = 0
        if self._backlog:
            batch = min(self._settings.claim_batch_size, max(1, self._slots.total // 4))
            if self._slots.free < batch:
                self._ahead = await self._starter.ahead()
            if not self._ahead:
                await self._slots.wait_for(batch, GATHER_SECONDS)
        if self._slots.free == 0 and not self._ahead:
            await self._slots.wait_for(1, self._settings.poll_max_seconds, unless=self._stopping)
            return False
        if self._settler.backlog_full or self._gives_back():
            await asyncio.sleep(GATHER_SECONDS)
            return False
        return True

    def _gives_back(self) -> bool:
        """Whether jobs that found no slot are PENDING only soon: claims would pass them by.

        Then only a sweep would find them again.
        """
        given_back = self._starter.given_back
        if not given_back:
            return False
        since = time.monotonic() - GIVE_BACK_SECONDS
        return any(run.started > since for run in given_back & self._settler.unsettled())

    async def _rest(self) -> None:
        """Rest after a claim that walked far and found nothing; no wake-up cuts it short."""
        if self.plan.rest_seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.plan.rest_seconds):
                    await self._stopping.wait()

    async def _idle(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
