"""Handlers that run in processes of their own: a bounded number, started when they are first needed."""

import asyncio
import os
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

from service.jobs.core.elsewhere import EncodedResult, HandlerDied
from service.jobs.handlers.context import JobContext
from service.jobs.worker.handler_process.messages import Run
from service.jobs.worker.handler_process.process import HandlerProcess
from service.observability.logging import get_logger
from service.observability.metrics import HANDLER_PROCESSES, HANDLER_PROCESSES_ENDED
from service.settings import Settings

_log = get_logger(__name__)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class HandlerProcesses:
    """Runs attempts in up to `HANDLER_PROCESSES` processes, one at a time in each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.limit: Final = settings.handler_processes or cores()
        self._free = asyncio.Semaphore(self.limit)
        self._idle: list[HandlerProcess] = []
        self._busy: set[HandlerProcess] = set()
        self._ended: WeakSet[HandlerProcess] = WeakSet()
        self._retiring: set[asyncio.Task[None]] = set()

    async def call(
        self,
        job: Run,
        context: JobContext,
        *,
        begin: Callable[[], None],
        grace_seconds: Callable[[], float],
    ) -> EncodedResult | None:
        """What the handler returns, once a process was free and it has ended.

        A caller that is cancelled has the process killed with it.

        Args:
            job: the attempt.
            context: takes what the handler logs, and answers what it asks.
            begin: called when the handler is loaded, just before it runs.
            grace_seconds: asked of a cancelled call: how long the handler may take to stop by itself.

        Raises:
            RaisedElsewhere: the handler raised.
            HandlerDied: its process ended before it did.
            OSError: the system starts no more processes.
        """
        async with self._free:
            process = await self._take()
            # A task of its own: a handler that is cancelled may be given time to stop.
            running = asyncio.create_task(
                _run(process, job, context, begin), name=f"job-{job.id}-process"
            )
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await self._stop(process, running, grace_seconds())
                raise
            finally:
                await self._put_back(process, running)

    async def close(self) -> None:
        """End all processes; handlers that still run are killed."""
        busy, self._busy = self._busy, set()
        idle, self._idle = self._idle, []
        for process in busy:
            await self._end(process, "killed")
        for process in idle:
            self._retire(process)
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _take(self) -> HandlerProcess:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                break
            await self._end(process, "died")
        else:
            process = await HandlerProcess.start(self._settings)
            HANDLER_PROCESSES.inc()
            _log.info("handler_process_started", pid=process.pid)
        self._busy.add(process)
        return process

    async def _stop(
        self, process: HandlerProcess, running: "asyncio.Task[object]", grace_seconds: float
    ) -> None:
        """Have a handler stop by itself within the grace, else kill it."""
        if grace_seconds > 0 and not running.done():
            process.cancel()
            await asyncio.wait({running}, timeout=grace_seconds)
        if not running.done():
            await self._end(process, "killed")
            await asyncio.wait({running})

    async def _put_back(self, process: HandlerProcess, running: "asyncio.Task[object]") -> None:
        if not running.done():  # the loop ends
            running.cancel()
            await self._end(process, "killed")
        elif not running.cancelled() and isinstance(running.exception(), HandlerDied):
            await self._end(process, "died")
        elif process in self._busy:
            self._busy.discard(process)
            if process.runs < self._settings.handler_process_jobs:
                self._idle.append(process)
            else:
                self._retire(process)

    async def _end(self, process: HandlerProcess, why: str) -> None:
        """Kill a process, once."""
        if process in self._ended:
            return
        self._ended.add(process)
        self._busy.discard(process)
        _log.warning(f"handler_process_{why}", pid=process.pid)
        HANDLER_PROCESSES.dec()
        HANDLER_PROCESSES_ENDED.labels(why).inc()
        await process.kill()

    def _retire(self, process: HandlerProcess) -> None:
        """End a process in which nothing runs, without waiting for it."""
        HANDLER_PROCESSES.dec()
        HANDLER_PROCESSES_ENDED.labels("retired").inc()
        closing = asyncio.create_task(process.close(), name=f"handler-process-{process.pid}-close")
        self._retiring.add(closing)
        closing.add_done_callback(self._retiring.discard)


async def _run(
    process: HandlerProcess, job: Run, context: JobContext, begin: Callable[[], None]
) -> EncodedResult | None:
    await process.load(job.function, job.model)
    begin()
    return await process.run(job, context)
