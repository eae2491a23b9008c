"""Time-outs of many runs on one timer."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final, Generic, Protocol, TypeVar

NEVER: Final = float("inf")

COARSEST_SECONDS: Final = 0.01
"""A time-out is noticed at most so late: looks at all runs come no closer together than this."""


class Timed(Protocol):
    """What has a time-out."""

    timeout_at: float
    """Monotonic; `NEVER` while there is none."""


TimedT = TypeVar("TimedT", bound=Timed)


class Timeouts(Generic[TimedT]):
    """Calls `overdue` once for each of `runs` that passes its `timeout_at`.

    A timer of the event loop's own for each run would cost more than the run's task: nearly all of
    them are cancelled long before they are due. One timer stands at the earliest time-out instead;
    when it goes off, all runs are looked at.
    """

    def __init__(self, runs: Collection[TimedT], overdue: Callable[[TimedT], None]) -> None:
        self._runs = runs
        self._overdue = overdue
        self._next = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, run: TimedT) -> None:
        """Note a time-out that was just set."""
        if run.timeout_at < self._next:
            self._arm(run.timeout_at)

    def close(self) -> None:
        """Watch no more."""
        self._arm(NEVER)

    def _arm(self, when: float) -> None:
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
        self._arm(min((run.timeout_at for run in self._runs), default=NEVER))
