"""Handlers for replicas under test: each start and each end is a line of the ledger."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from service.jobs import Backoff, ChunkJob, JobContext, register_handler
from tests.chaos.ledger import LEDGER_VARIABLE, Ledger, Pen

QUICK = Backoff(base_seconds=0.2, factor=1.0, cap_seconds=0.2, jitter=0.0)
GATE_POLL_SECONDS = 0.02

_path = Path(os.environ[LEDGER_VARIABLE])
_gate = Ledger(_path).gate
_pen = Pen(_path)


def note(event: str, context: JobContext, detail: object = "-") -> None:
    """Add one line: what happened to which job, in which attempt, under which lease, where."""
    _pen.note(
        event,
        context.job_id,
        attempt=context.attempt,
        lease_token=context.lease_token,
        detail=detail,
    )


@register_handler("test.flaky", backoff=QUICK, max_retries=3)
async def flaky(payload: dict[str, Any], context: JobContext) -> dict[str, int]:
    """Take `seconds`; the first attempt fails where the payload says so."""
    note("start", context)
    await asyncio.sleep(payload["seconds"])
    if payload["fails"] and context.attempt == 1:
        note("fail", context)
        raise RuntimeError("the first attempt fails, as told")
    note("end", context)
    return {"number": payload["number"], "lease_token": context.lease_token}


@register_handler("test.gated", backoff=QUICK, max_retries=3)
async def gated(_: dict[str, Any], context: JobContext) -> None:
    """Wait until the gate is open."""
    note("start", context)
    try:
        while not _gate.exists():  # noqa: ASYNC110 - the test that opens it is another process
            await asyncio.sleep(GATE_POLL_SECONDS)
    except asyncio.CancelledError:
        note("stopped", context)
        raise
    note("end", context)


@register_handler("test.chunk", chunk=10, chunk_seconds=0.2, backoff=QUICK)
async def in_groups(jobs: list[ChunkJob[dict[str, Any]]]) -> None:
    """End as one; a job that the payload says so of kills its process in its first attempt."""
    for job in jobs:
        note("start", job, len(jobs))
    if any(job.payload["kills"] and job.attempt == 1 for job in jobs):
        os.kill(os.getpid(), signal.SIGKILL)
    for job in jobs:
        note("end", job)


@register_handler("test.order", backoff=QUICK)
async def order(payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Charge, wait for the payment, sleep a moment, and ship once the gate is open: a step each."""

    async def charge() -> int:
        note("charge", context)
        return os.getpid()

    async def ship() -> int:
        note("ship", context)
        while not _gate.exists():  # noqa: ASYNC110 - the test that opens it is another process
            await asyncio.sleep(GATE_POLL_SECONDS)
        return os.getpid()

    charged = await context.step("charge", charge)
    context.log("charged", by=charged)
    paid = await context.wait_for_event("paid", timeout=600)
    await context.sleep(0.2)
    return {"charged": charged, "paid": paid, "shipped": await context.step("ship", ship)}


@register_handler("test.scheduled")
async def scheduled(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what it was told of its tick."""
    tick: dict[str, Any] = payload["schedule"]
    return tick


@register_handler("test.computed", executor="process", backoff=QUICK, max_retries=5)
def computed(payload: dict[str, Any], context: JobContext) -> int:
    """Compute in a process of its own, for `seconds` or until the gate is open."""
    note("start", context)
    until = time.monotonic() + payload["seconds"]
    while time.monotonic() < until and not (payload["gated"] and _gate.exists()):
        pass
    note("end", context)
    return context.lease_token
