"""In which order a claim asks queues, and how many jobs it may bring of each."""

import math
import random
from collections import Counter
from collections.abc import Iterable

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.flow.queues import QueuePolicies


class QueueShares:
    """Divides the slots of a process among the queues that have due jobs, by their weights.

    It is start-time fair queueing (Goyal, Vin and Cheng, 1996) with claims in place of packets. Each
    queue has a tag: how many jobs it has started, over its weight. The queue with the lowest tag is
    asked first and the others after it, each for its share of what is left, the last one for all of
    it: what a queue has no jobs for goes to others in the same claim. A queue that had no due jobs
    saves nothing up: its tag is never below that of those that were served last.
    """

    def __init__(self, queues: QueuePolicies) -> None:
        self._queues = queues
        self._tags: dict[str, float] = {}
        """Those above the lowest."""
        self._lowest = 0.0
        """The tag of whoever had least, of those that the last claim brought jobs of."""
        self._several = False
        self._least = math.inf
        """The lowest tag of those that brought jobs since queues were asked for."""
        self._cut: dict[str, int] = {}
        """Queues that the last claim asked for fewer jobs than they may start, and for how many."""

    def of_claim(self, queues: Iterable[str], limit: int) -> list[tuple[str, int]]:
        """Those of these queues that may start jobs, in order, and how many jobs to ask each for."""
        most = {queue: self._queues.allows(queue, limit) for queue in queues}
        allowed = [(queue, jobs) for queue, jobs in most.items() if jobs > 0]
        self._cut, self._least = {}, math.inf
        self._several = len(allowed) > 1
        if not self._several:
            self._tags = {}
            return allowed
        allowed.sort(key=lambda entry: (self._tag(entry[0]), random.random()))  # noqa: S311
        weights = [self._queues.weight(queue) for queue, _ in allowed]
        left = sum(weights)
        shares = []
        for (queue, jobs), weight in zip(allowed, weights, strict=True):
            share = math.ceil(limit * weight / left)
            left -= weight
            if share < jobs:
                self._cut[queue] = share
            shares.append((queue, min(share, jobs)))
        return shares

    def took(self, jobs: Iterable[ClaimedJob], *, full: bool) -> bool:
        """Take in what the claim, or a part of it, brought, and whether that is all that it could.

        Returns:
            Whether some queue has more due jobs than its share, while slots are left.
        """
        if not self._several:
            return False
        brought = Counter(job.queue for job in jobs)
        if not brought:
            return False
        tags = {queue: self._tag(queue) for queue in brought}
        self._least = min(self._least, *tags.values())
        self._lowest = max(self._lowest, self._least)
        for queue, count in brought.items():
            self._tags[queue] = tags[queue] + count / self._queues.weight(queue)
        self._tags = {queue: tag for queue, tag in self._tags.items() if tag > self._lowest}
        return not full and any(brought[queue] >= share for queue, share in self._cut.items())

    def _tag(self, queue: str) -> float:
        return max(self._tags.get(queue, 0.0), self._lowest)
