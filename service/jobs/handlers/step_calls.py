"""Steps that call a function and keep its result."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.jobs.core.encoding import load_json
from service.jobs.core.steps import AttemptStopped, StepError, StepKind, StoredStep
from service.jobs.handlers.signature import is_async
from service.jobs.handlers.step_record import StepRecord

KEEP_SECONDS: Final = 0.8
"""How long an attempt that is stopped goes on to store what a step has returned: less than a worker
that shuts down waits for its handlers."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """A step: its name, a function and its arguments.

    Raises:
        StepError: that is no function.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __post_init__(self) -> None:
        given: object = self.function
        if not callable(given):
            _close(given)
            raise StepError(
                f"Step {self.name!r:.100} takes a function and its arguments, not {type(given).__name__}:"
                f" ctx.step({self.name!r:.100}, charge, order), not ctx.step({self.name!r:.100},"
                " charge(order))"
            )

    def __call__(self) -> Any:
        """Call the function."""
        return self.function(*self.args, **self.kwargs)


async def run(record: StepRecord, call: StepCall) -> Any:
    """The stored result of the step, else what its function returns, once that is stored."""
    record.take(call.name)
    try:
        return await _run(record, call)
    except BaseException:
        record.give_back(call.name)
        raise


async def _run(record: StepRecord, call: StepCall) -> Any:
    if (known := await record.find(call.name, StepKind.CALL)) is not None:
        return value_of(known)
    began = time.monotonic()
    if is_async(call.function):
        return await _keep(record, call, await call(), began)
    value, cancelled = await _in_thread(record, call)
    if hasattr(value, "__await__"):
        value = await value  # of a plain function around a coroutine function
    kept = _keep(record, call, value, began)
    if cancelled is None:
        return await kept
    # The function has run to its end: the next attempt shall not call it again.
    await _to_its_end(asyncio.ensure_future(kept))
    raise cancelled


async def _in_thread(
    record: StepRecord, call: StepCall
) -> tuple[Any, asyncio.CancelledError | None]:
    """What the function returned, and whether the attempt was cancelled meanwhile.

    A thread cannot be stopped: it is waited for.
    """
    begun = False

    def begin() -> None:
        nonlocal begun
        if record.stopped():
            raise AttemptStopped("The attempt was stopped before its step could begin")
        begun = True

    calling = asyncio.ensure_future(record.access.call(call, (), begin=begin))
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


async def _keep(record: StepRecord, call: StepCall, value: Any, began: float) -> Any:
    """Store a result, also where the attempt is cancelled meanwhile; what a replay will get of it."""
    storing = asyncio.ensure_future(_store(record, call, value, began))
    try:
        return value_of(await asyncio.shield(storing))
    except asyncio.CancelledError:
        await _to_its_end(storing)
        raise


async def _to_its_end(storing: asyncio.Future[Any]) -> None:
    """Wait a moment for a result that is being stored, whatever comes of it."""
    await asyncio.wait({storing}, timeout=KEEP_SECONDS)
    if not storing.cancel() and not storing.cancelled():
        storing.exception()  # the attempt is over: nobody else would ask for it


async def _store(record: StepRecord, call: StepCall, value: Any, began: float) -> StoredStep:
    text = record.encoded(call.name, value)
    return await record.store(
        call.name, StepKind.CALL, seconds=time.monotonic() - began, result=text
    )


def run_sync(record: StepRecord, call: StepCall) -> Any:
    """The same in a thread, which it holds."""
    record.take(call.name)
    try:
        return _run_sync(record, call)
    except BaseException:
        record.give_back(call.name)
        raise


def _run_sync(record: StepRecord, call: StepCall) -> Any:
    if (known := record.wait(record.find(call.name, StepKind.CALL))) is not None:
        return value_of(known)
    began = time.monotonic()
    value = call()
    if hasattr(value, "__await__"):
        _close(value)
        raise StepError(
            f"The function of step {call.name!r} is a coroutine function: make the handler an"
            " `async def` and await ctx.step"
        )
    return value_of(record.wait(_store(record, call, value, began)))


def value_of(step: StoredStep) -> Any:
    """The result of a step."""
    return None if step.result is None else load_json(step.result)


def _close(value: object) -> None:
    """Close a coroutine that nobody will await."""
    close = getattr(value, "close", None)
    if callable(close):
        close()
