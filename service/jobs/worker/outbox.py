"""Outcomes that wait to be recorded, and are sent in batches that the database can take in time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import asyncpg

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS, REFUSED_ERRORS
from service.jobs import store
from service.jobs.batch_limit import BatchLimit
from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.encoding import MAX_STATEMENT_BYTES, bytes_bound
from service.jobs.core.failures import Failure, clean_text
from service.jobs.core.outcomes import Cancelled, Failed, Outcome
from service.jobs.loops import Pause
from service.observability.logging import get_logger
from service.observability.metrics import observe_batch, record_database_error
from service.settings import Settings

MAX_STATEMENT_BATCHES: Final = 3
"""Outcomes that gathered while the last statement ran are sent together, up to so many batches with one
statement: one round trip and one commit for all of them."""

MAX_TIMEOUTS: Final = 3
"""A job becomes FAILED when its large result was sent alone, and timed out so often, while the database
answered otherwise."""

LARGE_BYTES: Final = 65_536
"""A smaller result is not what takes so long: somebody locks the row, or the disk is stuck."""

TIMED_OUT: Final = (TimeoutError, asyncpg.QueryCanceledError)

_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Settlement:
    """One outcome on its way to the database."""

    run: Attempt
    outcome: Outcome
    size: int
    """Limit on the bytes that recording it moves."""
    tried: bool = False
    """Whether it was sent before: the answer may have been lost."""
    timeouts: int = 0
    """How often it took too long although it was sent alone. From the first on it is sent alone."""


Recorded = Callable[[list[Settlement], set[Lease]], Awaitable[None]]
"""Takes a batch that was recorded, and the leases in it that no longer held."""


class Outbox:
    """Records outcomes with one statement a batch, and keeps each until the database has answered.

    A batch that fails is halved, down to one outcome, so that neither its size nor one value in it
    keeps the others from being recorded.
    """

    def __init__(
        self,
        operation: str,
        settings: Settings,
        *,
        link: Link,
        write: Callable[..., Awaitable[set[Lease]]],
        cancel: Callable[..., Awaitable[set[Lease]]],
        recorded: Recorded,
    ) -> None:
        self._link = link
        self._write = write
        self._cancel = cancel
        self._operation = operation
        self._recorded = recorded
        self._batch_size = settings.settle_batch_size
        self._delay_seconds = settings.settle_delay_seconds
        self._max_errors = settings.max_error_entries
        self._limit = BatchLimit(
            self._batch_size * MAX_STATEMENT_BATCHES,
            seconds=settings.database_command_timeout_seconds,
        )
        self.waiting: list[Settlement] = []
        self.bytes_waiting = 0
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, run: Attempt, outcome: Outcome) -> None:
        """Take one outcome; returns at once."""
        settlement = Settlement(run, outcome, _bytes_of(run.job, outcome))
        self.waiting.append(settlement)
        self.bytes_waiting += settlement.size
        self._idle.clear()
        self._some.set()

    async def flushed(self) -> None:
        """Wait until every outcome is recorded."""
        await self._idle.wait()

    async def run(self) -> None:
        """Record outcomes until cancelled."""
        pause = Pause()
        while True:
            await self._some.wait()
            if len(self.waiting) < self._batch_size and self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            self._some.clear()
            while self.waiting:
                try:
                    await self._flush()
                    pause.reset()
                except DATABASE_ERRORS as error:
                    record_database_error("settle")
                    _log.warning(
                        "settle_failed",
                        operation=self._operation,
                        waiting=len(self.waiting),
                        most=self._limit.rows,
                        error=type(error).__name__,
                    )
                    await pause.wait()
            self._idle.set()

    async def _flush(self) -> None:
        """Record the first batch; it stays where it is if that fails."""
        await self._link.connection()  # failing to connect is not the fault of the batch
        batch = self._next_batch()
        unsure = any(one.tried for one in batch)
        for one in batch:
            one.tried = True
        began = time.monotonic()
        try:
            lost = await self._write(self._link, _settled(batch), max_errors=self._max_errors)
            if lost:
                lost = await self._end_cancelled(batch, lost)
        except DATABASE_ERRORS as error:
            if len(batch) > 1:
                self._limit.failed(len(batch))
                if isinstance(error, REFUSED_ERRORS):
                    return
                raise
            lost = await self._end_instead(batch[0], error)
        else:
            self._limit.succeeded(time.monotonic() - began)
        if lost and unsure:
            # An earlier try may have been carried out, and only its answer been lost.
            lost -= await store.settle.settled_before(self._link, lost)
        for one in batch:
            self.bytes_waiting -= one.size
        if self.waiting[0] is batch[0]:
            del self.waiting[: len(batch)]
        else:
            self.waiting.remove(batch[0])  # it was alone, and had been moved to the end
        observe_batch(self._operation, len(batch))
        await self._recorded(batch, lost)

    def _next_batch(self) -> list[Settlement]:
        batch: list[Settlement] = []
        size = 0
        for one in islice(self.waiting, self._limit.rows):
            size += one.size
            if batch and (size > MAX_STATEMENT_BYTES or one.timeouts):
                break
            batch.append(one)
            if one.timeouts:
                break
        return batch

    async def _end_cancelled(self, batch: list[Settlement], lost: set[Lease]) -> set[Lease]:
        """End those of them whose cancel somebody asked for; the leases that were truly lost."""
        asked = {
            one: Cancelled.in_place_of(one.outcome, one.run.cancel_seen)
            for one in batch
            if one.run.job.lease in lost
        }
        ended = [(one.run.job, outcome) for one, outcome in asked.items()]
        lost = await self._cancel(self._link, ended, max_errors=self._max_errors)
        for one, outcome in asked.items():
            if one.run.job.lease not in lost:
                one.outcome = outcome
        return lost

    async def _end_instead(self, one: Settlement, error: Exception) -> set[Lease]:
        """Make a job FAILED whose outcome, sent alone, is what the database cannot record.

        Raises:
            DATABASE_ERRORS: the outcome may still be recorded, and is tried again.
        """
        lease = one.run.job.lease
        if isinstance(error, TIMED_OUT):
            if await store.settle.settled_before(self._link, [lease]):
                return set()
            # The database answers, so it is this outcome that takes too long: others go first.
            one.timeouts += 1
            self.waiting.append(self.waiting.pop(0))
            if one.timeouts < MAX_TIMEOUTS or _result_bytes(one.outcome) < LARGE_BYTES:
                raise error
        elif not isinstance(error, REFUSED_ERRORS):
            raise error
        ended = _failed_for(one, error)
        try:
            lost = await store.settle.finish(
                self._link, [(one.run.job, ended)], max_errors=self._max_errors
            )
        except REFUSED_ERRORS as refusal:
            # Not even that is recorded. Its lease will end, and the others do not wait.
            _log.error("outcome_refused", job_id=lease[0], error=type(refusal).__name__)
            return {lease}
        one.outcome = ended
        return await self._end_cancelled([one], lost) if lost else lost


def _settled(batch: list[Settlement]) -> list[tuple[ClaimedJob, Outcome]]:
    return [(one.run.job, one.outcome) for one in batch]


def _bytes_of(job: ClaimedJob, outcome: Outcome) -> int:
    size = 0 if outcome.failure is None else outcome.failure.size
    if outcome.ends_job:  # the payload is moved to another partition
        size += bytes_bound(job.payload) + _result_bytes(outcome)
    return size


def _result_bytes(outcome: Outcome) -> int:
    return 0 if outcome.result is None else bytes_bound(outcome.result)


def _failed_for(one: Settlement, error: Exception) -> Failed:
    words = (
        f"The result, {_result_bytes(one.outcome)} bytes, could not be recorded within "
        "DATABASE_COMMAND_TIMEOUT_SECONDS. Store large data elsewhere and return a reference"
        if isinstance(error, TIMED_OUT)
        else f"PostgreSQL refused the result: {error}"
    )
    failure = Failure(
        attempt=one.run.job.attempt,
        type=type(error).__name__,
        message=clean_text(words, 500),
        started_at=one.run.started_at,
    )
    return Failed(failure, "bad_result")
