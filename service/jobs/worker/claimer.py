"""When and what to claim: free slots, lanes and floors, wake-ups and polling."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS, REFUSED_ERRORS
from service.jobs import store
from service.jobs.batch_limit import BatchLimit
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane, LaneRequest
from service.jobs.handlers.registry import Registry
from service.jobs.loops import Pause
from service.jobs.worker import lease_clock
from service.jobs.worker.claim_recovery import ClaimRecovery
from service.jobs.worker.executor import Executor
from service.jobs.worker.plan.lane_watcher import LaneWatcher
from service.jobs.worker.plan.lanes import Lanes
from service.jobs.worker.plan.windows import Windows
from service.jobs.worker.refused_claims import RefusedClaims
from service.jobs.worker.settler import Settler
from service.jobs.worker.slots import Slots
from service.jobs.worker.starter import Starter
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

GATHER_SECONDS: Final = 0.003
"""While all slots are busy: how long a claim waits for more than one of them to become free."""

SWEEP_SHARE: Final = 0.05
"""Share of the time that sweeps may take: dear ones (dead index entries) come more rarely."""

FIRST_LISTING_SECONDS: Final = 0.05
"""How long a new worker waits for its first listing, before it looks where jobs came recently."""

MIN_SWEEP_SECONDS: Final = 0.1

DEAR_CLAIM_SECONDS: Final = 0.02
EMPTY_CLAIM_SHARE: Final = 0.1
"""Share of the time that dear claims may take which bring nothing."""

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
        self._lanes = Lanes(settings.worker_queues, slots)
        self._woken = asyncio.Event()
        self.listing = LaneWatcher(
            settings,
            link=lanes_link,
            lanes=self._lanes,
            wake=self._woken.set,
        )
        self._windows, self._sweep_windows = Windows(link), Windows(link)
        self._refused = RefusedClaims(
            link,
            lanes=self._claim_lanes,
            one=self._claim_one,
            max_errors=settings.max_error_entries,
        )
        self._next_sweep = 0.0
        self._leased_at = 0.0
        self._backlog = False
        self._ahead = 0
        """How many jobs more than slots are free the next claim may bring."""
        self._fastest_claim = float("inf")
        self._empty_claim_walked = 0.0
        self._stopping = asyncio.Event()
        self.rest_seconds = 0.0
        """How long to rest after the last claim, which walked far and found nothing."""
        self.walks_on = False
        """Whether the last claim came to the end of a window, and more is due behind it."""
        self.last_loop_at = time.monotonic()
        """When the loop last came round: /health/ready looks at it."""
        self._limit = BatchLimit(
            settings.claim_batch_size, seconds=settings.database_command_timeout_seconds
        )
        self.claims_fail_since: float | None = None
        """Monotonic time of the first of the failures that no claim has come through since."""

    def begin(self, now: float) -> None:
        """The worker was entered at that time, epoch seconds by the database's clock."""
        self._lanes.saw_time(now)

    def wake(self, lanes: Iterable[Lane]) -> None:
        """Jobs were committed in these lanes (or, with none, somewhere)."""
        known = list(lanes)
        self._lanes.add(known)
        if not known:
            self.listing.ask()
        self._woken.set()

    def stop(self) -> None:
        """Claim no more; what is claimed goes on."""
        self._stopping.set()
        self._woken.set()
        self._slots.look_again()

    async def run(self) -> None:
        """Claim until stopped."""
        self._slots.on_limit_freed = self._woken.set
        await self._find_first_lanes()
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
            if self._backlog or self.walks_on:
                continue
            if claimed:
                # Others' claims may have hidden some: look again soon.
                pause = self._settings.poll_min_seconds
                await self._idle(GATHER_SECONDS)
            else:
                await self._rest()
                until_due = self.listing.seconds_until_due() or pause
                await self._idle(min(pause, until_due, self.recovery.seconds_until_look))
                pause = min(pause * 2, self._settings.poll_max_seconds)

    async def _find_first_lanes(self) -> None:
        """Begin where jobs came recently, if the first listing takes a while."""
        until = time.monotonic() + FIRST_LISTING_SECONDS
        while (left := until - time.monotonic()) > 0:
            if self.listing.listed or self._lanes.known() or self._stopping.is_set():
                return
            self._woken.clear()
            await self._idle(left)
        await self.listing.add_recent(self._link)

    async def claim_once(self, most: int, *, ahead: int = 0) -> tuple[int, int]:
        """One claim and the start of what it brought; how many came, and how many could have.

        It brings as many as slots are free, and up to `ahead` more where no sweep is due.
        """
        async with self._slots.claiming:
            free = self._slots.free
            sweeping = free > 0 and time.monotonic() >= self._next_sweep
            asked = min(most, free + ahead if free and not sweeping else free)
            self.rest_seconds = 0.0
            self.walks_on = False
            claimed = 0
            whole = False
            if sweeping:
                whole = self._lanes.sweeps_whole
                claimed, complete = await self._sweep(asked)
                whole = whole and complete
            if claimed < asked and not whole:
                claimed += await self._claim_from_floors(asked - claimed)
            return claimed, asked

    async def _sweep(self, most: int) -> tuple[int, bool]:
        """Claim what lies below the floors, or a slice of it: late commits, expired leases.

        How many came, and whether that was all of the slice.
        """
        began = time.monotonic()
        requests = self._lanes.requests(most=most, from_floor=False)
        if not requests:
            self._lanes.skip_slice()
            self._next_sweep = began + MIN_SWEEP_SECONDS
            return 0, True
        requests = await self._sweep_windows.narrow(requests)
        sent = time.monotonic()
        jobs, full = await self._claim(requests, limit=most)
        walked = self._walked(time.monotonic() - sent)
        complete = self._lanes.swept(requests, jobs, walked, full=full)
        self._sweep_windows.claimed(
            requests,
            walked_seconds=walked,
            full=full,
            unknown_ahead=self._lanes.sweeps_first,
        )
        took = time.monotonic() - began
        # A full sweep too: it took the floors down with it, and the rest lies above them.
        self._next_sweep = began + min(
            max(took / SWEEP_SHARE, MIN_SWEEP_SECONDS), self._settings.sweep_seconds
        )
        await self._begin(jobs, began=sent, from_floor=False, full=full)
        return len(jobs), complete

    async def _claim_from_floors(self, most: int) -> int:
        requests = self._lanes.requests(most=most, from_floor=True)
        if not requests:
            return 0
        requests = await self._windows.narrow(requests)
        began = time.monotonic()
        jobs, full = await self._claim(requests, limit=most)
        walked = self._walked(time.monotonic() - began)
        self._windows.claimed(requests, walked_seconds=walked, full=full)
        # One that was slow says nothing: the network may have been, or this process stood still.
        dear, self._empty_claim_walked = (
            min(walked, self._empty_claim_walked), 0.0 if jobs else walked
        )  # fmt: skip
        if not jobs and dear > DEAR_CLAIM_SECONDS:
            # They walked far: jobs of types that are served elsewhere.
            self.rest_seconds = min(dear / EMPTY_CLAIM_SHARE, self._settings.sweep_seconds)
        if not full:
            self.walks_on = self._lanes.exhausted(requests, jobs, began=began)
        await self._begin(jobs, began=began, from_floor=True, full=full)
        return len(jobs)

    def _walked(self, took_seconds: float) -> float:
        """How long a claim walked: what the fastest of all took is the way there and back."""
        self._fastest_claim = min(took_seconds, self._fastest_claim)
        return took_seconds - self._fastest_claim

    async def _begin(
        self, jobs: list[ClaimedJob], *, began: float, from_floor: bool, full: bool
    ) -> None:
        self._lanes.claimed(jobs, began=began, from_floor=from_floor, full=full)
        # The lease began no earlier than the statement: this process's view of it ends first.
        lease_deadline = self._leased_at + self._settings.lease_seconds
        await self._starter.start(jobs, lease_deadline=lease_deadline)

    async def _claim(
        self, requests: list[LaneRequest], *, limit: int
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

    async def _claim_lanes(self, requests: list[LaneRequest], limit: int) -> list[ClaimedJob]:
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
            await self._slots.wait_for(batch, GATHER_SECONDS)
        if self._slots.free == 0:
            await self._slots.wait_for(1, self._settings.poll_max_seconds, unless=self._stopping)
            return False
        if self._settler.backlog_full:
            await asyncio.sleep(GATHER_SECONDS)
            return False
        return True

    async def _rest(self) -> None:
        """Rest after a claim that walked far and found nothing; no wake-up cuts it short."""
        if self.rest_seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.rest_seconds):
                    await self._stopping.wait()

    async def _idle(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
