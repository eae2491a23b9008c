"""The steps of one attempt: what was stored before it, and what it adds."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from service.errors import PayloadError
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.encoding import dump_json, load_json
from service.jobs.core.job import JobId
from service.jobs.core.steps import (
    AttemptStopped,
    NewStep,
    StepError,
    StepKind,
    StoredStep,
    check_name,
    size_of,
)
from service.jobs.handlers.registry import is_async
from service.settings import Settings

KEEP_SECONDS: Final = 0.8
"""How long an attempt that is stopped goes on to store what a step has returned: less than a worker
that shuts down waits for its handlers."""

LOOK_SECONDS: Final = 1.0
"""How often a thread that waits for the database looks whether its attempt was stopped."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a job may keep of its steps."""

    steps: int
    bytes: int
    """Of all its results."""
    result_bytes: int
    """Of one."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The limits that the settings set."""
        return cls(settings.job_steps, settings.job_step_bytes, settings.max_payload_bytes)


@dataclass(frozen=True, slots=True)
class StepAccess:
    """What steps need of the worker."""

    limits: StepLimits
    read: Callable[[JobId], Coroutine[Any, Any, dict[str, StoredStep]]]
    store: Callable[[NewStep], Coroutine[Any, Any, bool]]
    """False: there is one of that name, which stays. Raises AttemptStopped where the lease is lost."""
    call: Callable[..., Coroutine[Any, Any, Any]]
    """Calls a plain function in a thread: see `HandlerThreads.call`."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A function and its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.function(*self.args, **self.kwargs)


class JobSteps:
    """The steps of one attempt. The first use reads what the job has stored; each new one writes.

    Args:
        job: the job, under its lease.
        access: what they need of the worker.
        loop: the event loop of the worker.
        stopped: whether the attempt was told to stop.
    """

    def __init__(
        self,
        job: ClaimedJob,
        access: StepAccess,
        *,
        loop: asyncio.AbstractEventLoop,
        stopped: Callable[[], bool],
    ) -> None:
        self._job = job
        self._access = access
        self._loop = loop
        self._stopped = stopped
        self._taken: set[str] = set()
        self._names_lock = threading.Lock()  # plain handlers may have threads of their own
        self._stored: dict[str, StoredStep] | None = None
        self._reading = asyncio.Lock()
        self._bytes = 0

    # -- coroutines ---------------------------------------------------------------------------

    async def step(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """The stored result of the step, else what the function returns, once that is stored."""
        call = self._begin(name, function, args, kwargs)
        try:
            return await self._step(name, call)
        except BaseException:
            self._taken.discard(name)  # nothing is stored: it may be tried again
            raise

    async def _step(self, name: str, call: _Call) -> Any:
        if (known := await self._find(name, StepKind.CALL)) is not None:
            return _value(known.result)
        began = time.monotonic()
        if is_async(call.function):
            return await self._keep(name, await call(), began)
        value, cancelled = await self._in_thread(call)
        if hasattr(value, "__await__"):
            value = await value  # of a plain function around a coroutine function
        kept = self._keep(name, value, began)
        if cancelled is None:
            return await kept
        # The function has run to its end: the next attempt shall not call it again.
        await _to_its_end(asyncio.ensure_future(kept))
        raise cancelled

    async def _in_thread(self, call: _Call) -> tuple[Any, asyncio.CancelledError | None]:
        """What the function returned, and whether the attempt was cancelled meanwhile.

        A thread cannot be stopped: it is waited for.
        """
        begun = False

        def begin() -> None:
            nonlocal begun
            if self._stopped():
                raise AttemptStopped("The attempt was stopped before its step could begin")
            begun = True

        calling = asyncio.ensure_future(self._access.call(call, (), begin=begin))
        try:
            return await asyncio.shield(calling), None
        except asyncio.CancelledError as error:
            if not begun:
                calling.cancel()
                raise
            await asyncio.wait({calling})
            if calling.exception() is not None or hasattr(calling.result(), "__await__"):
                raise
            return calling.result(), error

    async def _keep(self, name: str, value: Any, began: float) -> Any:
        """Store a result, also where the attempt is cancelled meanwhile; what a replay will get of it."""
        text = self._encoded(name, value)
        storing = asyncio.ensure_future(self._store(name, text, began))
        try:
            return _value(await asyncio.shield(storing))
        except asyncio.CancelledError:
            await _to_its_end(storing)
            raise

    # -- threads ------------------------------------------------------------------------------

    def step_sync(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """The same in a thread, which it holds."""
        call = self._begin(name, function, args, kwargs)
        try:
            return self._step_sync(name, call)
        except BaseException:
            self._taken.discard(name)
            raise

    def _step_sync(self, name: str, call: _Call) -> Any:
        if (known := self._wait(self._find(name, StepKind.CALL))) is not None:
            return _value(known.result)
        began = time.monotonic()
        value = call()
        if hasattr(value, "__await__"):
            _close(value)
            raise StepError(
                f"The function of step {name!r} is a coroutine function: make the handler an"
                " `async def` and await ctx.step"
            )
        return _value(self._wait(self._store(name, self._encoded(name, value), began)))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait in a thread for what is done on the event loop, unless the attempt is stopped."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return future.result(LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    return future.result()
                if self._stopped():
                    future.cancel()
                    raise AttemptStopped("The attempt was stopped") from None

    # -- both ---------------------------------------------------------------------------------

    def _begin(self, name: str, function: object, args: tuple[Any, ...], kwargs: Any) -> _Call:
        if not callable(function):
            _close(function)
            raise StepError(
                f"Step {name!r:.100} takes a function and its arguments, not {type(function).__name__}:"
                f" ctx.step({name!r:.100}, charge, order), not ctx.step({name!r:.100}, charge(order))"
            )
        self._take(name)
        return _Call(function, args, kwargs)

    def _take(self, name: str) -> None:
        check_name(name)
        with self._names_lock:
            if name in self._taken:
                raise StepError(
                    f"This attempt has had a step {name!r}: each step of a job needs a name of its own,"
                    ' such as f"send:{customer}" in a loop'
                )
            self._taken.add(name)

    async def _find(self, name: str, kind: StepKind) -> StoredStep | None:
        stored = await self._all_stored()
        known = stored.get(name)
        if known is None:
            if len(stored) >= self._access.limits.steps:
                raise StepError(
                    f"The job has {len(stored)} steps; at most {self._access.limits.steps} are allowed"
                    " (JOB_STEPS): put several things into one step, or enqueue a job for each"
                )
        elif known.kind != kind:
            raise StepError(
                f"Step {name!r} of this job was stored by `{known.kind}`, and is asked for by `{kind}`:"
                " give a step that changes its kind a new name"
            )
        return known

    async def _all_stored(self) -> dict[str, StoredStep]:
        async with self._reading:
            if self._stored is None:
                self._stored = await self._access.read(self._job.id)
                self._bytes = sum(step.size for step in self._stored.values())
            return self._stored

    def _encoded(self, name: str, value: Any) -> str | None:
        if value is None:
            return None
        limits = self._access.limits
        try:
            text = dump_json(value, what=f"result of step {name!r}", max_bytes=limits.result_bytes)
        except PayloadError as error:
            raise StepError(error.detail) from None
        self._bytes += size_of(text)
        if self._bytes > limits.bytes:
            raise StepError(
                f"The results of the job's steps take more than {limits.bytes} bytes (JOB_STEP_BYTES)"
                f" with that of {name!r}: store large data elsewhere and return a reference"
            )
        return text

    async def _store(self, name: str, text: str | None, began: float) -> str | None:
        """Store a result; what is stored."""
        step = NewStep(
            lease=self._job.lease,
            job_type=self._job.job_type,
            name=name,
            kind=StepKind.CALL,
            attempt=self._job.attempt,
            seconds=time.monotonic() - began,
            result=text,
        )
        stored = await self._all_stored()
        if await self._access.store(step):
            stored[name] = StoredStep(step.kind, text)
        else:  # by an earlier try of this attempt, which was cancelled while it was stored
            stored |= await self._access.read(self._job.id)
        return stored[name].result


async def _to_its_end(storing: asyncio.Future[Any]) -> None:
    """Wait a moment for a result that is being stored, whatever comes of it."""
    await asyncio.wait({storing}, timeout=KEEP_SECONDS)
    if not storing.cancel() and not storing.cancelled():
        storing.exception()  # the attempt is over: nobody else would ask for it


def _value(text: str | None) -> Any:
    return None if text is None else load_json(text)


def _close(value: object) -> None:
    """Close a coroutine that nobody will await."""
    close = getattr(value, "close", None)
    if callable(close):
        close()
