"""What each queue allows: the limits that WORKER_QUEUES sets for one process, and what operators set."""

from collections import Counter
from collections.abc import Callable
from typing import Final, Self

from service.jobs.flow.queue_permits import QueuePermits
from service.jobs.flow.queue_rates import QueueRates
from service.jobs.flow.queue_settings import QueueSettings

ALL: Final = "*"
"""In WORKER_QUEUES: every queue."""

OWN_QUEUE: Final = "finmind"
"""The queue of the service's own jobs: every worker serves it, whatever WORKER_QUEUES says."""


class QueuePolicies:
    """Which queues a process serves, and how many jobs of each it may run at once."""

    def __init__(
        self,
        served: frozenset[str],
        limits: dict[str, int],
        running: Counter[str] | None = None,
        settings: QueueSettings | None = None,
        permits: QueuePermits | None = None,
        rates: QueueRates | None = None,
    ) -> None:
        self._served = served
        self.permits: Final = QueuePermits() if permits is None else permits
        """Whoever shares the limits shares these as well."""
        self.rates: Final = QueueRates() if rates is None else rates
        """Whoever shares the limits shares these as well."""
        self.settings: Final = QueueSettings() if settings is None else settings
        """Whoever shares the limits shares this as well."""
        self.limits: Final = limits
        """How many jobs may run at once, of the queues that have a limit."""
        self._running: Counter[str] = Counter() if running is None else running
        """Jobs of the queues that have a limit."""
        self.on_limit_freed: Callable[[], None] | None = None
        """Called when a queue that was at its limit is below it again."""

    @classmethod
    def parse(cls, queues: tuple[str, ...]) -> Self:
        """From `WORKER_QUEUES`: `emails:5` limits the queue `emails` to 5 running jobs."""
        limits = {
            name: int(limit)
            for name, _, limit in (entry.partition(":") for entry in queues)
            if limit
        }
        return cls(_names(queues), limits)

    def serving(self, queues: tuple[str, ...]) -> Self:
        """The same limits and the same running jobs, for whoever serves these queues."""
        return type(self)(
            _names(queues), self.limits, self._running, self.settings, self.permits, self.rates
        )

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
        """How many of `wanted` more jobs of the queue a claim may ask for."""
        allowed = self.allows_here(queue, wanted)
        permits = None if self.settings.acts_at_limit(queue) else self.permits.free(queue)
        if permits is not None:
            allowed = min(allowed, permits)
        starts = self.rates.free(queue)
        return allowed if starts is None else min(allowed, starts)

    def allows_here(self, queue: str, wanted: int) -> int:
        """The same, as far as this process alone is asked."""
        if self.settings.is_paused(queue):
            return 0
        limit = self.limits.get(queue)
        return wanted if limit is None else min(wanted, limit - self._running[queue])

    def may_leave_orphans(self, queue: str) -> bool:
        """Whether claims may ask for nothing of the queue although this process could run more of it."""
        return self.permits.free(queue) is not None or self.rates.free(queue) is not None

    def weight(self, queue: str) -> int:
        """How many jobs of the queue start for each of another of weight 1, while both have due jobs."""
        return self.settings.weights.get(queue, 1)

    def started(self, queue: str) -> None:
        """Count a job of a queue with a limit as running."""
        self._running[queue] += 1

    def ended(self, queue: str) -> None:
        """Count it no longer."""
        self._running[queue] -= 1
        if self._running[queue] == self.limits[queue] - 1 and self.on_limit_freed is not None:
            self.on_limit_freed()


def entries_of(queues: tuple[str, ...]) -> list[str]:
    """The entries of `WORKER_QUEUES`, with the queue that every worker serves."""
    names = {entry.partition(":")[0] for entry in queues}
    return list(queues) if names & {ALL, OWN_QUEUE} else [*queues, OWN_QUEUE]


def _names(queues: tuple[str, ...]) -> frozenset[str]:
    return frozenset(entry.partition(":")[0] for entry in entries_of(queues))
