"""Handlers for processes under faults. Each result names the run that it is of."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from service.jobs import Backoff, JobContext, PermanentError, register_handler
from tests.chaos.concurrency import KEY_LIMIT
from tests.chaos.ledger import LEDGER_VARIABLE, Event, Ledger, Pen

MANY: Final = 1000
"""Retries: a job shall outlive every fault of a run."""
QUICK: Final = Backoff(base_seconds=0.2, factor=1.0, cap_seconds=0.2, jitter=0.0)
POLL_SECONDS: Final = 0.02
STUBBORN_SECONDS: Final = 0.8

_path = Path(os.environ[LEDGER_VARIABLE])
_gate = Ledger(_path).gate
_pen = Pen(_path)


def note(event: Event, context: JobContext) -> None:
    """Write down what happens in this run."""
    _pen.note(event, context.job_id, attempt=context.attempt, lease_token=context.lease_token)


def result(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """What the checker looks for in the row."""
    return {"number": payload["number"], "lease_token": context.lease_token}


@register_handler("chaos.steady", backoff=QUICK, max_retries=MANY)
async def steady(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """Take `seconds`."""
    note(Event.START, context)
    await asyncio.sleep(payload["seconds"])
    note(Event.END, context)
    return result(payload, context)


@register_handler("chaos.gated", backoff=QUICK, max_retries=MANY)
async def gated(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """Wait until the gate of all is open."""
    note(Event.START, context)
    while not _gate.exists():  # noqa: ASYNC110 - the test that opens it is another process
        await asyncio.sleep(POLL_SECONDS)
    note(Event.END, context)
    return result(payload, context)


@register_handler("chaos.keyed", backoff=QUICK, max_retries=MANY, max_running_per_key=KEY_LIMIT)
async def keyed(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """Take `seconds`, and fail once where the payload says so."""
    note(Event.START, context)
    try:
        await asyncio.sleep(payload["seconds"])
    except asyncio.CancelledError:
        note(Event.LEFT, context)
        raise
    if payload["fails"] and context.attempt == 1:
        note(Event.FAIL, context)
        raise RuntimeError("the first attempt fails, as told")
    note(Event.END, context)
    return result(payload, context)


@register_handler("chaos.crashing", backoff=QUICK, max_retries=MANY)
async def crashing(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """End the process before or after the work, where its environment says so."""
    from tests.chaos.crashing import Point, crash_at

    crash_at(Point.BEFORE_HANDLER, payload)
    note(Event.START, context)
    note(Event.END, context)
    crash_at(Point.AFTER_HANDLER, payload)
    return result(payload, context)


@register_handler("chaos.steps", backoff=QUICK, max_retries=MANY)
async def steps(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """Three steps and a sleep; end the process at one of their points, where its environment says so."""
    from tests.chaos.step_crashing import StepPoint, crash_at

    def call(name: str) -> int:
        _pen.note(Event.STEP, context.job_id, lease_token=context.lease_token, detail=name)
        crash_at(StepPoint.AFTER_CALL, name)
        return context.lease_token

    note(Event.START, context)
    crash_at(StepPoint.BEFORE_CALL, "one")
    await context.step("one", call, "one")
    await context.sleep(0.2)
    for name in ("two", "three"):
        crash_at(StepPoint.BEFORE_CALL, name)
        await context.step(name, call, name)
    note(Event.END, context)
    return result(payload, context)


@register_handler("chaos.stalling", backoff=QUICK, max_retries=MANY)
async def stalling(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """In its first run wait to be stopped and woken too late, then go on as if nothing had been.

    The second fails, where the payload wants a retry by hand; the last ends at once, or lasts until
    the trial lets it go.
    """
    note(Event.START, context)
    retried = exists(payload["retried"])
    if context.attempt == 1 and not retried:
        await _stall(payload, context)
    elif payload["fails"] and not retried:
        note(Event.FAIL, context)
        raise PermanentError("to be retried by hand")
    elif payload["lasts"]:
        while not exists(payload["over"]):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(POLL_SECONDS)
    note(Event.END, context)
    return result(payload, context)


async def _stall(payload: dict[str, Any], context: JobContext) -> None:
    try:
        while not exists(payload["woken"]):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(POLL_SECONDS)
    except asyncio.CancelledError:
        if payload["obeys"]:
            raise
    if payload["obeys"]:
        await asyncio.sleep(STUBBORN_SECONDS)  # within it comes the cancellation, to be heeded
    else:
        await _go_on(context)


async def _go_on(context: JobContext) -> None:
    """Report progress until that is refused, and still run when the next heartbeat is due."""
    until = time.monotonic() + STUBBORN_SECONDS
    refused = False
    while not refused or time.monotonic() < until:
        with suppress(asyncio.CancelledError):
            refused = refused or not await context.progress(0.5, "woken")
            await asyncio.sleep(POLL_SECONDS)


def exists(path: str) -> bool:
    """Whether the test, another process, has made this file."""
    return Path(path).exists()
