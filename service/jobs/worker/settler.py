"""Recording outcomes in batches, each fenced by its lease token."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import Lease
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.core.lane import Lane
from service.jobs.core.outcomes import Outcome
from service.jobs.flow.unique_turns import start_next
from service.jobs.loops import Loop
from service.jobs.notify.changes import Changes
from service.jobs.notify.publisher import publish_over
from service.jobs.worker.outbox import Outbox, Settlement
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event
from service.settings import Settings

_log = get_logger(__name__)


class Settler:
    """Gathers outcomes for a few milliseconds and records them in batches.

    An outcome is kept until the database has answered. While the database is away, outcomes wait
    here, their leases are extended, and nothing is claimed once `backlog_full`. Jobs that go back to
    PENDING do not wait behind those that end: each kind has its own statement and connection.
    """

    MAX_BACKLOG_BATCHES: Final = 8
    MAX_BACKLOG_BYTES: Final = 16 * MAX_STATEMENT_BYTES

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        requeue_link: Link,
        changes: Changes,
        told: Callable[[], None] | None = None,
    ) -> None:
        self._max_backlog = settings.settle_batch_size * self.MAX_BACKLOG_BATCHES
        self._max_errors = settings.max_error_entries
        self._requeue_link = requeue_link
        self._changes = changes
        cancel = partial(store.cancel.end, told=told)
        self._ends = Outbox(
            "settle",
            settings,
            link=link,
            write=partial(store.settle.finish, told=told),
            cancel=cancel,
            recorded=self._recorded,
        )
        self._returns = Outbox(
            "requeue",
            settings,
            link=requeue_link,
            write=store.settle.requeue,
            cancel=cancel,
            recorded=self._recorded,
        )
        self.loops: Final = (
            Loop("settler", self._ends.run),
            Loop("requeuer", self._returns.run),
        )
        self.on_permits_freed: Callable[[Counter[str]], None] | None = None
        """Called with how many permits of each limit came free."""
        self.tally: Callable[[Outcome], None] | None = None
        """Called with each outcome that was recorded."""
        self.answer: Callable[[Attempt, Outcome | None], None] | None = None
        """Called with each attempt and what was recorded of it; None: its lease was lost."""

    @property
    def backlog_full(self) -> bool:
        """Whether so many outcomes wait, or such large ones, that no more jobs should be claimed."""
        size = self._ends.bytes_waiting + self._returns.bytes_waiting
        return self.waiting >= self._max_backlog or size >= self.MAX_BACKLOG_BYTES

    @property
    def waiting(self) -> int:
        """How many outcomes are not recorded yet."""
        return len(self._ends.waiting) + len(self._returns.waiting)

    def unsettled(self) -> set[Attempt]:
        """The runs whose outcome is not recorded yet: their leases must go on."""
        return {one.run for one in (*self._ends.waiting, *self._returns.waiting)}

    def settle(self, run: Attempt, outcome: Outcome | None) -> None:
        """Take the outcome of a run; returns at once. None: its lease is lost, nothing is recorded."""
        if outcome is None:
            record_event("stale_settle", run.job.job_type, "lease_lost")
        elif outcome.ends_job:
            self._ends.put(run, outcome)
        else:
            self._returns.put(run, outcome)

    async def flushed(self, timeout_seconds: float) -> bool:
        """Wait until every outcome is recorded; False where the time ran out first."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._ends.flushed()
                await self._returns.flushed()
        except TimeoutError:
            return False
        return True

    async def _recorded(self, batch: list[Settlement], lost: set[Lease]) -> None:
        if self.answer is not None:
            for one in batch:
                self.answer(one.run, None if one.run.job.lease in lost else one.outcome)
        await self._account(batch, lost)

    async def _account(self, batch: list[Settlement], lost: set[Lease]) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        announced: set[Lane] = set()
        freed: Counter[str] = Counter()
        for one in batch:
            job, outcome = one.run.job, one.outcome
            if lost and job.lease in lost:
                counts["stale_settle", "lease_lost", job.job_type] += 1
                _log.warning(
                    "stale_settle", job_id=job.id, job_type=job.job_type, attempt=job.attempt
                )
                continue
            counts[outcome.event, outcome.reason, job.job_type] += 1
            if job.permits:
                freed.update(job.permits)
            if self.tally is not None:
                self.tally(outcome)
            if outcome.is_announced:
                announced.add(Lane(job.queue, job.priority))
            if outcome.ends_job and outcome.failure is not None:
                _log.warning(
                    "job_ended",
                    job_id=job.id,
                    job_type=job.job_type,
                    attempt=job.attempt,
                    status=outcome.status.value,
                    why=outcome.reason,
                    error=outcome.failure.type,
                )
        for (event, reason, job_type), count in counts.items():
            record_event(event, job_type, reason, count)
        self._changes.happened(one.run.job.id for one in batch)
        if freed and self.on_permits_freed is not None:
            self.on_permits_freed(freed)
        announced |= await self._start_next(batch, lost)
        if announced:
            await self._announce(announced)

    async def _start_next(self, batch: list[Settlement], lost: set[Lease]) -> set[Lane]:
        """Let the jobs go that waited for these because of their unique keys: their lanes."""
        settled = [
            one
            for one in batch
            if one.run.job.unique_until_start is not None and one.run.job.lease not in lost
        ]
        if not settled:
            return set()
        return await start_next(
            self._requeue_link,
            {one.run.job.unique_until_start or "" for one in settled},
            supersede=not all(one.outcome.ends_job for one in settled),
            max_errors=self._max_errors,
        )

    async def _announce(self, lanes: set[Lane]) -> None:
        try:
            await publish_over(self._requeue_link, lanes)
        except DATABASE_ERRORS as error:
            record_database_error("notify")
            _log.warning("notify_failed", error=type(error).__name__)
