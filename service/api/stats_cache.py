"""Shares statistics among callers: one query at a time, its answer kept for a second."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from service.jobs.read.statistics import JobStats

KEPT_SECONDS: Final = 1.0
"""How long before the call the query may have begun. A query takes some 20 ms, and seconds while a
transaction is held open for long: then frequent calls keep one connection busy."""


class StatsCache:
    """The statistics of one process, counted by one query at a time.

    A caller gets an answer whose query began after it asked, or at most `KEPT_SECONDS` before;
    never one from before the last `forget`.

    The query does not belong to a caller: it continues when a caller leaves, and has a timeout of its
    own. If it used the remaining time of the caller that started it, one moment in which the database
    hangs would leave the callers after it too little time.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flight: asyncio.Task[JobStats] | None = None
        self._began = -math.inf

    def forget(self) -> None:
        """Drop earlier answers, for all later callers: an operator changed something."""
        self._began = -math.inf

    async def get(
        self,
        query: Callable[[], Coroutine[Any, Any, JobStats]],
        *,
        deadline: float | None = None,
    ) -> JobStats:
        """The statistics; calls `query`, which must end by itself, if no answer is new enough.

        Raises:
            TimeoutError: it is `deadline`, on the clock of the event loop.
        """
        asked = self._clock()
        async with asyncio.timeout_at(deadline):
            while self._flight is None or self._began < asked - KEPT_SECONDS:
                if self._flight is None or self._flight.done():
                    self._flight = asyncio.create_task(query(), name="statistics")
                    self._flight.add_done_callback(self._landed)
                    self._began = self._clock()
                else:
                    await asyncio.wait([self._flight])
            flight = self._flight
            await asyncio.wait([flight])
        return flight.result()

    def _landed(self, flight: asyncio.Task[JobStats]) -> None:
        # A failure is raised to those who waited. Read it here too, for they may all have left.
        if flight.cancelled() or flight.exception() is not None:
            self.forget()
