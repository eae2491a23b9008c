"""Keeps a number of worker processes running, and stops them together."""

import asyncio
import random
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from service.observability.logging import get_logger
from service.observability.metrics import WORKER_PROCESS_RESTARTS, WORKER_PROCESSES
from service.serving.supervisor.worker_process import WorkerProcess

FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 30.0
"""Pause before a process that died is started again: doubled with each death, up to this."""
STEADY_SECONDS: Final = 60.0
"""A process that has run for so long begins anew with the shortest pause."""
COMMAND: Final = (sys.executable, "-m", "service", "worker", "--host", "127.0.0.1", "--port", "0")
WRONG_CONFIGURATION: Final = 2
"""The exit code of a process whose settings or handlers are refused."""

_log = get_logger(__name__)


class Fleet:
    """`count` worker processes; one that dies is started again.

    Args:
        count: how many.
        environment: their environment variables.
        kill_after_seconds: how long they may take to stop.
        command: what they run, to which `--supervised` and the descriptor of a pipe are added.
    """

    def __init__(
        self,
        count: int,
        environment: Mapping[str, str],
        *,
        kill_after_seconds: float,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.count = count
        self.refused = asyncio.Event()
        """Set where none could begin, since their configuration is refused."""
        self._environment = environment
        self._kill_after_seconds = kill_after_seconds
        self._command = command
        self._processes: dict[int, WorkerProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stop_asked = asyncio.Event()
        self._one_listened = False

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop_asked.is_set()

    def running(self) -> dict[int, WorkerProcess]:
        """The processes that run, by number."""
        return {number: one for number, one in self._processes.items() if one.running}

    def start(self) -> None:
        """Start them all."""
        WORKER_PROCESSES.set_function(lambda: len(self.running()))
        self._keepers = [
            asyncio.create_task(self._keep(number), name=f"worker-process-{number}")
            for number in range(self.count)
        ]

    def stop(self) -> None:
        """Have all of them stop gracefully, and start none again. Safe in a signal handler."""
        self._stop_asked.set()
        for process in self._processes.values():
            process.stop()

    async def stopped(self) -> None:
        """Wait until all have ended; those that take too long are killed."""
        self.stop()
        try:
            async with asyncio.timeout(self._kill_after_seconds):
                await asyncio.wait(self._keepers)
        except TimeoutError:
            _log.error("worker_processes_killed", pids=[p.pid for p in self.running().values()])
        finally:
            # Also where a second signal cuts the wait short.
            for process in self._processes.values():
                process.kill()
        await asyncio.wait(self._keepers)

    async def _keep(self, number: int) -> None:
        """Run one process after the other."""
        delay = FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            code = await self._run(number)
            if self.stopping:
                return
            if code == WRONG_CONFIGURATION and not self._one_listened:
                self.refused.set()
                return
            if time.monotonic() - began >= STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            pause = delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            _log.error(
                "worker_process_ended", process=number, exit_code=code, again_in=round(pause, 2)
            )
            WORKER_PROCESS_RESTARTS.labels(str(number)).inc()
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            if await _set_within(self._stop_asked, pause):
                return

    async def _run(self, number: int) -> int | None:
        """Run one process to its end; its exit code."""
        try:
            process = await WorkerProcess.start(self._command, self._environment)
        except OSError as error:
            _log.error("worker_process_not_started", process=number, error=str(error))
            return None
        self._processes[number] = process
        if self.stopping:  # while it was being started
            process.stop()
        if await process.listening():
            self._one_listened = True
            _log.info("worker_process_started", process=number, pid=process.pid)
        await process.ended()
        return process.exit_code


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
