"""Runs attempts: each handler in a task of its own, with its timeout and its cancellation."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from service.db.connection import Link
from service.jobs.core.attempt import Stop, TooLate
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.elsewhere import EncodedResult
from service.jobs.core.histogram import timing_of
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.outcomes import Cancelled, HowCancelled, Outcome, Released
from service.jobs.core.poison import PoisonPolicy
from service.jobs.flow.unique_turns import give_up_key
from service.jobs.handlers.parents import ParentReader
from service.jobs.handlers.registry import Registry
from service.jobs.handlers.step_record import StepAccess, StepLimits
from service.jobs.worker import lease_clock
from service.jobs.worker.chunks import Chunks
from service.jobs.worker.contexts import Contexts
from service.jobs.worker.handler_process.pool import HandlerProcesses
from service.jobs.worker.handler_process.starting import in_process_run
from service.jobs.worker.handler_threads import HandlerThreads
from service.jobs.worker.log_lines import LogLines
from service.jobs.worker.progress import ProgressWriter
from service.jobs.worker.run import Run
from service.jobs.worker.slots import Slots
from service.jobs.worker.step_writer import StepWriter
from service.jobs.worker.timeouts import Timeouts
from service.observability.logging import JOB_FIELDS, get_logger
from service.observability.metrics import (
    HANDLERS_STUCK,
    observe_run,
    observe_start_delay,
)
from service.settings import Settings

STUCK_AFTER_SECONDS: Final = 5.0
"""How long a cancelled handler may run on, before its outcome is recorded without waiting for it."""

LEASE_MARGIN: Final = 0.1
"""Share of the lease that is left when handlers are cancelled for want of a heartbeat."""

HEARTBEAT_RETRY_SECONDS: Final = 0.5
"""Pause between heartbeats while the database does not answer; one may hang for so long at least."""

LAST_WORDS_SECONDS: Final = 1.0
"""How long handlers that were cancelled at shutdown may take to clean up."""

_log = get_logger(__name__)


class Executor:
    """Runs claimed jobs, each in a task of its own, and hands their outcomes to `settle`."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry,
        slots: Slots,
        settle: Callable[[Run, Outcome | None], None],
        progress: ProgressWriter,
        log_lines: LogLines,
        parents: ParentReader,
        steps: StepWriter,
        keys_link: Link,
        worker_name: str,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._keys_link = keys_link
        # A heartbeat that began before the run may take so long to fail, and extends no lease of it.
        self._least_lease_seconds = (
            max(settings.heartbeat_seconds, HEARTBEAT_RETRY_SECONDS)
            + settings.lease_seconds * LEASE_MARGIN
        )
        self._cancel_grace_seconds = settings.cancel_grace_seconds
        self._slots = slots
        self._settle = settle
        self._policy = OutcomePolicy(settings, worker_name=worker_name)
        self._poison = PoisonPolicy(settings, worker_name=worker_name)
        self._threads = HandlerThreads(settings.sync_handler_threads)
        self._chunks = Chunks(self._threads, slots=slots, begin=self._begin_in_chunk)
        self.processes: Final = HandlerProcesses(settings)
        """Those of handlers that compute."""
        self._contexts = Contexts(
            settings,
            policy=self._policy,
            progress=progress,
            log_lines=log_lines,
            parents=parents,
            steps=StepAccess(
                StepLimits.from_settings(settings),
                steps.read,
                steps.store,
                steps.end_wait,
                self._threads.call,
            ),
        )
        self.runs: set[Run] = set()
        """Handlers that have not ended, whether or not their outcome was recorded."""
        self._one_ended = asyncio.Event()
        self._timeouts = Timeouts(self.runs, lambda run: self.cancel(run, Stop.TIMEOUT))

    def start(self, job: ClaimedJob, *, lease_deadline: float) -> None:
        """Run one claimed job; its slot is taken already."""
        run = self._run(job, lease_deadline)
        self.runs.add(run)
        unfit = self._unfit(run)
        if unfit is not None:
            self._end(run, unfit)
            self._free(run)
            return
        if run.handler.chunk is None:  # else it waits for others first
            observe_start_delay(job.queue, job.late_seconds)
        # Not by create_task: the same task for a third less time, tens of thousands of times a
        # second.
        loop = asyncio.get_running_loop()
        run.task = asyncio.Task(self._attempt(run), loop=loop, name=f"job-{job.id}")

    def give_back(self, job: ClaimedJob, *, lease_deadline: float) -> Run:
        """Put back one claimed job that has no slot; its attempt does not count."""
        run = self._run(job, lease_deadline)
        # One that is to come back apart from others is put off now: the next claim would not know.
        self._end(run, self._unfit(run) or Released())
        return run

    def cancel(self, run: Run, why: Stop) -> None:
        """Stop a handler; one that runs on is not waited for after `STUCK_AFTER_SECONDS`.

        After `CANCEL_GRACE_SECONDS` where somebody asked for the job's cancel.
        """
        asked = why is Stop.CANCELLED
        if asked and not run.ended and run.cancel_seen is None:
            run.cancel_seen = time.monotonic()
        if run.stop is not None or run.task is None:
            return
        if run.ended:
            if run.handler.chunk is not None and why in (Stop.TIMEOUT, Stop.SHUTDOWN):
                run.stop = why
                self._chunks.stopped(run)
            return
        run.stop = why
        if run.context is not None:
            run.context.cancelled = True
        loop = asyncio.get_running_loop()
        # Not at once: a task that is cancelled before its first step never takes one, and its slot
        # would not come back.
        loop.call_soon(run.task.cancel)
        grace = self._cancel_grace_seconds if asked else STUCK_AFTER_SECONDS
        if run.handler.in_process:
            grace += STUCK_AFTER_SECONDS  # first it is killed, which it cannot ignore
        run.abandon_timer = loop.call_later(grace, self._abandon, run)

    @property
    def unfinished(self) -> bool:
        """Whether a run has no outcome yet, or the handler of a chunk has not ended."""
        return any(run.unfinished for run in self.runs)

    async def wait_for_one(self) -> None:
        """Wait until a handler ends, or is given up. Returns at once where none runs."""
        self._one_ended.clear()
        if self.unfinished:
            self._chunks.hurry()
            await self._one_ended.wait()

    async def drain(self, grace_seconds: float) -> None:
        """Let running handlers finish for `grace_seconds`; cancel and release what is left.

        Chunks that fill start at once: no more jobs come.
        """
        self._chunks.close()
        tasks = self._tasks()
        if tasks and grace_seconds > 0:
            await asyncio.wait(tasks, timeout=grace_seconds)
        for run in list(self.runs):
            self.cancel(run, Stop.SHUTDOWN)
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_SECONDS)
        for run in list(self.runs):
            self._abandon(run)
        self._timeouts.close()
        self._threads.close()
        await self.processes.close()

    def _run(self, job: ClaimedJob, lease_deadline: float) -> Run:
        handler = self._registry.get(job.job_type)
        assert handler is not None, "claims ask for registered types only"
        return Run(job, handler.policy, time.monotonic(), handler, lease_deadline)

    def _unfit(self, run: Run) -> Outcome | None:
        """The outcome of a job that must not start; None where it may."""
        if run.job.cancel_asked:
            return Cancelled(HowCancelled.NOT_STARTED)
        return self._poison.unfit(run)

    # -- one attempt --------------------------------------------------------------------------

    async def _attempt(self, run: Run) -> None:
        JOB_FIELDS.set(run.job)
        try:
            try:
                outcome = await self._outcome(run)
            except Exception as error:
                # The row holds a value that no code expects.
                outcome = self._policy.broken(run, error)
            seconds = time.monotonic() - run.started
            observe_run(run.job.job_type, seconds)
            if run.stuck:
                HANDLERS_STUCK.dec()
            if not run.ended:
                run.job.timing = timing_of(run.job.late_seconds, seconds)
                self._end(run, outcome)
            if run.handler.chunk is not None:
                await self._chunks.ended(run)
        finally:
            self._free(run)

    async def _outcome(self, run: Run) -> Outcome | None:
        try:
            arguments = () if run.handler.in_process else self._contexts.arguments(run)
            if run.job.unique_until_start is not None:
                await give_up_key(self._keys_link, run.job)
            if run.handler.chunk is not None:
                value = await self._chunks.join(run, *arguments)
            elif run.handler.in_process:
                value = await self._in_process(run)
            elif run.handler.is_async:
                self._begin(run)
                value = await run.handler.function(*arguments)
            else:
                # Waiting for a thread does not count: the timeout begins with the call.
                value = await self._threads.call(
                    run.handler.function, arguments, begin=partial(self._begin, run)
                )
            if value is not None and hasattr(value, "__await__"):
                value = await value  # of a plain decorator around a coroutine function
            if run.context is not None and run.context.suspension is not None:
                # The handler caught it, as a bare `except` does: its steps wait all the same.
                return self._policy.raised(run, run.context.suspension, run.stop)
            return self._policy.returned(run, value, run.stop)
        except asyncio.CancelledError as error:
            return self._policy.cancelled(run, error, run.stop)
        except BaseException as error:
            return self._policy.raised(run, error, run.stop)

    async def _in_process(self, run: Run) -> EncodedResult | None:
        run.context = self._contexts.context(run)
        job = in_process_run(
            run.job,
            run.handler,
            is_last_attempt=run.context.is_last_attempt,
            captures_logging=run.policy.captures_logging(self._settings),
        )
        return await self.processes.call(
            job,
            run.context,
            begin=partial(self._begin, run),
            grace_seconds=lambda: self._cancel_grace_seconds if run.stop is Stop.CANCELLED else 0.0,
        )

    def _begin(self, run: Run) -> None:
        """Set the timeout of a handler that begins now.

        Raises:
            TooLate: it must not begin. Where the process stood still since the claim, another
                worker may run the job by now, or before the next heartbeat.
        """
        lease_left = run.lease_deadline - lease_clock.now()
        if run.stop is not None or lease_left < self._least_lease_seconds:
            raise TooLate
        run.timeout_at = time.monotonic() + self._policy.timeout_seconds(run)
        self._timeouts.watch(run)

    def _begin_in_chunk(self, run: Run) -> None:
        """The same for a job that has waited for others since its claim: it starts now.

        Raises:
            TooLate: it must not begin.
        """
        self._begin(run)
        now = time.monotonic()
        run.job.late_seconds += now - run.started
        run.started = now
        observe_start_delay(run.job.queue, run.job.late_seconds)

    # -- its end ------------------------------------------------------------------------------

    def _end(self, run: Run, outcome: Outcome | None) -> None:
        run.ended = True
        self._one_ended.set()
        self._settle(run, outcome)

    def _free(self, run: Run) -> None:
        if run.abandon_timer is not None:
            run.abandon_timer.cancel()
        self.runs.discard(run)
        self._one_ended.set()
        self._slots.release(run.job.queue)

    def _abandon(self, run: Run) -> None:
        """Record a run whose handler does not stop. It keeps its slot until it ends."""
        if run.ended:
            return
        if not self._chunks.go_on_without(run):
            run.stuck = True
            HANDLERS_STUCK.inc()
            _log.error(
                "handler_stuck",
                job_id=run.job.id,
                job_type=run.job.job_type,
                attempt=run.job.attempt,
                why=run.stop,
            )
        run.job.timing = timing_of(run.job.late_seconds, time.monotonic() - run.started)
        self._end(run, self._policy.stuck(run, run.stop))

    def _tasks(self) -> set[asyncio.Task[None]]:
        """The tasks of runs that have no outcome yet, or are in a chunk whose handler goes on."""
        return {run.task for run in self.runs if run.task is not None and run.unfinished}
