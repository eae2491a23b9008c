"""Recording outcomes in batches, each fenced by its lease token."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from service.db.engine import DATABASE_ERRORS, REFUSED_ERRORS, Link
from service.jobs import store
from service.jobs.loops import Pause
from service.jobs.model import JobStatus
from service.jobs.outcomes import (
    SUCCEEDED_EMPTY,
    Ended,
    Failure,
    Outcome,
    Released,
    Retried,
    Snoozed,
    Succeeded,
    clean_text,
)
from service.jobs.runner import Run
from service.jobs.store import ClaimedJob, Lease
from service.observability.logging import get_logger
from service.observability.metrics import observe_batch, record_database_error, record_event
from service.settings import Settings

_log = get_logger(__name__)

Settlement = tuple[Run, Outcome]


class Settler:
    """Gathers outcomes for a few milliseconds and records them with one statement a kind.

    An outcome is kept until the database has answered: while that is away, outcomes wait here, their
    leases go on being extended, and the claimer takes no more jobs than `backlog` allows.
    """

    MAX_BACKLOG_BATCHES: Final = 8
    MAX_STATEMENT_BATCHES: Final = 3
    """What gathered while the last statement ran goes out with one statement, up to so many batches:
    one round trip and one commit for all of it."""

    def __init__(self, settings: Settings, *, link: Link) -> None:
        self._link = link
        self._batch_size = settings.settle_batch_size
        self._delay_seconds = settings.settle_delay_seconds
        self._max_errors = settings.max_error_entries
        self._finishing: list[Settlement] = []
        self._returning: list[Settlement] = []
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.tally: Callable[[Outcome], None] | None = None
        """Told of each outcome that was recorded."""

    @property
    def backlog_full(self) -> bool:
        """Whether so many outcomes wait that no more jobs should be claimed."""
        return self.waiting >= self._batch_size * self.MAX_BACKLOG_BATCHES

    @property
    def waiting(self) -> int:
        """How many outcomes are not recorded yet."""
        return len(self._finishing) + len(self._returning)

    def unsettled(self) -> set[Run]:
        """The runs whose outcome is not recorded yet: their leases must go on."""
        return {run for run, _ in self._finishing} | {run for run, _ in self._returning}

    def settle(self, run: Run, outcome: Outcome | None) -> None:
        """Take what came of a run; returns at once. None: its lease is lost, nothing is recorded."""
        if outcome is None:
            record_event("stale_settle", run.job.job_type, "lease_lost")
            return
        if isinstance(outcome, (Succeeded, Ended)):
            self._finishing.append((run, outcome))
        else:
            self._returning.append((run, outcome))
        self._idle.clear()
        self._some.set()

    async def run(self) -> None:
        """Record outcomes until cancelled."""
        pause = Pause()
        while True:
            await self._some.wait()
            if len(self._finishing) < self._batch_size and self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            self._some.clear()
            while self._finishing or self._returning:
                try:
                    await self._flush_one(self._finishing, store.finish, "settle")
                    await self._flush_one(self._returning, store.requeue, "requeue")
                    pause.reset()
                except DATABASE_ERRORS as error:
                    record_database_error("settle")
                    _log.warning("settle_failed", waiting=self.waiting, error=type(error).__name__)
                    await pause.wait()
            self._idle.set()

    async def flushed(self, timeout_seconds: float) -> bool:
        """Wait until every outcome is recorded; False where the time ran out first."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True

    async def _flush_one(
        self, waiting: list[Settlement], write: store.Settling, operation: str
    ) -> None:
        """Record one batch off the front of `waiting`; it stays there if that fails."""
        batch = waiting[: self._batch_size * self.MAX_STATEMENT_BATCHES]
        if not batch:
            return
        unsure = any(run.settle_tried for run, _ in batch)
        for run, _ in batch:
            run.settle_tried = True
        try:
            lost = await write(self._link, _settled(batch), max_errors=self._max_errors)
        except REFUSED_ERRORS:
            lost = await self._settle_singly(batch, write)
        if lost and unsure:
            # An earlier try may have been carried out, and only its answer been lost.
            lost -= await store.settled_before(self._link, lost)
        del waiting[: len(batch)]
        observe_batch(operation, len(batch))
        self._account(batch, lost)

    async def _settle_singly(self, batch: list[Settlement], write: store.Settling) -> set[Lease]:
        """PostgreSQL refused a value of the batch: find whose, and end that job with the reason."""
        lost: set[Lease] = set()
        for place, settlement in enumerate(batch):
            try:
                lost |= await write(self._link, _settled([settlement]), max_errors=self._max_errors)
            except REFUSED_ERRORS as error:
                run, _ = settlement
                batch[place] = (run, _refused(run, error))
                lost |= await self._settle_refused(batch[place])
        return lost

    async def _settle_refused(self, settlement: Settlement) -> set[Lease]:
        try:
            return await store.finish(
                self._link, _settled([settlement]), max_errors=self._max_errors
            )
        except REFUSED_ERRORS as error:
            # Not even that: its lease will run out, and the others are not held up.
            job = settlement[0].job
            _log.error("outcome_refused", job_id=job.id, error=type(error).__name__)
            return {job.lease}

    def _account(self, batch: list[Settlement], lost: set[Lease]) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        for run, outcome in batch:
            job = run.job
            if lost and job.lease in lost:
                counts["stale_settle", "lease_lost", job.job_type] += 1
                _log.warning(
                    "stale_settle", job_id=job.id, job_type=job.job_type, attempt=job.attempt
                )
                continue
            if outcome is SUCCEEDED_EMPTY:
                counts["succeeded", "ok", job.job_type] += 1
            else:
                counts[(*_event_of(outcome), job.job_type)] += 1
            if self.tally is not None:
                self.tally(outcome)
            if isinstance(outcome, Ended):
                _log.warning(
                    "job_ended",
                    job_id=job.id,
                    job_type=job.job_type,
                    attempt=job.attempt,
                    status=outcome.status.value,
                    why=outcome.reason,
                    error=outcome.failure.type,
                )
        for (event, status, job_type), count in counts.items():
            record_event(event, job_type, status, count)


def _settled(batch: list[Settlement]) -> list[tuple[ClaimedJob, Outcome]]:
    return [(run.job, outcome) for run, outcome in batch]


def _refused(run: Run, error: Exception) -> Ended:
    failure = Failure(
        attempt=run.job.attempt,
        type=type(error).__name__,
        message=clean_text(f"PostgreSQL refused the result: {error}", 500),
        started_at=run.started_at,
    )
    return Ended(JobStatus.FAILED, failure, "bad_result")


def _event_of(outcome: Outcome) -> tuple[str, str]:
    match outcome:
        case Succeeded():
            return "succeeded", "ok"
        case Retried(reason=reason):
            return "retried", reason
        case Snoozed():
            return "snoozed", "ok"
        case Released():
            return "released", "ok"
        case Ended(status=JobStatus.DEAD_LETTER, reason=reason):
            return "dead_lettered", reason
        case Ended(reason=reason):
            return "failed", reason
