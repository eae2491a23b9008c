"""Steps of handlers, stored for many jobs with one statement."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS, REFUSED_ERRORS
from service.jobs import store
from service.jobs.core.claimed_job import Lease
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.core.job import JobId
from service.jobs.core.steps import AttemptStopped, NewStep, StepError, StoredStep
from service.jobs.loops import Pause
from service.jobs.notify.changes import Changes
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event

MAX_BATCH: Final = 500

T = TypeVar("T")

_log = get_logger(__name__)


class _Waiting:
    """A step on its way to the database, and who waits until it is stored."""

    def __init__(self, step: NewStep) -> None:
        self.step = step
        self.stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class StepWriter:
    """Stores steps in batches; while one statement runs, the next batch gathers.

    The work of a step is done when it comes here: while the database does not answer it is tried again,
    for as long as its attempt may run.
    """

    def __init__(self, link: Link, changes: Changes) -> None:
        self._link = link
        self._changes = changes
        self._waiting: list[_Waiting] = []
        self._some = asyncio.Event()
        self._stopped = False

    async def read(self, job_id: JobId) -> dict[str, StoredStep]:
        """The steps that a job has stored, by name; waits for a database that is away."""
        return await _until_answered("read", lambda: store.steps.of_job(self._link, job_id))

    async def end_wait(self, lease: Lease, name: str) -> StoredStep | None:
        """End a wait for an event, if it has come or its time is over; waits for a database that is away."""
        return await _until_answered(
            "end_wait", lambda: store.steps.end_wait(self._link, lease, name)
        )

    async def store(self, step: NewStep) -> bool:
        """Store one step; returns once that is committed. False: the job has one of that name, which stays.

        Raises:
            AttemptStopped: its lease is lost, or the worker stops: nothing is stored.
            StepError: PostgreSQL refuses the result.
        """
        if self._stopped:
            raise AttemptStopped("The worker stops")
        waiting = _Waiting(step)
        self._waiting.append(waiting)
        self._some.set()
        return await waiting.stored

    async def run(self) -> None:
        """Store until cancelled; what waits then is not stored."""
        batch: list[_Waiting] = []
        self._stopped = False
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                while batch := self._next_batch():
                    await self._write(batch)
                    self._changes.happened()
        finally:
            self._stopped = True
            for one in (*batch, *self._waiting):
                _refuse(one, AttemptStopped("The worker stops"))
            self._waiting.clear()

    def _next_batch(self) -> list[_Waiting]:
        size = taken = 0
        for one in self._waiting[:MAX_BATCH]:
            size += one.step.size
            if taken and size > MAX_STATEMENT_BYTES:
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        pause = Pause()
        while wanted := [one for one in batch if not one.stored.done()]:
            try:
                held = await store.steps.store(self._link, [one.step for one in wanted])
            except REFUSED_ERRORS as error:
                await self._refused(wanted, error)
            except DATABASE_ERRORS as error:
                _failed("store", error, jobs=len(wanted))
                await pause.wait()
            else:
                _answer(wanted, held)

    async def _refused(self, batch: list[_Waiting], error: Exception) -> None:
        """Narrow a refusal down to the step that it is meant for."""
        if len(batch) > 1:
            for one in batch:
                await self._write([one])
        else:
            name = batch[0].step.name
            _refuse(batch[0], StepError(f"PostgreSQL refused the result of step {name!r}: {error}"))


async def _until_answered(what: str, ask: Callable[[], Awaitable[T]]) -> T:
    pause = Pause()
    while True:
        try:
            return await ask()
        except DATABASE_ERRORS as error:
            _failed(what, error, jobs=1)
            await pause.wait()


def _answer(batch: list[_Waiting], held: dict[tuple[Lease, str], bool]) -> None:
    for one in batch:
        is_new = held.get((one.step.lease, one.step.name))
        if is_new is None:
            # Here, not where it is waited for: a handler may be cancelled while it waits.
            record_event("stale_step", one.step.job_type, "lease_lost")
            _refuse(one, AttemptStopped("The lease is lost: another worker may run the job"))
        elif not one.stored.done():
            one.stored.set_result(is_new)


def _refuse(waiting: _Waiting, error: Exception) -> None:
    if not waiting.stored.done():
        waiting.stored.set_exception(error)


def _failed(what: str, error: BaseException, *, jobs: int) -> None:
    record_database_error("steps")
    _log.warning("steps_failed", operation=what, jobs=jobs, error=type(error).__name__)
