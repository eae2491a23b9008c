"""The frame of every Python driver: the same steps on the same clock for ours and for each peer.

A driver is a process of its own. It takes one JSON document as its argument (`Task`) and prints
one JSON document as its last line. It imports nothing of the service: peers have an interpreter
of their own that lacks it. `driver.mjs` is the same frame for Node.js; change both together.
"""

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import asyncpg
import uvloop

Payload = dict[str, Any]
Handler = Callable[[Payload], None]

WAIT_SECONDS = 60.0
"""Bound on waiting for the last jobs once all were enqueued, or for their outcomes."""
IDLE_SECONDS = 1.0
"""How long a worker idles before the first timed call."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure; `mode` is drain, bulk or latency."""

    url: str
    mode: str
    jobs: int
    chunk: int
    seconds: float
    rate: int
    payload: Payload


class Peer(ABC):
    """A queue under measurement, used through its public API."""

    unfinished: ClassVar[str]
    """SQL: whether a job remains whose outcome is not recorded."""
    kept: ClassVar[str]
    """SQL: rows of history."""

    @abstractmethod
    async def open(self, url: str, handle: Handler) -> None:
        """Connect, make the schema, register the handler."""

    @abstractmethod
    async def enqueue(self, payload: Payload) -> None:
        """One job, durable when this returns."""

    @abstractmethod
    async def enqueue_many(self, payloads: list[Payload], chunk: int) -> None:
        """Many jobs by the bulk API, at most `chunk` a call."""

    @abstractmethod
    async def start(self) -> None:
        """Start one worker."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop it and disconnect."""


def main(make: Callable[[], Peer]) -> None:
    """Do what the command line asks for, and print the result."""
    task = Task(**json.loads(sys.argv[1]))
    measure = {"drain": _drain, "bulk": _bulk, "latency": _latency}[task.mode]
    print(json.dumps(uvloop.run(measure(make(), task))))


async def _drain(peer: Peer, task: Task) -> dict[str, Any]:
    done, left, first = asyncio.Event(), task.jobs, 0.0

    def count(_payload: Payload) -> None:
        nonlocal left, first
        if left == task.jobs:
            first = time.perf_counter()
        left -= 1
        if left == 0:
            done.set()

    await peer.open(task.url, count)
    await peer.enqueue_many([task.payload] * task.jobs, task.chunk)
    watch = await asyncpg.connect(task.url)
    await watch.execute("ANALYZE")  # or plans depend on whether autovacuum came by
    await watch.execute("CHECKPOINT")
    started = time.perf_counter()
    await peer.start()
    async with asyncio.timeout(WAIT_SECONDS + task.jobs / 100):
        await done.wait()
        last = time.perf_counter()
        # No peer says when an outcome is recorded, so the table is asked, and gently.
        while await watch.fetchval(f"SELECT EXISTS ({peer.unfinished})"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    seconds = time.perf_counter() - started
    await peer.stop()
    kept = await watch.fetchval(f"SELECT count(*) FROM ({peer.kept}) AS kept")
    await watch.close()
    if left:  # a job that ran twice would flatter the rate
        raise RuntimeError(f"{-left} runs more than jobs")
    return {"seconds": seconds, "first": first - started, "last": last - started, "kept": kept}


async def _bulk(peer: Peer, task: Task) -> dict[str, Any]:
    await peer.open(task.url, lambda _payload: None)
    payloads = [task.payload] * task.jobs
    started = time.perf_counter()
    await peer.enqueue_many(payloads, task.chunk)
    seconds = time.perf_counter() - started
    await peer.stop()
    return {"seconds": seconds}


async def _latency(peer: Peer, task: Task) -> dict[str, Any]:
    jobs = int(task.seconds * task.rate)
    since: dict[int, float] = {}
    began: dict[int, float] = {}
    all_began = asyncio.Event()

    def stamp(payload: Payload) -> None:
        began[payload["n"]] = time.perf_counter()
        if len(began) == jobs:
            all_began.set()

    await peer.open(task.url, stamp)
    await peer.start()
    await asyncio.sleep(IDLE_SECONDS)

    async def call(number: int, when: float) -> None:
        await asyncio.sleep(max(0.0, when - time.perf_counter()))
        since[number] = min(when, time.perf_counter())  # intended; timers go off early too
        await peer.enqueue({**task.payload, "n": number})

    begin = time.perf_counter() + 0.1
    async with asyncio.TaskGroup() as calls:
        for number in range(jobs):
            calls.create_task(call(number, begin + number / task.rate))
    async with asyncio.timeout(WAIT_SECONDS):
        await all_began.wait()
    await peer.stop()
    # The first second warms up: connections, statements, caches.
    warm = range(min(task.rate, jobs // 2), jobs)
    return {"waits": [began[number] - since[number] for number in warm]}
