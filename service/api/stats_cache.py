"""Statistics for many who ask: one query at a time, and its answer shared for a second."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from service.jobs.read.statistics import JobStats

KEPT_SECONDS: Final = 1.0
"""How long before the question the query may have begun. A query takes some 20 ms, and seconds while
a transaction is held open for long: then whoever watches keeps one connection busy."""


class StatsCache:
    """The statistics of one process, counted by one query at a time.

    A caller gets an answer whose query began after it asked, or at most `KEPT_SECONDS` before;
    never one from before the last `forget`.

    The query belongs to nobody who waits for it: it goes on when a caller leaves, and it has a
    time of its own. With the time of a caller that has waited for the query before, one moment in
    which the database hangs would leave every caller after it too little to be answered in.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flight: asyncio.Task[JobStats] | None = None
        self._began = -math.inf

    def forget(self) -> None:
        """Give nobody who asks from now on an answer from before: an operator changed something."""
        self._began = -math.inf

    async def get(
        self,
        query: Callable[[], Coroutine[Any, Any, JobStats]],
        *,
        deadline: float | None = None,
    ) -> JobStats:
        """The statistics; `query` is called where no answer is new enough, and must end by itself.

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
        # A failure is for those who waited. Asked for here, for they may all have left.
        if flight.cancelled() or flight.exception() is not None:
            self.forget()
