"""A counting semaphore that is taken in batches: how many jobs a process runs at once."""

import asyncio
from collections.abc import Callable
from typing import Final, Self

from service.jobs.flow.queues import ALL, QueuePolicies


class Slots:
    """The jobs that one process may run at once, and the policies of their queues.

    asyncio.Semaphore hands out one permit a call; a claim takes as many as are free.
    """

    def __init__(self, total: int, queues: QueuePolicies | None = None) -> None:
        self.total = total
        self.queues = queues or QueuePolicies.parse((ALL,))
        """Whoever shares the slots shares the limits of the queues."""
        self._used = 0
        self._freed = asyncio.Event()
        self.claiming = asyncio.Lock()
        """Held from looking how many slots are free until they are taken."""
        self.on_wanted: Final[set[Callable[[], None]]] = set()
        """Called where jobs that wait to start together should wait no longer."""

    @classmethod
    def parse(cls, total: int, queues: tuple[str, ...]) -> Self:
        """From `WORKER_CONCURRENCY` and `WORKER_QUEUES`."""
        return cls(total, QueuePolicies.parse(queues))

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self._used

    @property
    def free(self) -> int:
        """Slots that are free."""
        return self.total - self._used

    def take(self, queue: str) -> None:
        """Take one slot; the caller has looked that one is free."""
        self._used += 1
        if queue in self.queues.limits:
            self.queues.started(queue)

    def release(self, queue: str) -> None:
        """Give one slot back."""
        self._used -= 1
        if queue in self.queues.limits:
            self.queues.ended(queue)
        self._freed.set()

    def look_again(self) -> None:
        """Let whoever waits check whether it still has a reason to."""
        self._freed.set()

    def hurry(self) -> None:
        """Have jobs that wait to start together do so: their slots are needed, or no more of them may come."""
        for wanted in self.on_wanted:
            wanted()

    async def wait_for(
        self, wanted: int, timeout_seconds: float, *, unless: asyncio.Event | None = None
    ) -> None:
        """Wait until `wanted` slots are free, the time is over, or `unless` is set.

        Whoever sets `unless` calls `look_again`.
        """
        if self.free < wanted:
            self.hurry()
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.free < wanted and not (unless and unless.is_set()):
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            return
