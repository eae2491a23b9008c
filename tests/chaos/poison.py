"""Handlers that do what no handler should, each in its own way; and good ones beside them."""

import asyncio
import os
import resource
import time
from typing import Any, Final

import psutil

from service.jobs import JobContext, register_handler
from tests.chaos.handlers import QUICK, note
from tests.chaos.handlers import _pen as pen
from tests.chaos.ledger import Event

DEEP: Final = 10_000
LONG: Final = 10_000_000
MEMORY_BYTES: Final = psutil.Process().memory_info().vms + (600 << 20)
"""The memory limit of a process with these handlers: less than the machine has."""

resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


@register_handler("poison.exit", backoff=QUICK)
async def leave(_: Any, context: JobContext) -> None:
    """End the process on the spot."""
    note(Event.START, context)
    pen.note(Event.FAULT, detail="exit")
    os._exit(13)


@register_handler("poison.block", backoff=QUICK)
async def block(payload: dict[str, Any], context: JobContext) -> None:
    """Hold up the whole event loop."""
    note(Event.START, context)
    pen.note(Event.FAULT, detail="block")
    time.sleep(payload["seconds"])  # noqa: ASYNC251 - that is the poison
    pen.note(Event.OVER, detail="block")
    note(Event.END, context)


@register_handler("poison.memory", backoff=QUICK)
async def memory(_: Any, context: JobContext) -> None:
    """Take memory until not a kilobyte of it is left."""
    note(Event.START, context)
    hoard: list[Any] = []
    size = 1 << 28
    while size >= 1 << 10:
        try:
            hoard.append(bytes(size))
        except MemoryError:
            size //= 2
    hoard.append(bytes(1 << 28))


@register_handler("poison.deaf", timeout=0.3, backoff=QUICK)
async def deaf(_: Any, context: JobContext) -> None:
    """Ignore every cancellation."""
    note(Event.START, context)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


@register_handler("poison.system_exit", backoff=QUICK)
async def system_exit(_: Any, context: JobContext) -> None:
    """Ask Python to end the process."""
    note(Event.START, context)
    raise SystemExit(3)


@register_handler("poison.interrupt", backoff=QUICK)
async def interrupt(_: Any, context: JobContext) -> None:
    """Do as if somebody pressed Ctrl-C."""
    note(Event.START, context)
    raise KeyboardInterrupt


@register_handler("poison.long_error", backoff=QUICK)
async def long_error(_: Any, context: JobContext) -> None:
    """Fail with ten megabytes of words, some of which PostgreSQL cannot hold."""
    note(Event.START, context)
    raise ValueError("\x00\ud800 bad " * (LONG // 7))


@register_handler("poison.result", backoff=QUICK)
async def result(payload: dict[str, Any], context: JobContext) -> Any:
    """Return what cannot be stored."""
    note(Event.START, context)
    match payload["kind"]:
        case "nan":
            return {"value": float("nan")}
        case "nul":
            return "a\x00b"
        case "surrogate":
            return "\udcff"
        case "deep":
            nested: list[Any] = []
            for _ in range(DEEP):
                nested = [nested]
            return nested
        case "circle":
            circle: list[Any] = []
            circle.append(circle)
            return circle
    return object()


@register_handler("poison.payload", backoff=QUICK)
async def payload_(_: Any, context: JobContext) -> None:
    """Take a payload that came by SQL and is nested too deep for Python."""
    note(Event.START, context)
