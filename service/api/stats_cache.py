"""Statistics for many who ask: one query at a time, and its answer kept when it was dear."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from service.jobs.read.statistics import JobStats

CHEAP_SECONDS: Final = 0.02
"""An answer that took no longer is not kept: whoever asks next gets the truth of that moment."""

KEPT_FOR: Final = 20
"""A dear answer is kept for so many times what it took: a twentieth of one connection at most, as
far as `MAX_KEPT_SECONDS` allows."""

LEAST_SECONDS: Final = 0.1
"""Whoever has less time left does not begin a query: it would only cut its connection."""

MAX_KEPT_SECONDS: Final = 60.0
"""While a transaction is held open the live counts walk dead entries for seconds: kept for less, they
would take most of a connection for as long as somebody watches. `JobStats.as_of` tells the age."""


class StatsCache:
    """The statistics of one process.

    A caller gets an answer whose query began after it asked, or one that is `MAX_KEPT_SECONDS`
    old at most; never one from before the last `forget`.
    """

    def __init__(self) -> None:
        self._turn = _Turn()
        self._stats: JobStats | None = None
        self._began = 0.0
        self._good_until = 0.0
        self._forgotten = 0.0

    def forget(self) -> None:
        """Give nobody who asks from now on an answer from before: an operator changed something."""
        self._forgotten = time.monotonic()

    async def get(
        self, query: Callable[[], Awaitable[JobStats]], *, deadline: float | None = None
    ) -> JobStats:
        """The statistics, by `query` where none are kept.

        Raises:
            TimeoutError: it is `deadline`, on the clock of the event loop, or too little is left of
                the time until then, and others still ask.
        """
        asked = time.monotonic()
        async with asyncio.timeout_at(deadline):
            await self._turn.take()
        try:
            began = time.monotonic()
            # Those who waited for the lock while this query ran asked before or after it began.
            good = self._began >= asked or self._good_until > began
            if self._stats is not None and good and self._began >= self._forgotten:
                return self._stats
            if (
                deadline is not None
                and deadline - asyncio.get_running_loop().time() < LEAST_SECONDS
            ):
                raise TimeoutError
            stats = await query()
            took = time.monotonic() - began
            kept = 0.0 if took <= CHEAP_SECONDS else min(KEPT_FOR * took, MAX_KEPT_SECONDS)
            self._stats, self._began, self._good_until = stats, began, began + took + kept
            return stats
        finally:
            self._turn.pass_on()


class _Turn:
    """A lock that whoever came last gets first.

    An answer serves all who asked before its query began. And they have the most time left: oldest
    first, a moment in which the database hangs would leave every one after it too little to be
    answered in, for as long as so many ask.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: list[asyncio.Future[None]] = []

    async def take(self) -> None:
        """Wait for the turn."""
        if not self._taken:
            self._taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:
                self.pass_on()
            raise

    def pass_on(self) -> None:
        """Give the turn to the newest, if anybody waits."""
        for turn in reversed(self._waiting):
            if not turn.done():
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._taken = False
