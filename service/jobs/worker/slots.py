"""A counting semaphore that is taken in batches: who may run, in all and by queue."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Self


class Slots:
    """The jobs that one process may run at once; `limits` bounds single queues below that.

    asyncio.Semaphore hands out one permit a call; a claim takes as many as are free.
    """

    def __init__(self, total: int, limits: dict[str, int] | None = None) -> None:
        self.total = total
        self._limits = dict(limits or {})
        self._used = 0
        self._used_by: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self.claiming = asyncio.Lock()
        """Held from looking how many slots are free until they are taken."""
        self.on_limit_freed: Callable[[], None] | None = None
        """Called when a queue that was at its limit is so no longer: the worker's, whoever else
        takes slots."""

    @classmethod
    def parse(cls, total: int, queues: tuple[str, ...]) -> Self:
        """From `WORKER_QUEUES`: `emails:5` bounds the queue `emails` at 5."""
        limits = {}
        for entry in queues:
            name, _, limit = entry.partition(":")
            if limit:
                limits[name] = int(limit)
        return cls(total, limits)

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self._used

    @property
    def free(self) -> int:
        """Slots that are free."""
        return self.total - self._used

    @property
    def withheld(self) -> bool:
        """Whether some queue is at its limit: it may have due jobs although a claim found none."""
        return any(self._used_by[queue] >= limit for queue, limit in self._limits.items())

    def within_limit(self, queue: str, wanted: int) -> int:
        """How many of so many jobs the limit of their queue lets run beside those that do."""
        limit = self._limits.get(queue)
        return wanted if limit is None else min(wanted, limit - self._used_by[queue])

    def take(self, queue: str) -> None:
        """Take one slot; the caller has looked that one is free."""
        self._used += 1
        if queue in self._limits:
            self._used_by[queue] += 1

    def release(self, queue: str) -> None:
        """Give one slot back."""
        self._used -= 1
        limit = self._limits.get(queue)
        if limit is not None:
            self._used_by[queue] -= 1
            if self._used_by[queue] == limit - 1 and self.on_limit_freed is not None:
                self.on_limit_freed()
        self._freed.set()

    def look_again(self) -> None:
        """Let whoever waits look whether it still has a reason to."""
        self._freed.set()

    async def wait_for(
        self, wanted: int, timeout_seconds: float, *, unless: asyncio.Event | None = None
    ) -> None:
        """Wait until `wanted` slots are free, the time is over, or there is no reason to any more.

        Whoever sets `unless` says so with `look_again`.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.free < wanted and not (unless and unless.is_set()):
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            return
