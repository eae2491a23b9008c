"""One attempt: the handler, its time-out and cancellation, and what came of it."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from pydantic import ValidationError
from structlog.contextvars import bind_contextvars

from service.db.engine import Link
from service.errors import PayloadError
from service.jobs import store
from service.jobs.backoff import Backoff
from service.jobs.context import JobContext
from service.jobs.encoding import dump_json, load_json
from service.jobs.model import JobStatus
from service.jobs.outcomes import (
    SUCCEEDED_EMPTY,
    Ended,
    Failure,
    Outcome,
    PermanentError,
    Released,
    Retried,
    RetryAfter,
    Snooze,
    Snoozed,
    Succeeded,
)
from service.jobs.registry import HandlerSpec, Registry
from service.jobs.slots import Slots
from service.jobs.store import ClaimedJob
from service.observability.logging import get_logger
from service.observability.metrics import HANDLERS_STUCK, observe_run, observe_start_delay
from service.settings import Settings

STUCK_AFTER_SECONDS: Final = 5.0
"""A handler that still runs so long after it was cancelled is settled over its head."""

_log = get_logger(__name__)


class Stop(StrEnum):
    """Why a handler was cancelled."""

    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"
    """Another claim holds the job now: whatever this run brings is void."""
    LEASE_UNSURE = "lease_unsure"
    """The lease could not be extended in time; it may still hold."""
    SHUTDOWN = "shutdown"


class Settle(Protocol):
    """Takes what came of a run; `outcome` is None where nothing is to be recorded."""

    def __call__(self, run: "Run", outcome: Outcome | None) -> None:
        """Returns at once."""


@dataclass(slots=True, eq=False)
class Run:
    """One attempt under way, from its claim until its outcome is recorded."""

    job: ClaimedJob
    lease_deadline: float
    """Monotonic time at which the lease ends, as far as this process knows."""
    started: float = 0.0
    task: asyncio.Task[None] | None = None
    context: JobContext | None = None
    stop: Stop | None = None
    ended: bool = False
    """Whether the outcome has been handed over."""
    settle_tried: bool = False
    """Whether the outcome was sent to the database before: its answer may have been lost."""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def started_at(self) -> datetime:
        """When the handler began, by this process's clock: for people, never for a decision."""
        return datetime.fromtimestamp(time.time() - (time.monotonic() - self.started), UTC)


