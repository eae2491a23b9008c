"""Between claim and start: which claimed jobs may start now.

Jobs that come under a limit on running jobs or a rate, for their concurrency key or of their queue,
get permits or are held: by their claim (`store/claim_limited.py`), or where that could not decide, and
where they were held before, by a statement of its own (`store/admission.py`). Jobs without limits pay nothing.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.holds import RATE
from service.jobs.core.queue_limits import NO_LIMITS
from service.jobs.flow.at_limit import Reached
from service.jobs.flow.queues import QueuePolicies
from service.jobs.handlers.registry import Registry
from service.jobs.loops import Pause
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event

RETRY_SECONDS: Final = 5.0
"""How long admission is tried while the database fails; then the jobs are given back. Once, where jobs
without limits came with them."""

_log = get_logger(__name__)


class Admitted(NamedTuple):
    """What became of claimed jobs."""

    admitted: Sequence[ClaimedJob]
    """These start now."""
    unsure: Sequence[ClaimedJob] = ()
    """The database did not answer: these are to be given back, with the permits that they may hold."""


class Admission:
    """Grants permits to claimed jobs, or holds them."""

    def __init__(
        self,
        link: Link,
        *,
        queues: QueuePolicies,
        registry: Registry,
        on_held: Callable[[str], None],
        max_errors: int,
    ) -> None:
        self._link = link
        self._queues = queues
        self._registry = registry
        self._on_held = on_held
        self._reached = Reached(link, queues.settings, max_errors=max_errors)
        self._limited_by_type: set[str] = set()
        """The queues in which jobs came under a limit that their type sets."""

    def limits(self, queue: str) -> bool:
        """Whether jobs of the queue may come under a limit or a rate: then their claim decides."""
        limits = self._queues.settings.settings_of(queue) or NO_LIMITS
        return queue in self._limited_by_type or any(
            limit is not None
            for limit in (
                limits.max_running, limits.max_running_per_key, limits.rate, limits.rate_per_key
            )
        )  # fmt: skip

    async def admit(self, jobs: Sequence[ClaimedJob], *, handed_over: bool = False) -> Admitted:
        """Tell which of these claimed jobs may start.

        Those that a limit holds, and those whose lease was lost meanwhile, are in neither list.

        Args:
            jobs: all that a claim brought.
            handed_over: whether they were held before.
        """
        jobs = await self._decided(jobs)
        limited = [job for job in jobs if self._comes_under_a_limit(job)]
        if not limited:
            return Admitted(jobs)
        asked = {job.id for job in limited}
        others = [job for job in jobs if job.id not in asked]
        # They come in no order, and permits may be short.
        limited.sort(key=lambda job: (job.priority, job.due_at, job.id))
        pause, until = Pause(), time.monotonic() + RETRY_SECONDS
        while True:
            try:
                granted = await self._grant(limited, handed_over=handed_over)
            except DATABASE_ERRORS as error:
                record_database_error("admit")
                _log.warning("admit_failed", error=type(error).__name__, detail=str(error)[:200])
                # Jobs without limits do not wait for the rest.
                if others or time.monotonic() >= until:
                    for job in limited:
                        job.permits = ()
                    return Admitted(others, unsure=limited)
                await pause.wait()
            else:
                return Admitted([*others, *granted.admitted], granted.unsure)

    async def _decided(self, jobs: Sequence[ClaimedJob]) -> Sequence[ClaimedJob]:
        """Note what the claim itself decided; the jobs that it did not hold."""
        held = [(job, job.held_for) for job in jobs if job.held_for is not None]
        for job in jobs:
            if job.permits and not job.rescued:
                self._took(job)
        if not held:
            return jobs
        await self._held(held)
        return [job for job in jobs if job.held_for is None]

    def _comes_under_a_limit(self, job: ClaimedJob) -> bool:
        if job.permits is not None or job.cancel_asked:
            # Its claim granted it, or it was rescued, and a permit stays with its job; or it is not to run.
            return False
        limits = self._queues.settings.settings_of(job.queue) or NO_LIMITS
        if limits.max_running is not None or limits.rate is not None:
            return True
        if job.concurrency_key is None:
            return False
        if self._limit_per_key(job) is not None:
            self._limited_by_type.add(job.queue)
            return True
        return limits.max_running_per_key is not None or limits.rate_per_key is not None

    def _limit_per_key(self, job: ClaimedJob) -> int | None:
        """That of its type."""
        handler = self._registry.get(job.job_type)
        return None if handler is None else handler.policy.max_running_per_key

    async def _grant(self, jobs: list[ClaimedJob], *, handed_over: bool) -> Admitted:
        answers = await self._ask(jobs)
        if any(answer.admitted is None for answer in answers.values()):
            await store.admission.make_permits(self._link, jobs)
            await store.rate_limits.make_rates(self._link, jobs)
            answers |= await self._ask(jobs)
        admitted: list[ClaimedJob] = []
        unsure: list[ClaimedJob] = []
        held: list[tuple[ClaimedJob, str]] = []
        for job in jobs:
            answer = answers.get(job.lease)
            if answer is None:
                continue
            if answer.admitted is None:  # the row was dropped again in between
                unsure.append(job)
            elif answer.admitted:
                job.permits = answer.permits or None
                job.cancel_asked = answer.cancelled
                admitted.append(job)
                self._took(job)
            elif answer.held_for is not None:
                held.append((job, answer.held_for))
        await self._held(held, again=handed_over)
        return Admitted(admitted, unsure)

    def _took(self, job: ClaimedJob) -> None:
        self._queues.permits.took(job.queue)
        self._queues.rates.took(job.queue)

    async def _held(self, held: Sequence[tuple[ClaimedJob, str]], *, again: bool = False) -> None:
        """Note that these jobs were held, and let others make way where their queues have it so."""
        by_limit: list[tuple[ClaimedJob, str]] = []
        for job, held_for in held:
            by_rate = held_for.startswith(RATE)
            record_event("held", job.job_type, "rate" if by_rate else "concurrency")
            self._queues.permits.held(held_for)
            self._on_held(held_for)
            if not by_rate:
                by_limit.append((job, held_for))
        if by_limit:
            await self._reached.act(by_limit, again=again)

    async def _ask(self, jobs: list[ClaimedJob]) -> dict[Lease, store.admission.Answer]:
        limits = [self._limit_per_key(job) for job in jobs]
        return await store.admission.admit(self._link, jobs, key_limits=limits)
