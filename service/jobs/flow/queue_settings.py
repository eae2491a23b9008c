"""What operators set for queues, as workers know it: pauses, limits, rates, weights."""

import time
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.queue_limits import AtLimit, QueueLimits, Rate

MAX_AGE_SECONDS: Final = 1.0
"""No claim begins with knowledge that is older: a pause holds in every process within this time,
whether or not its notification arrives."""

MAX_READS: Final = 2
"""How often it is read before one claim. A second time where the first took too long: this process
may have stood still after it. Not over and over: a slow database would start no job at all."""


class QueueSettings:
    """The table `queues`, read again before a claim once it is a second old."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._changes = 0
        """How often somebody told of a change: what was read meanwhile may be from before it."""
        self._keep(store.queues.Settings(frozenset(), {}))

    def _keep(self, read: store.queues.Settings) -> None:
        limits = read.limits
        self._limits = limits
        self.paused: frozenset[str] = read.paused
        """The queues of which nothing starts."""
        self.limited: frozenset[str] = frozenset(
            name
            for name, one in limits.items()
            if one.max_running is not None or one.max_running_per_key is not None
        )
        """The queues whose jobs may need a permit to start."""
        self.rates: dict[str, Rate] = {
            name: one.rate for name, one in limits.items() if one.rate is not None
        }
        """The rates of the queues of which so many jobs may start within a time."""
        self.rates_per_key: dict[str, Rate] = {
            name: one.rate_per_key for name, one in limits.items() if one.rate_per_key is not None
        }
        """Those of the queues of which so many jobs with the same concurrency key may."""
        self.weights: dict[str, int] = {
            name: one.weight for name, one in limits.items() if one.weight is not None
        }
        """The weights of queues that have one; that of the others is 1."""
        self.fair: frozenset[str] = frozenset(
            name for name, one in limits.items() if one.key_fairness
        )
        """The queues whose concurrency keys take turns."""

    def is_paused(self, queue: str) -> bool:
        """Whether nothing of the queue may start."""
        return queue in self.paused

    def acts_at_limit(self, queue: str) -> bool:
        """Whether jobs that find a limit reached do not just wait: those are to be claimed all the same."""
        limits = self._limits.get(queue)
        return limits is not None and limits.at_limit != AtLimit.WAIT

    def settings_of(self, queue: str) -> QueueLimits | None:
        """The limits of a queue; None where it has none."""
        return self._limits.get(queue)

    def forget(self) -> None:
        """Somebody changed a queue: read before the next claim."""
        self._changes += 1
        self._read_at = float("-inf")

    @property
    def seconds_until_old(self) -> float:
        """How long until it must be read again."""
        return max(0.0, self._read_at + MAX_AGE_SECONDS - time.monotonic())

    async def renew(self, link: Link) -> None:
        """Read it again if it is too old.

        Raises:
            DATABASE_ERRORS: the database did not answer.
        """
        for _ in range(MAX_READS):
            if self.seconds_until_old > 0:
                return
            began, changes = time.monotonic(), self._changes
            read = await store.queues.settings(link)
            if began >= self._read_at:  # else somebody else has read since
                self._keep(read)
                self._read_at = began if changes == self._changes else float("-inf")
