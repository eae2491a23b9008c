"""Processes: 1, 2 and 4 worker processes that drain one database together."""

import asyncio
import functools
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from benchmarks.drain import PLAIN, bound_seconds, check, fill
from benchmarks.scenario import Report, Scale, fresh_database, interleaved

COUNTS = (1, 2, 4)
READY_SECONDS = 60.0
STOP_SECONDS = 60.0


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Each number of processes in turn, and what the others make of the rate of one."""

    async def of(count: int) -> None:
        seconds = await _drain(dsn, scale.jobs, processes=count)
        report.figure(_name(count), "jobs/s").runs.append(scale.jobs / seconds)

    await interleaved(scale.runs, *(functools.partial(of, count) for count in COUNTS))
    for count in COUNTS[1:]:
        report.ratio(f"{count} worker processes / 1", _name(count), _name(1))


def _name(count: int) -> str:
    return f"drain, {count} worker process{'es' if count > 1 else ''} apart"


async def _drain(dsn: str, jobs: int, *, processes: int) -> float:
    """Seconds from the word to start until each process has recorded every outcome.

    Raises:
        RuntimeError: some job did not run exactly once, or a process ended on its own.
    """
    async with fresh_database(dsn, PLAIN.settings()) as database, AsyncExitStack() as stack:
        await fill(database, jobs)
        children = [await stack.enter_async_context(_child(database.dsn)) for _ in range(processes)]
        async with asyncio.timeout(READY_SECONDS):
            for child in children:
                await child.hears("ready")
        started = time.perf_counter()
        for child in children:
            child.say("go\n")
        async with asyncio.timeout(bound_seconds(jobs)):
            await _until_ran(jobs, children)
        for child in children:
            child.end()
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*(child.hears("ended") for child in children))
        seconds = time.perf_counter() - started
        ran = sum(child.ran for child in children)
        await check(database, jobs, PLAIN, succeeded=ran, failed=0)
        return seconds


async def _until_ran(jobs: int, children: list["Child"]) -> None:
    """Until they say that they ran as many jobs as there are."""
    done = asyncio.Event()

    async def listen(child: Child) -> None:
        while not done.is_set():
            await child.hears("ran")
            if sum(child.ran for child in children) >= jobs:
                done.set()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen(child)) for child in children]
        await done.wait()
        for task in tasks:
            task.cancel()


class Child:
    """A worker process, and what it said last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.ran = 0

    async def hears(self, word: str) -> None:
        """Wait until it says `word`, and note how many jobs it ran.

        Raises:
            RuntimeError: it ended before.
        """
        assert self._process.stdout is not None
        said = ""
        while said != word:
            line = (await self._process.stdout.readline()).decode()
            if not line:
                raise RuntimeError(f"a worker process ended before it said {word!r}")
            said, _, count = line.strip().partition(" ")
            self.ran = int(count or 0)

    def say(self, text: str) -> None:
        """Tell it so."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def end(self) -> None:
        """Tell it to stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()


@asynccontextmanager
async def _child(dsn: str) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.drain_process", dsn),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Child(process)
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
