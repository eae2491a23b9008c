"""When a job may begin that ends if its worker dies once more: apart from all others."""

import time
from typing import Final

from service.jobs.runner import Runner
from service.observability.logging import get_logger

APART_SECONDS: Final = 10.0
"""How long at most a worker begins nothing else: until its handlers have ended, and again until the
job has. Poison that works later than that takes a lease from those beside it."""

LOOK_SECONDS: Final = 1.0
"""How often is looked for such a job, while some job has lost a lease."""

_log = get_logger(__name__)


class LastChance:
    """Lets one such job at a time begin, while nothing else runs in this worker.

    What was in flight together when a worker died comes back together. Begun together again and
    again, the job that kills its worker would take all the others with it; and one that was beside
    such jobs twice must not end because it is beside another one now. So other claims leave it
    alone: a worker lets its handlers end, then claims it, and nothing else until it has ended. A
    worker spends half of its time so at the most: as long again the others have their turn.
    """

    def __init__(self, runner: Runner, *, max_lost_leases: int) -> None:
        self._runner = runner
        self.lost_leases = max_lost_leases - 1
        """How many such a job has lost; 0 where every job would be one."""
        self.some_lost = False
        """Whether any job has lost a lease: the last listing tells."""
        self._next_look = 0.0
        self._since: float | None = None
        """Since when this worker begins nothing else."""
        self._until = 0.0
        self._begun = False
        """Whether the job runs, or its worker's handlers are waited for still."""

    def holds_back(self) -> bool:
        """Whether this worker begins nothing now."""
        if self._since is None:
            return False
        waits = self._runs() if self._begun else self.in_company
        if waits and time.monotonic() < self._until:
            return True
        if self._begun:
            self._turn_to_others()
        return False

    def is_due(self) -> bool:
        """Whether to look for such a job now."""
        return (
            self.some_lost
            and self.lost_leases > 0
            and time.monotonic() >= self._next_look
            and not self._runs()
        )

    def none_found(self) -> None:
        """There is no such job for this worker: the others have their turn."""
        self._turn_to_others()

    def may_begin(self) -> bool:
        """There is one; whether to claim it at once. Else nothing begins here until it may."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._until = now, now + APART_SECONDS
            if self.in_company:
                _log.warning("last_chance_waits", seconds=APART_SECONDS)
        if self.in_company and now < self._until:
            return False
        self._begun, self._until = True, now + APART_SECONDS
        return True

    def nothing_else(self) -> None:
        """There is nothing else to claim: such a job need not wait for its turn."""
        self._next_look = 0.0

    @property
    def in_company(self) -> bool:
        """Whether any handler runs here that has not been given up."""
        return any(not run.ended for run in self._runner.runs)

    def _turn_to_others(self) -> None:
        now = time.monotonic()
        took = now - self._since if self._since is not None else 0.0
        self._next_look = now + max(LOOK_SECONDS, took)
        self._since, self._begun = None, False

    def _runs(self) -> bool:
        return any(
            run.job.lost_leases == self.lost_leases and not run.ended for run in self._runner.runs
        )
