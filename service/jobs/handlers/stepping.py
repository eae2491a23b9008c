"""What a context offers a handler to do its work in steps: see docs/steps.md."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, ParamSpec

from service.jobs.core.outcomes import Suspend
from service.jobs.core.steps import check_event_name, wait_seconds
from service.jobs.handlers import step_calls, step_waits
from service.jobs.handlers.step_calls import StepCall
from service.jobs.handlers.step_record import StepRecord

P = ParamSpec("P")

OpenSteps = Callable[[asyncio.AbstractEventLoop], StepRecord]


class Stepping:
    """The part of `JobContext` that has to do with steps."""

    __slots__ = ("_loop", "_open_steps", "_record")

    def __init__(self, open_steps: OpenSteps) -> None:
        self._loop = asyncio.get_running_loop()
        self._open_steps = open_steps
        self._record: StepRecord | None = None

    @property
    def suspension(self) -> Suspend | None:
        """Set where a step waits, and the attempt is to end with that."""
        return None if self._record is None else self._record.suspension

    def step(
        self, name: str, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Any]:
        """Call a function once for the job, whatever becomes of this attempt.

        `receipt = await ctx.step("charge", charge_card, order)` calls `charge_card(order)` and stores what it
        returns as JSON. In a later attempt, after a failure, a crash or a deploy, the same line returns what
        was stored, without a call. A function that raises stores nothing, and its error goes on.

        At most one result is stored. The function runs again if the process dies between its return and
        the store: what it does elsewhere should take `ctx.job_id` and the name as an idempotency key.

        Args:
            name: of the step, the same in every attempt; 1 to 200 characters.
            function: a coroutine function, or a plain one, which is called in a thread.
            args: what it is called with; not stored.
            kwargs: the same.

        Returns:
            The result as it comes out of JSON, in the first attempt too: a model comes as a dict.

        Raises:
            StepError: this attempt had a step of that name, the result has no JSON form, or the job's steps are
                over `JOB_STEPS` or `JOB_STEP_BYTES`. The job becomes FAILED.
            AttemptStopped: the lease was lost, or the attempt was told to stop: nothing is stored.
            RuntimeError: called in a thread: a plain function calls `step_sync`.
        """
        self._on_the_loop("step")
        return step_calls.run(self._steps(), StepCall(name, function, args, kwargs))

    def step_sync(
        self, name: str, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> Any:
        """The same for handlers that are plain functions: calls a plain function in this thread.

        Raises:
            RuntimeError: called on the event loop, which it would block: `await ctx.step`.
        """
        self._in_a_thread("step")
        return step_calls.run_sync(self._steps(), StepCall(name, function, args, kwargs))

    def sleep(
        self, duration: float | timedelta, *, name: str = "sleep"
    ) -> Coroutine[Any, Any, None]:
        """Wait without a slot: the job goes back to PENDING, and its handler begins again when it is over.

        `await ctx.sleep(3600)` ends this attempt, which is not counted. The next one gets the results of the
        steps before it, and goes on behind this line. The wait begins once for the job: neither a retry nor a
        crash begins it anew.

        Args:
            duration: seconds or a timedelta, up to 366 days; 0 does not wait.
            name: of the step; a second sleep of a handler needs one of its own.

        Raises:
            Suspend: ends the attempt; not an `Exception`: let it pass.
            StepError: the duration or the name breaks a rule.
            RuntimeError: called in a thread: a plain function calls `sleep_sync`.
        """
        self._on_the_loop("sleep")
        seconds = wait_seconds(duration, what="The sleep")
        return step_waits.sleep(self._steps(), name, seconds=seconds)

    def sleep_sync(self, duration: float | timedelta, *, name: str = "sleep") -> None:
        """The same for handlers that are plain functions."""
        self._in_a_thread("sleep")
        seconds, steps = wait_seconds(duration, what="The sleep"), self._steps()
        steps.wait(step_waits.sleep(steps, name, seconds=seconds))

    def sleep_until(self, moment: datetime, *, name: str = "sleep") -> Coroutine[Any, Any, None]:
        """The same until a time with a zone; one that is past does not wait.

        The first attempt that comes here sets the time: another one in a later attempt changes nothing.
        """
        self._on_the_loop("sleep_until")
        return step_waits.sleep(self._steps(), name, until=moment)

    def sleep_until_sync(self, moment: datetime, *, name: str = "sleep") -> None:
        """The same for handlers that are plain functions."""
        self._in_a_thread("sleep_until")
        steps = self._steps()
        steps.wait(step_waits.sleep(steps, name, until=moment))

    def wait_for_event(self, name: str, *, timeout: float | timedelta) -> Coroutine[Any, Any, Any]:
        """Wait without a slot until somebody sends the job an event: `POST /jobs/{id}/events/{name}`.

        `paid = await ctx.wait_for_event("paid", timeout=86_400)` returns the event's data. One that was sent
        before is found; of several under one name the first counts. Else the job goes back to PENDING, and is
        due as soon as the event comes, or the time is over.

        Args:
            name: of the event and of the step: letters, digits or _ . : -
            timeout: seconds or a timedelta, up to 366 days, from the first attempt that comes here.

        Raises:
            EventTimeout: nothing came in time; in every later attempt too. A TimeoutError; a handler that lets
                it pass ends its job FAILED.
            Suspend: ends the attempt; not an `Exception`: let it pass.
            StepError: the name or the timeout breaks a rule.
            RuntimeError: called in a thread: a plain function calls `wait_for_event_sync`.
        """
        self._on_the_loop("wait_for_event")
        seconds = wait_seconds(timeout, what=f"The timeout of event {check_event_name(name)!r}")
        return step_waits.wait_for_event(self._steps(), name, seconds=seconds)

    def wait_for_event_sync(self, name: str, *, timeout: float | timedelta) -> Any:
        """The same for handlers that are plain functions."""
        self._in_a_thread("wait_for_event")
        seconds = wait_seconds(timeout, what=f"The timeout of event {check_event_name(name)!r}")
        steps = self._steps()
        return steps.wait(step_waits.wait_for_event(steps, name, seconds=seconds))

    def _steps(self) -> StepRecord:
        if self._record is None:
            self._record = self._open_steps(self._loop)
        return self._record

    def _on_the_loop(self, name: str) -> None:
        # A coroutine that nobody awaits would do nothing, and no one would notice.
        if loop_here() is not self._loop:
            raise RuntimeError(
                f"ctx.{name} is for `async def` handlers; in a plain function or a thread call "
                f"ctx.{name}_sync(…), without await"
            )

    def _in_a_thread(self, name: str) -> None:
        if loop_here() is not None:
            raise RuntimeError(f"ctx.{name}_sync would block the event loop: await ctx.{name}")


def loop_here() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, if one runs here."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