class Runner:
    """Runs claimed jobs, each in a task of its own, and hands their outcomes to `settle`."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry,
        slots: Slots,
        settle: Settle,
        link: Link,
        worker_name: str,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._slots = slots
        self._settle = settle
        self._link = link
        self._worker_name = worker_name
        self._default_backoff = Backoff.from_settings(settings)
        self._threads = ThreadPoolExecutor(
            settings.sync_handler_threads, thread_name_prefix="finmind-handler"
        )
        self.runs: set[Run] = set()

    def start(self, run: Run) -> None:
        """Run one claimed job; its slot is taken already."""
        job = run.job
        run.started = time.monotonic()
        self.runs.add(run)
        verdict = self._verdict_before(run)
        if verdict is not None:
            self._end(run, verdict)
            self._free(run)
            return
        observe_start_delay(job.queue, job.late_seconds)
        run.task = asyncio.create_task(self._attempt(run), name=f"job-{job.id}")

    def cancel(self, run: Run, why: Stop) -> None:
        """Tell a handler to stop; if it does not, it is settled over its head after a while."""
        if run.ended or run.stop is not None or run.task is None:
            return
        run.stop = why
        if run.context is not None:
            run.context.cancelled = True
        run.task.cancel()
        loop = asyncio.get_running_loop()
        run.timers.append(loop.call_later(STUCK_AFTER_SECONDS, self._abandon, run))

    async def wait_for_one(self) -> None:
        """Wait until one of the running handlers has ended; returns at once where none runs."""
        tasks = {run.task for run in self.runs if run.task is not None}
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def drain(self, grace_seconds: float) -> None:
        """Let running handlers finish for `grace_seconds`; cancel and release what is left."""
        tasks = {run.task for run in self.runs if run.task is not None}
        if tasks and grace_seconds > 0:
            await asyncio.wait(tasks, timeout=grace_seconds)
        for run in list(self.runs):
            self.cancel(run, Stop.SHUTDOWN)
        tasks = {run.task for run in self.runs if run.task is not None and not run.task.done()}
        if tasks:
            await asyncio.wait(tasks, timeout=min(STUCK_AFTER_SECONDS, 1.0))
        for run in list(self.runs):
            if not run.ended:
                self._abandon(run)
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- one attempt --------------------------------------------------------------------------

    async def _attempt(self, run: Run) -> None:
        job = run.job
        bind_contextvars(job_id=job.id, job_type=job.job_type, attempt=job.attempt)
        spec = self._registry.get(job.job_type)
        assert spec is not None, "claims ask for registered types only"
        timeout = job.timeout_seconds or spec.timeout_seconds or self._settings.default_timeout_seconds
        timer = asyncio.get_running_loop().call_later(timeout, self.cancel, run, Stop.TIMEOUT)
        outcome: Outcome | None
        try:
            value = await self._call(run, spec)
            outcome = self._returned(run, value, timeout)
        except asyncio.CancelledError as error:
            outcome = self._cancelled(run, error, timeout)
        except GeneratorExit:
            raise  # the loop is closing and destroys the task
        except BaseException as error:  # noqa: BLE001 - the handler's edge: SystemExit too
            outcome = self._raised(run, error)
        finally:
            timer.cancel()
        if not run.ended:
            observe_run(job.job_type, time.monotonic() - run.started)
            self._end(run, outcome)
        else:
            HANDLERS_STUCK.dec()
        self._free(run)

    async def _call(self, run: Run, spec: HandlerSpec) -> Any:
        job = run.job
        payload: Any
        if spec.payload_model is not None:
            try:
                payload = spec.payload_model.model_validate_json(job.payload)
            except ValidationError as error:
                raise BadPayload(_first_problems(error)) from None
        else:
            payload = load_json(job.payload)
        arguments = (payload, self._make_context(run, spec)) if spec.takes_context else (payload,)
        if spec.is_async:
            return await spec.function(*arguments)
        call = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, _call_plain, call, spec.function, arguments
        )

    def _make_context(self, run: Run, spec: HandlerSpec) -> JobContext:
        job = run.job

        async def write(progress: str) -> bool:
            return await store.write_progress(self._link, job.id, job.lease_token, progress)

        run.context = JobContext(
            job_id=job.id,
            job_type=job.job_type,
            attempt=job.attempt,
            is_last_attempt=job.attempt > self._max_retries(job, spec),
            lease_token=job.lease_token,
            write=write,
        )
        return run.context

    # -- what came of it ----------------------------------------------------------------------

    def _verdict_before(self, run: Run) -> Outcome | None:
        """The end of a job that lost its lease once too often: it is not run again."""
        job = run.job
        if job.lost_leases == 0:
            return None
        spec = self._registry.get(job.job_type)
        poison = job.lost_leases >= self._settings.max_lost_leases
        if not poison and (spec is None or job.attempt <= self._max_retries(job, spec) + 1):
            return None
        reason = "poison" if poison else "lease_lost"
        times = "once" if job.lost_leases == 1 else f"{job.lost_leases} times in a row"
        failure = Failure(
            event="lease_lost",
            attempt=job.attempt - 1,
            type="LeaseLost",
            message=f"the worker stopped or stalled during this job {times}: it is not run again",
            worker=self._worker_name,
        )
        return Ended(JobStatus.DEAD_LETTER, failure, reason)

    def _returned(self, run: Run, value: Any, timeout: float) -> Outcome | None:
        # Where the handler swallowed its cancellation, a result still counts if the lease holds.
        if run.stop is Stop.LEASE_LOST:
            return None
        if run.stop is Stop.TIMEOUT:
            return self._failed(run, HandlerTimeout(timeout), reason="timeout")
        if value is None:
            return SUCCEEDED_EMPTY
        try:
            text = dump_json(value, what="result", max_bytes=self._settings.max_payload_bytes)
        except PayloadError as error:
            # The work is done; doing it again would give the same result.
            return self._permanent(run, error, reason="bad_result")
        return Succeeded(text)

    def _cancelled(self, run: Run, error: asyncio.CancelledError, timeout: float) -> Outcome | None:
        match run.stop:
            case Stop.TIMEOUT:
                return self._failed(run, HandlerTimeout(timeout), reason="timeout")
            case Stop.LEASE_LOST:
                return None
            case Stop.SHUTDOWN | Stop.LEASE_UNSURE:
                return Released()
            case None:
                return self._failed(run, error, reason="cancelled_itself")

    def _raised(self, run: Run, error: BaseException) -> Outcome | None:
        if run.stop is Stop.LEASE_LOST:
            return None
        if run.stop is Stop.TIMEOUT:
            return self._failed(run, error, reason="timeout")
        match error:
            case Snooze(seconds=seconds):
                return Snoozed(seconds)
            case RetryAfter(seconds=seconds):
                return self._failed(run, error, delay_seconds=seconds, reason="retry_after")
            case PermanentError():
                return self._permanent(run, error, reason="permanent")
            case BadPayload():
                return self._permanent(run, error, reason="bad_payload")
            case _:
                return self._failed(run, error, reason="error")

    def _failed(
        self, run: Run, error: BaseException, *, reason: str, delay_seconds: float | None = None
    ) -> Outcome:
        job = run.job
        spec = self._registry.get(job.job_type)
        assert spec is not None
        failure = self._failure(run, error)
        if job.attempt > self._max_retries(job, spec):
            return Ended(JobStatus.DEAD_LETTER, failure, reason)
        if delay_seconds is None:
            delay_seconds = self._backoff(job, spec).delay_seconds(job.attempt)
        return Retried(delay_seconds, failure, reason)

    def _permanent(self, run: Run, error: BaseException, *, reason: str) -> Outcome:
        return Ended(JobStatus.FAILED, self._failure(run, error), reason)

    def _failure(self, run: Run, error: BaseException) -> Failure:
        return Failure.from_exception(
            error, attempt=run.job.attempt, started_at=run.started_at, worker=self._worker_name
        )

    def _max_retries(self, job: ClaimedJob, spec: HandlerSpec) -> int:
        if job.max_retries is not None:
            return job.max_retries
        if spec.max_retries is not None:
            return spec.max_retries
        return self._settings.default_max_retries

    def _backoff(self, job: ClaimedJob, spec: HandlerSpec) -> Backoff:
        if job.backoff is not None:
            return Backoff.from_json(load_json(job.backoff))
        return spec.backoff or self._default_backoff

    # -- ends ---------------------------------------------------------------------------------

    def _end(self, run: Run, outcome: Outcome | None) -> None:
        run.ended = True
        self._settle(run, outcome)

    def _free(self, run: Run) -> None:
        for timer in run.timers:
            timer.cancel()
        self.runs.discard(run)
        self._slots.release(run.job.queue)

    def _abandon(self, run: Run) -> None:
        """Settle a run whose handler does not stop. It keeps its slot until it ends."""
        if run.ended:
            return
        HANDLERS_STUCK.inc()
        _log.error(
            "handler_stuck",
            job_id=run.job.id,
            job_type=run.job.job_type,
            attempt=run.job.attempt,
            why=run.stop,
        )
        if run.stop is Stop.TIMEOUT:
            self._end(run, self._failed(run, HandlerTimeout(None), reason="timeout"))
        else:
            self._end(run, None if run.stop is Stop.LEASE_LOST else Released())


class HandlerTimeout(Exception):  # noqa: N818 - as TimeoutError, which handlers raise themselves
    """The handler did not end within its time-out."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__(
            "the handler ignored its cancellation after the time-out"
            if seconds is None
            else f"the handler took longer than its time-out of {seconds:g} s"
        )


class BadPayload(Exception):  # noqa: N818 - the name that stands in the history
    """The handler's payload model refused the payload."""


def _first_problems(error: ValidationError) -> str:
    # Where and why, without the values: those may be secret.
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'payload'}: {problem['msg']}"
        for problem in problems[:5]
    )


def _call_plain(
    call: Callable[..., Any], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    try:
        return call(function, *arguments)
    except StopIteration as error:
        # A future cannot carry StopIteration.
        raise RuntimeError("the handler raised StopIteration") from error
