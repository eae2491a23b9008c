"""Idle: what one serving process with nothing to do costs. Reads Linux's `/proc`.

Targets: at most 1 % of a core, 2 statements a second, 120 MB. Watch for a minute (`--seconds 60`)
or some of them: once a minute come the duties that need no hurry.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.proc import cpu_seconds, rss_mib
from benchmarks.scenario import Report, Scale, fresh_database, settings
from benchmarks.statement_counter import StatementCounter

COMMANDS = ("serve", "worker")
SETTLE_SECONDS = 10.0
START_SECONDS = 60.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 1.0


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Both commands at a time, each on a database of its own: idle, they do not get in the way."""
    for _ in range(scale.runs):
        async with AsyncExitStack() as stack:
            databases = [
                (await stack.enter_async_context(fresh_database(dsn, settings()))).dsn
                for _ in COMMANDS  # one after the other: alembic's context is the process's own
            ]
            async with asyncio.TaskGroup() as group:
                for command, database in zip(COMMANDS, databases, strict=True):
                    group.create_task(_watch(command, database, report, scale.seconds))


async def _watch(command: str, dsn: str, report: Report, seconds: float) -> None:
    async with StatementCounter(dsn) as counter, _running(command, counter.dsn) as pid:
        await asyncio.sleep(SETTLE_SECONDS)
        loop = asyncio.get_running_loop()
        cpu, statements, began = cpu_seconds(pid), counter.executed.total(), loop.time()
        memory = rss_mib(pid)
        while (left := began + seconds - loop.time()) > 0:
            await asyncio.sleep(min(LOOK_SECONDS, left))
            memory = max(memory, rss_mib(pid))  # the kernel may take pages back of who idles
        took = loop.time() - began
        for name, unit, value in (
            ("processor", "% core", 100 * (cpu_seconds(pid) - cpu) / took),
            ("statements", "/s", (counter.executed.total() - statements) / took),
            ("memory (RSS)", "MiB", memory),
        ):
            figure = report.figure(f"idle `{command}`: {name}", unit, better="lower")
            figure.runs.append(value)


@asynccontextmanager
async def _running(command: str, dsn: str) -> AsyncIterator[int]:
    """A process that serves; its pid."""
    environment = os.environ | {
        "DATABASE_URL": dsn,
        "JWT_SECRET": "a-secret-for-the-benchmark-alone-0123456789",
        "ENVIRONMENT": "test",
        "PORT": "0",
        "WORKER_PORT": "0",
        "LOG_LEVEL": "WARNING",
        # By default a minute: until it is over the leader spares itself one of its duties.
        "UNKNOWN_TYPE_GRACE_SECONDS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "service", command),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            while b"http://" not in (line := await process.stdout.readline()):
                if not line:
                    raise RuntimeError(f"{command} ended before it served")
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await process.communicate()
