"""Handlers that the tests run in processes of their own, which import them from here."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from service.jobs import JobContext, PermanentError, RetryAfter, Snooze


class Image(BaseModel):
    width: int


def resize(image: Image, ctx: JobContext) -> dict[str, Any]:
    sys.stdout.write("printed, and in nobody's way\n")
    held = ctx.progress_sync(0.5, "half")
    ctx.log("resized", width=image.width)
    logging.getLogger("library").warning("captured")
    return {"pid": os.getpid(), "width": image.width // 2, "held": held, "attempt": ctx.attempt}


async def resize_async(payload: dict[str, Any], ctx: JobContext) -> dict[str, Any]:
    await ctx.progress(0.5)
    await asyncio.sleep(0)
    return {"pid": os.getpid(), "parents": await ctx.parents(), "tick": await ctx.tick()}


_go_on, _gone_on = threading.Event(), threading.Event()
_told: list[str] = []


def leave_a_thread(payload: str, ctx: JobContext) -> list[str] | None:
    """Leave a thread behind; the next job of the process waits until it has used its context."""
    if payload == "leave":
        threading.Thread(target=_late, args=(ctx,)).start()
        return None
    ctx.log("my own")
    _go_on.set()
    _gone_on.wait(10)
    return _told


def _late(ctx: JobContext) -> None:
    _go_on.wait(10)
    ctx.log("of the job before")
    try:
        ctx.progress_sync(0.9)
    except RuntimeError as refused:
        _told.append(str(refused))
    _gone_on.set()


def end_as(payload: str, ctx: JobContext) -> object:
    match payload:
        case "permanent":
            raise PermanentError("no such image")
        case "error":
            raise LookupError("no such colour")
        case "retry_after":
            raise RetryAfter(7200)
        case "snooze":
            raise Snooze(3600)
        case "steps":
            return ctx.step_sync("one", print)
        case "no_json":
            return object()
        case "too_large":
            return "x" * 2_000_000
        case "exit":
            sys.exit(3)
    raise AssertionError(payload)


def compute(payload: dict[str, Any], ctx: JobContext) -> str:
    """Compute until told to stop, or for ever; write down who does, and a process that it started."""
    child = subprocess.Popen(["sleep", "120"])
    told = Path(payload["file"])
    told.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
    told.with_suffix(".new").rename(told)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if ctx.cancelled and payload.get("obeys"):
            child.kill()
            child.wait()
            return "stopped"
    return "ran on"
