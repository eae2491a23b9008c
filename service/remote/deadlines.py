"""When runs of workers elsewhere are over, as far as this process knows: it ends them then.

Heartbeats end them as well, whatever process they come to. This is for those that are still to come, and
for the moment itself.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from service.db.errors import DATABASE_ERRORS
from service.errors import Unavailable
from service.jobs.core.claimed_job import Lease
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

MAX_WATCHED: Final = 100_000
"""Runs that one process looks after; those beyond are ended by their next heartbeat."""
BATCH: Final = 1000
LATE_SECONDS: Final = 0.05
"""How long after its time a run is looked at: a database whose clock is a little behind says so too."""
AGAIN_SECONDS: Final = 5.0
"""When runs are looked at again that could not be ended."""

_log = get_logger(__name__)


class Deadlines:
    """Calls `end` with the runs whose time is over."""

    def __init__(self, end: Callable[[Collection[Lease]], Awaitable[None]]) -> None:
        self._end = end
        self._at: dict[Lease, float] = {}
        """When each is over (monotonic)."""
        self._heap: list[tuple[float, Lease]] = []
        """The same in order, with entries that hold no longer."""
        self._earlier = asyncio.Event()

    def watch(self, lease: Lease, in_seconds: float) -> None:
        """A run is over in so many seconds."""
        if lease not in self._at and len(self._at) >= MAX_WATCHED:
            return
        at = time.monotonic() + in_seconds + LATE_SECONDS
        self._at[lease] = at
        if not self._heap or at < self._heap[0][0]:
            self._earlier.set()
        heapq.heappush(self._heap, (at, lease))
        if len(self._heap) > 2 * len(self._at) + BATCH:
            self._heap = [(at, lease) for lease, at in self._at.items()]
            heapq.heapify(self._heap)

    def forget(self, lease: Lease) -> None:
        """A run has ended."""
        self._at.pop(lease, None)

    async def run(self) -> None:
        """End runs until cancelled."""
        while True:
            self._earlier.clear()
            if due := self._due():
                await self._end_these(due)
                continue
            wait = self._heap[0][0] - time.monotonic() if self._heap else None
            try:
                async with asyncio.timeout(wait):
                    await self._earlier.wait()
            except TimeoutError:
                continue

    def _due(self) -> list[Lease]:
        due: list[Lease] = []
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now and len(due) < BATCH:
            at, lease = heapq.heappop(self._heap)
            if self._at.get(lease) == at:
                del self._at[lease]
                due.append(lease)
        return due

    async def _end_these(self, due: Collection[Lease]) -> None:
        try:
            await self._end(due)
        except (Unavailable, *DATABASE_ERRORS) as error:
            record_database_error("remote_timeouts")
            _log.warning("remote_runs_not_ended", jobs=len(due), error=type(error).__name__)
            for lease in due:
                self.watch(lease, AGAIN_SECONDS)
