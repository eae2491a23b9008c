"""The shape of every loop of a worker: named, restarted when it fails, stopped in order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from service.observability.logging import get_logger
from service.observability.metrics import WORKER_RESTARTS

CANCEL_AGAIN_SECONDS: Final = 0.5

_log = get_logger(__name__)


class Pause:
    """Waits after failures: 0.1 s, doubling to 5 s, with jitter so that processes spread."""

    FIRST_SECONDS: Final = 0.1

    def __init__(self, *, longest_seconds: float = 5.0) -> None:
        self._next = self.FIRST_SECONDS
        self._longest = longest_seconds

    async def wait(self) -> None:
        """Wait, and longer the next time."""
        await asyncio.sleep(self._next * random.uniform(0.5, 1.0))  # noqa: S311 - not cryptography
        self._next = min(self._next * 2, self._longest)

    def reset(self) -> None:
        """All is well again."""
        self._next = self.FIRST_SECONDS


class Loop:
    """One task that runs until it is stopped; if it fails it is logged, counted and run again."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._run = run
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the task runs."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._supervise(), name=f"jobs.{self.name}")

    async def join(self, *, timeout_seconds: float) -> None:
        """Wait until the task ends by itself; cancel it when the time is over."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_seconds)
        await self.stop()

    async def stop(self) -> None:
        """Cancel the task and wait for its end."""
        while self._task is not None and not self._task.done():
            # Again and again: a cancellation in the middle of a statement can come out as an error
            # of the connection that it cut, and the loop goes on after those.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CANCEL_AGAIN_SECONDS)

    async def _supervise(self) -> None:
        pause = Pause()
        while True:
            try:
                await self._run()
            except Exception:
                WORKER_RESTARTS.labels(self.name).inc()
                _log.exception("worker_loop_failed", loop=self.name)
                await pause.wait()
            else:
                return
