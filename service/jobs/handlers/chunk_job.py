"""What a handler with `chunk` gets: jobs, each with its payload and its context, each settled by itself."""

import asyncio
from typing import Any, Final, Generic, TypeVar

from structlog.typing import FilteringBoundLogger

from service.jobs.core.outcomes import Snooze
from service.jobs.core.steps import StepError
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.step_record import StepRecord
from service.jobs.handlers.stepping import loop_here

PayloadT = TypeVar("PayloadT")


class ChunkJob(JobContext, Generic[PayloadT]):
    """One job of a chunk, as its handler sees it: `for job in jobs: job.succeed(index(job.payload))`.

    Each is settled by itself, once, and recorded at once, whatever becomes of the chunk. Jobs that are not
    settled when the handler returns succeed without a result; when it raises, they fail with its error.

    Attributes:
        payload: an instance of the type's `payload_model`, plain JSON where it has none.
        settled: whether `succeed`, `fail` or `snooze` was called.
        cancelled: true once the handler should skip the job: somebody cancelled it, its timeout is over or its
            lease is lost. The handler goes on for the others, and is cancelled when no job is left.
    """

    __slots__ = ("outcome", "payload", "settled")

    def __init__(self, *, payload: PayloadT, **context: Any) -> None:
        super().__init__(**context)
        self.payload: Final = payload
        self.settled = False
        self.outcome: asyncio.Future[Any] = self._loop.create_future()
        """The result or the error that the job was settled with; the worker waits for it."""

    def succeed(self, result: Any = None) -> None:
        """End the job with SUCCESS, in coroutines and in threads; returns at once.

        Args:
            result: JSON, or what pydantic can turn into it. Another value makes the job FAILED, as in any handler.

        Raises:
            RuntimeError: the job is settled already.
        """
        self._settle(result, None)

    def fail(self, error: BaseException) -> None:
        """Fail this attempt of the job as if a handler of its own had raised `error`.

        The job is retried by its own rule, and DEAD_LETTER after the last attempt. `PermanentError`, `RetryAfter`
        and `Snooze` mean what they mean when they are raised.

        Raises:
            RuntimeError: the job is settled already.
            TypeError: that is no exception.
        """
        given: object = error
        if not isinstance(given, BaseException):
            raise TypeError(
                f"job.fail takes the exception that the job failed with, not {type(given).__name__}:"
                " job.fail(RuntimeError(message))"
            )
        self._settle(None, error)

    def snooze(self, seconds: float) -> None:
        """Have the job run again in `seconds`; no attempt is used.

        Raises:
            RuntimeError: the job is settled already.
        """
        self._settle(None, Snooze(seconds))

    @property
    def logger(self) -> FilteringBoundLogger:
        """A logger of the service's own log; job id, type and attempt are on every line of it."""
        return super().logger.bind(
            job_id=self.job_id, job_type=self.job_type, attempt=self.attempt
        )  # fmt: skip

    def wait_again(self) -> None:
        """Replace the outcome where cancelling the task that waits for it has cancelled it as well."""
        if self.outcome.cancelled():
            self.outcome = self._loop.create_future()

    def end(self, error: BaseException | None) -> None:
        """Settle the job when the handler has ended, unless it is settled; called by the worker."""
        if not self.settled:
            self.settled = True
            self._set_outcome(None, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.settled:
            raise RuntimeError(
                f"Job {self.job_id} is settled already: succeed, fail or snooze end a job once, and the end of"
                " the handler settles the jobs that are left"
            )
        self.settled = True
        if loop_here() is self._loop:
            self._set_outcome(result, error)
        else:
            self._loop.call_soon_threadsafe(self._set_outcome, result, error)

    def _set_outcome(self, result: Any, error: BaseException | None) -> None:
        self.wait_again()
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(result)
        else:
            self.outcome.set_exception(_carried(error))

    def _steps(self) -> StepRecord:
        raise StepError(
            f"Job {self.job_id} runs in a chunk, which has no steps and no waits: register a handler of"
            f" {self.job_type!r} without chunk for them, or enqueue a job for each step"
        )


def _carried(error: BaseException) -> BaseException:
    """An error that a future can carry: these two would end the coroutine that waits for it."""
    if isinstance(error, StopIteration | GeneratorExit):
        carried = RuntimeError(f"{type(error).__name__}: {error}")
        return carried.with_traceback(error.__traceback__)
    return error
