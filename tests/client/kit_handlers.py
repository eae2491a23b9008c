"""Handlers for workers of the kit under test; run as a module it is such a worker: `FINMIND_URL`, `FINMIND_KEY`."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from finmind_client.worker import JobContext, PermanentError, RetryAfter, Snooze, Worker


def note(path: str, words: str) -> None:
    """Add a line to a file that the test reads."""
    with Path(path).open("a", encoding="utf-8") as notes:
        notes.write(f"{words}\n")


def plain(payload: dict[str, Any]) -> dict[str, Any]:
    return {"thread": payload["number"]}


async def coroutine(payload: dict[str, Any], ctx: JobContext) -> dict[str, Any]:
    ctx.log("begins", attempt=ctx.attempt, odd=object)
    await asyncio.sleep(0)
    ctx.log("ends", level="warning")
    return {"loop": payload["number"], "token": ctx.lease_token > 0}


def process(payload: dict[str, Any], ctx: JobContext) -> dict[str, Any]:
    sys.stdout.write("handlers may print\n")
    ctx.log("in a process")
    return {"process": os.getpid(), "number": payload["number"]}


async def process_coroutine(payload: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"process": os.getpid(), "number": payload["number"]}


def odd(payload: dict[str, Any], ctx: JobContext) -> Any:
    """End as the payload says."""
    if ctx.attempt > 1:
        return {"attempt": ctx.attempt}
    match payload["how"]:
        case "permanent":
            raise PermanentError("no such invoice")
        case "retry":
            raise RetryAfter(0.01, "busy")
        case "snooze":
            if not Path(payload["path"]).exists():
                note(payload["path"], "snoozed")
                raise Snooze(0.01)
            return {"attempt": ctx.attempt}
        case "exit":
            sys.exit(3)
        case "object":
            return object()
        case "large":
            return "x" * 5_000_000
        case "refused":  # has a JSON form, and none that PostgreSQL could store
            return "\x00"
    raise RuntimeError("failed, as told")


async def odd_coroutine(payload: dict[str, Any], ctx: JobContext) -> Any:
    return odd(payload, ctx)


def killed_process(payload: dict[str, Any], ctx: JobContext) -> Any:
    if ctx.attempt == 1:
        os._exit(7)
    return payload


def waits(payload: dict[str, Any], ctx: JobContext) -> str:
    """Wait until it is to stop, or so long."""
    note(payload["path"], f"start {ctx.attempt} {os.getpid()}")
    ctx.progress(0.5, "half")
    ctx.log("waits")
    if ctx.wait(payload.get("seconds", 60)):
        note(payload["path"], f"stop {ctx.stop_reason}")
        raise RuntimeError(f"stopped: {ctx.stop_reason}")
    ctx.log("is done")
    return "done"


async def waits_coroutine(payload: dict[str, Any], ctx: JobContext) -> str:
    note(payload["path"], f"start {ctx.attempt} {os.getpid()}")
    ctx.progress(0.5, "half")
    try:
        await asyncio.sleep(payload.get("seconds", 60))
    except asyncio.CancelledError:
        note(payload["path"], f"stop {ctx.stop_reason}")
        raise
    return "done"


def spins(payload: dict[str, Any]) -> None:
    """Look at nothing, with a child of its own."""
    with subprocess.Popen(["sleep", "60"]) as child:
        note(payload["path"], f"start {os.getpid()} {child.pid}")
        while True:
            time.sleep(0.01)


def register(worker: Worker) -> Worker:
    """All of them."""
    for function in (plain, coroutine, odd, odd_coroutine, waits, waits_coroutine):
        worker.handler(function.__name__)(function)
    for name in ("process", "process_coroutine", "killed_process", "spins"):
        worker.handler(name, executor="process")(globals()[name])
    worker.handler("waits_process", executor="process")(waits)
    return worker


if __name__ == "__main__":
    register(
        Worker(os.environ["FINMIND_URL"], token=os.environ["FINMIND_KEY"], concurrency=2)
    ).run()
