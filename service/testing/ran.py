"""What `run_due` ran, and the error that it raises for a job that failed without one of its own."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from service.jobs import Registry
from service.jobs.core.attempt import Attempt
from service.jobs.core.encoding import load_json
from service.jobs.core.failures import Failure
from service.jobs.core.job import JobId
from service.jobs.core.outcomes import Outcome
from service.jobs.handlers.chunk_job import ChunkJob
from service.jobs.handlers.registry import HandlerSpec
from service.jobs.worker.run import Run
from service.testing.keys import plain

ENDS_TEST: Final = (asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit)
"""Errors that would do something else in a test than fail it."""


class JobFailed(Exception):
    """A job failed, and its handler raised nothing: a payload that its model refuses, a timeout."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One attempt of one job.

    `outcome` is `succeeded`, `retried`, `failed`, `dead_lettered`, `snoozed`, `suspended` (a step waits) or `cancelled`.
    """

    id: JobId
    job_type: str
    payload: Any
    """As it was enqueued, encrypted members in plain."""
    attempt: int
    """From 1."""
    outcome: str
    result: Any = None
    """What the handler returned, as JSON."""
    error: BaseException | None = None
    """What it raised."""
    failure: str | None = None
    """Type and message of what failed, as the job's history keeps them."""
    delay_seconds: float | None = None
    """In how long the job is due again, after `retried` and `snoozed`."""

    def raise_error(self) -> None:
        """Raise what the handler raised, or `JobFailed`, if the attempt failed.

        Raises:
            BaseException: that of the handler, with a note that names the job.
            JobFailed: it raised none.
        """
        __tracebackhide__ = True
        if self.failure is None:
            return
        where = f"job {self.id} ({self.job_type}), attempt {self.attempt}: {self.outcome}"
        if self.error is None or isinstance(self.error, ENDS_TEST):
            raise JobFailed(f"{where}: {self.failure}") from self.error
        self.error.add_note(f"In {where}. run_due(raise_errors=False) keeps it.")
        raise self.error


class Recorder:
    """Notes what the handlers of one pass raise, and what is recorded of their attempts."""

    def __init__(self, turn: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """`turn` is what a coroutine function has the connection of the test in."""
        self.ran: list[Ran] = []
        self._error: BaseException | None = None
        self._turn = turn

    def registry(self, specs: Iterable[HandlerSpec]) -> Registry:
        """The same handlers, each of which notes what it raises; all in this process, where fakes are."""
        noting = Registry()
        for spec in specs:
            noting.add(replace(spec, function=self._noting(spec), in_process=False))
        return noting

    def recorded(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """Take an attempt whose outcome was recorded; None: its lease was lost."""
        job = attempt.job
        self.ran.append(
            Ran(
                id=job.id,
                job_type=job.job_type,
                payload=plain(load_json(job.payload), job_type=job.job_type),
                attempt=job.attempt,
                outcome="lease_lost" if outcome is None else outcome.event,
                result=_result_of(outcome),
                error=self._error_of(attempt),
                failure=_words_of(None if outcome is None else outcome.failure),
                delay_seconds=getattr(outcome, "delay_seconds", None),
            )
        )

    def _error_of(self, attempt: Attempt) -> BaseException | None:
        context = attempt.context if isinstance(attempt, Run) else None
        if isinstance(context, ChunkJob):
            return context.outcome.exception() if context.outcome.done() else None
        return self._error

    def _noting(self, spec: HandlerSpec) -> Callable[..., Any]:
        function: Callable[..., Any] = spec.function

        async def call_in_turn(*arguments: Any) -> Any:
            with self._notes_error():
                async with self._turn():
                    return await function(*arguments)

        async def wait_for(value: Any) -> Any:
            with self._notes_error():
                async with self._turn():
                    return await value

        def call(*arguments: Any) -> Any:
            with self._notes_error():
                value = function(*arguments)
            return wait_for(value) if hasattr(value, "__await__") else value

        return call_in_turn if spec.is_async else call

    @contextmanager
    def _notes_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._error = error
            raise


def _result_of(outcome: Outcome | None) -> Any:
    return None if outcome is None or outcome.result is None else load_json(outcome.result)


def _words_of(failure: Failure | None) -> str | None:
    return None if failure is None else f"{failure.type}: {failure.message}"
