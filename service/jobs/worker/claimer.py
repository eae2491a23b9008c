"""Keep the slots of a worker filled: slots, plan, claim, admit, start; wake-ups and polling."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs.batch_limit import BatchLimit
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.flow.admission import Admission
from service.jobs.flow.queue_settings import MAX_AGE_SECONDS
from service.jobs.flow.queues import QueuePolicies
from service.jobs.handlers.registry import Registry
from service.jobs.loops import Pause
from service.jobs.notify.changes import Changes
from service.jobs.notify.messages import Look, Message, Policies, Wake
from service.jobs.worker import lease_clock
from service.jobs.worker.claim_recovery import ClaimRecovery
from service.jobs.worker.claims import Claims
from service.jobs.worker.hand_over import HandOver
from service.jobs.worker.plan.claim_plan import ClaimPlan
from service.jobs.worker.runner import Runner
from service.jobs.worker.settler import Settler
from service.jobs.worker.slots import Slots
from service.jobs.worker.starter import Starter
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

GATHER_SECONDS: Final = 0.003
"""While all slots are busy: how long a claim waits for more than one of them to become free."""

LANES_FIRST_ROUNDS: Final = 4
"""In one round of so many held jobs leave half of the free slots to others."""

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
        queues: QueuePolicies,
        executor: Runner,
        settler: Settler,
        worker_id: Callable[[], int],
        changes: Changes,
    ) -> None:
        self._settings = settings
        self._link = link
        self._slots = slots
        self._starter = Starter(slots=slots, executor=executor)
        self._settler = settler
        self.recovery = ClaimRecovery(
            link,
            worker_id=worker_id,
            lease_seconds=settings.lease_seconds,
            held=lambda: executor.runs | settler.unsettled(),
        )
        self._hand_over = HandOver(
            settings, link=link, registry=registry, queues=queues, worker_id=worker_id,
        )  # fmt: skip
        self._admission = Admission(
            link,
            queues=slots.queues,
            registry=registry,
            on_held=self._hand_over.held,
            max_errors=settings.max_error_entries,
        )
        self._changes = changes
        self._queue_settings = slots.queues.settings
        self._woken = asyncio.Event()
        self.plan = ClaimPlan(
            settings,
            link=link,
            lanes_link=lanes_link,
            queues=queues,
            wake=self._woken.set,
        )
        self._claims = Claims(
            settings,
            link=link,
            registry=registry,
            queue_settings=slots.queues.settings,
            limits=self._admission.limits,
            recovery=self.recovery,
            worker_id=worker_id,
        )
        self._leased_at = 0.0
        self._backlog = False
        self._rounds = 0
        self._ahead = 0
        """How many jobs more than slots are free the next round may bring."""
        self._stopping = asyncio.Event()
        self.last_loop_at = time.monotonic()
        """When the loop last came round: /health/ready looks at it."""
        self._limit = BatchLimit(
            settings.claim_batch_size, seconds=settings.database_command_timeout_seconds
        )
        self.took_all_at = float("-inf")
        """When the last round began (monotonic) that left nothing to claim."""
        self.on_took_all: Callable[[], None] | None = None
        """Called after such a round."""
        self.claims_fail_since: float | None = None
        """Monotonic time of the first of the failures that no claim has come through since."""

    def wake(self, lanes: Iterable[Lane]) -> None:
        """Jobs were committed in these lanes; with none, somewhere."""
        self.plan.wake(list(lanes))
        self._woken.set()

    def notified(self, message: Message) -> None:
        """A notification came, of this process or of another."""
        match message:
            case Wake(lanes):
                self.wake(lanes)
            case Look():
                self.wake(())
            case Policies():  # the next claim reads them, and comes at once
                self._queue_settings.forget()
                self._hand_over.forget()
                self._slots.hurry()  # a queue that is paused gives chunks no more
                self._woken.set()

    def look(self) -> None:
        """Claim at once, whether or not a job is known to be due."""
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
            self.took_all_at = began
            if self.on_took_all is not None:
                self.on_took_all()
            if claimed:
                # Others' claims may have hidden some: look again soon.
                pause = self._settings.poll_min_seconds
                await self._idle(GATHER_SECONDS)
            else:
                await self._rest()
                until_due = self.plan.seconds_until_due() or pause
                until_look = min(
                    self.recovery.seconds_until_look,
                    self.plan.seconds_until_sweep(),
                    self._hand_over.seconds_until_look,
                )
                if self._queue_settings.paused:  # its resumption may not be told
                    until_look = min(until_look, MAX_AGE_SECONDS)
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
            await self._queue_settings.renew(self._link)
            await self._hand_over.look()
            free = min(limit, self._slots.free)
            # Now and then they leave the rest to the lanes, however many of them could start.
            self._rounds += 1
            leave_some = self._rounds % LANES_FIRST_ROUNDS == 0
            claimed = await self._claim_held(free // 2 if leave_some else free)
            free = self._slots.free
            sweeping = self.plan.start_round()
            asked = claimed + min(limit, free if sweeping else free + ahead)
            while claimed < asked and (step := await self.plan.next(asked - claimed)):
                self._leased_at = lease_clock.now()
                jobs, full, walk = await self._claims.take(step, limit=asked - claimed)
                self.plan.returned(step, jobs, full=full, walk=walk)
                await self._start(jobs)
                claimed += len(jobs)
            claimed += await self._claim_held(min(asked - claimed, self._slots.free))
            return claimed, asked

    async def _claim_held(self, limit: int) -> int:
        """Claim held jobs and start those that are admitted; how many came."""
        if not self._hand_over.waiting or limit <= 0:
            return 0
        self._leased_at = lease_clock.now()
        # They come from lanes that only the database knows.
        anywhere = [LaneRequest(lane, LANE_START, limit) for lane in self.plan.known_lanes()]
        with self.recovery.expected(anywhere):
            jobs = await self._hand_over.claim(limit)
        within, beyond = self._hand_over.within_own_limits(jobs)
        await self._start(within, handed_over=True)
        self._starter.give_back(
            beyond, lease_deadline=self._leased_at + self._settings.lease_seconds
        )
        return len(within)

    async def _start(self, jobs: Sequence[ClaimedJob], *, handed_over: bool = False) -> None:
        """Start what may start of the jobs that the last claim brought."""
        # The lease began no earlier than the statement: this process's view of it ends first.
        lease_deadline = self._leased_at + self._settings.lease_seconds
        try:
            admitted, unsure = await self._admission.admit(jobs, handed_over=handed_over)
        except asyncio.CancelledError:
            # The worker stops, and the database did not answer: nobody else knows of these.
            leased = [job for job in jobs if job.held_for is None]
            for job in leased:
                job.permits = () if job.permits is None else job.permits
            self._starter.give_back(leased, lease_deadline=lease_deadline)
            raise
        await self._starter.start(admitted, lease_deadline=lease_deadline)
        self._starter.give_back(unsure, lease_deadline=lease_deadline)
        if jobs:
            self._changes.happened(job.id for job in jobs)

    def permits_freed(self, permits: Counter[str]) -> None:
        """So many permits of each limit came free."""
        self._hand_over.freed(permits)
        self._woken.set()

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
