"""What each queue allows: the limits that WORKER_QUEUES sets for one process."""

from collections import Counter
from collections.abc import Callable
from typing import Final, Self

ALL: Final = "*"
"""In WORKER_QUEUES: every queue."""


class QueuePolicies:
    """Which queues a process serves, and how many jobs of each it may run at once."""

    def __init__(
        self,
        served: frozenset[str],
        limits: dict[str, int],
        running: Counter[str] | None = None,
    ) -> None:
        self._served = served
        self.limits: Final = limits
        """How many jobs may run at once, of the queues that have a limit."""
        self._running: Counter[str] = Counter() if running is None else running
        """Jobs of the queues that have a limit."""
        self.on_limit_freed: Callable[[], None] | None = None
        """Called when a queue that was at its limit is below it again."""

    @classmethod
    def parse(cls, queues: tuple[str, ...]) -> Self:
        """From `WORKER_QUEUES`: `emails:5` limits the queue `emails` to 5 running jobs."""
        named = [entry.partition(":") for entry in queues]
        limits = {name: int(limit) for name, _, limit in named if limit}
        return cls(frozenset(name for name, _, _ in named), limits)

    def serving(self, queues: tuple[str, ...]) -> Self:
        """The same limits and the same running jobs, for whoever serves these queues."""
        served = frozenset(entry.partition(":")[0] for entry in queues)
        return type(self)(served, self.limits, self._running)

    @property
    def served(self) -> list[str] | None:
        """The queues served by name; None for all."""
        return None if ALL in self._served else sorted(self._served)

    def serves(self, queue: str) -> bool:
        """Whether jobs of the queue are taken."""
        return ALL in self._served or queue in self._served

    @property
    def at_limit(self) -> bool:
        """Whether some queue is at its limit: it may have due jobs although a claim found none."""
        return any(self._running[queue] >= limit for queue, limit in self.limits.items())

    def allows(self, queue: str, wanted: int) -> int:
        """How many of `wanted` more jobs of the queue may run."""
        limit = self.limits.get(queue)
        return wanted if limit is None else min(wanted, limit - self._running[queue])

    def started(self, queue: str) -> None:
        """Count a job of a queue with a limit as running."""
        self._running[queue] += 1

    def ended(self, queue: str) -> None:
        """Count it no longer."""
        self._running[queue] -= 1
        if self._running[queue] == self.limits[queue] - 1 and self.on_limit_freed is not None:
            self.on_limit_freed()
