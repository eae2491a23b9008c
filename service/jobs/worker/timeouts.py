"""Notices handlers that run past their timeout, many runs on one timer.

How long a handler may run is decided in `core/job_types.py`; `executor.py` starts the clock and
cancels the handler; what that means for the job is in `core/outcome_policy.py`.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

from service.jobs.worker.run import NEVER, Run

COARSEST_SECONDS: Final = 0.01
"""Runs are looked at no more often than this, so a timeout may be noticed so late."""


class Timeouts:
    """Calls `overdue` once for each of `runs` that passes its `timeout_at`.

    A timer of the event loop for each run would cost more than the run's task, and nearly all of
    them would be cancelled long before they are due. So there is one timer, set to the earliest
    timeout; when it goes off, all runs are looked at.
    """

    def __init__(self, runs: Collection[Run], overdue: Callable[[Run], None]) -> None:
        self._runs = runs
        self._overdue = overdue
        self._next = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, run: Run) -> None:
        """Note a timeout that was just set."""
        if run.timeout_at < self._next:
            self._set_timer(run.timeout_at)

    def close(self) -> None:
        """Stop watching."""
        self._set_timer(NEVER)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next = when
        if when < NEVER:
            wait = max(when - time.monotonic(), COARSEST_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for run in [run for run in self._runs if run.timeout_at <= now]:
            run.timeout_at = NEVER
            self._overdue(run)
        self._set_timer(min((run.timeout_at for run in self._runs), default=NEVER))
