"""When a job may begin that ends if its worker dies once more: apart from all others."""

import time
from collections.abc import Callable, Collection
from typing import Final

from service.jobs.verdicts import Attempt
from service.observability.logging import get_logger

APART_SECONDS: Final = 10.0
"""How long at most a process begins nothing else: until its handlers have ended, and again until the
job has. Poison that works later than that takes a lease from those beside it."""

LOOK_SECONDS: Final = 1.0
"""How often is looked for such a job, while some job has lost a lease."""

FEWEST_LOST_LEASES: Final = 2
"""A job that has lost fewer is no suspect, though the next one may end it."""

UnderWay = Callable[[], Collection[Attempt]]
"""What has begun and is not recorded yet, but for handlers that do not stop."""

_log = get_logger(__name__)


class LastChance:
    """Lets one such job at a time begin, while nothing else runs in this process.

    What was in flight together when a worker died comes back together. Begun together again and
    again, the job that kills its worker would take all the others with it; and one that was beside
    such jobs twice must not end because it is beside another one now. So other claims leave it
    alone: a process lets its handlers end, then claims it, and nothing else until it is recorded.
    Then as long again the others have their turn, if there are any.
    """

    def __init__(self, max_lost_leases: int) -> None:
        last = max_lost_leases - 1
        self.lost_leases = last if last >= FEWEST_LOST_LEASES else 0
        """How many such a job has lost; 0 where there is none such."""
        self.some_lost = False
        """Whether any job has lost a lease: the last listing tells."""
        self._members: set[UnderWay] = set()
        self._next_look = 0.0
        self._since: float | None = None
        """Since when this process begins nothing else."""
        self._until = 0.0
        self._begun = False
        """Whether the job runs, or the handlers are waited for still."""
        self._asked = False
        """Whether it is being claimed."""

    def join(self, under_way: UnderWay) -> None:
        """An engine of this process begins: what it runs is company."""
        self._members.add(under_way)

    def leave(self, under_way: UnderWay) -> None:
        """It runs nothing any more."""
        self._members.discard(under_way)

    def holds_back(self) -> bool:
        """Whether this process begins nothing now."""
        if self._since is None:
            return False
        now = time.monotonic()
        if self._begun:
            if self._asked or (self._runs() and now < self._until):
                return True
        elif self.some_lost:
            return self.in_company and now < min(self._until, self._next_look)
        self._turn_to_others()
        return False

    def is_due(self) -> bool:
        """Whether to look for such a job now."""
        if not self.some_lost or not self.lost_leases:
            return False
        waits = self._since is not None and not self._begun
        return (waits or time.monotonic() >= self._next_look) and not self._runs()

    def none_found(self) -> None:
        """There is none for this worker, or none any more: the others have their turn."""
        self._turn_to_others()

    def may_begin(self, job_id: int, job_type: str) -> bool:
        """That one was found; whether to claim it at once. Else nothing begins here until it may."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._until = now, now + APART_SECONDS
            if self.in_company:
                _log.warning(
                    "last_chance_waits", job_id=job_id, job_type=job_type, seconds=APART_SECONDS
                )
        if self.in_company and now < self._until:
            self._next_look = now + LOOK_SECONDS  # another worker may take it meanwhile
            return False
        self._begun, self._asked, self._until = True, True, now + APART_SECONDS
        return True

    def answered(self) -> None:
        """What `may_begin` allowed was done: the job runs, or there is none."""
        self._asked = False

    def nothing_else(self) -> None:
        """No other job is due: such a job need not wait for its turn."""
        if not self.in_company:
            self._next_look = 0.0

    @property
    def in_company(self) -> bool:
        """Whether anything is under way in this process."""
        return any(under_way() for under_way in self._members)

    def _turn_to_others(self) -> None:
        now = time.monotonic()
        took = now - self._since if self._since is not None else 0.0
        self._next_look = now + min(max(LOOK_SECONDS, took), 2 * APART_SECONDS)
        self._since, self._begun = None, False

    def _runs(self) -> bool:
        return any(
            attempt.job.lost_leases == self.lost_leases
            for under_way in self._members
            for attempt in under_way()
        )
