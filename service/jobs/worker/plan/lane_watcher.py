"""Lists the lanes that hold jobs, less often when listing is slow."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.lane import MAX_LANES, Lane
from service.jobs.flow.queues import QueuePolicies
from service.jobs.loops import Pause
from service.jobs.worker.plan.ageing import Ageing
from service.jobs.worker.plan.lanes import HEAD_WINDOW_SECONDS, Lanes
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

LISTING_SHARE: Final = 0.02
"""Share of the time that listing may take: slow listings (dead index entries) come less often."""

MAX_PAUSE_SECONDS: Final = 60.0

SLOW_LISTING_SECONDS: Final = 0.25
"""After one that took longer, `SWEEP_SECONDS` pass until the next, whoever asks for it."""

RECENT_QUEUES: Final = 100
"""Queues that are looked at for recent jobs."""

SLACK_SECONDS: Final = 0.005
"""How much too early a due time may seem: the way of the answer, and timers that go off early. A
claim that came before it would wait for the next look."""

_log = get_logger(__name__)


class LaneWatcher:
    """Keeps what a worker knows of the lanes in line with the table.

    It has a connection of its own: a listing walks dead index entries while they cannot be removed,
    and claims do not wait for that.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        lanes: Lanes,
        ageing: Ageing,
        queues: QueuePolicies,
        wake: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._link = link
        self._lanes = lanes
        self._ageing = ageing
        self._queues = queues
        self._wake = wake
        self._asked = asyncio.Event()
        self._up_to: Lane | None = None
        self._next_due = float("inf")
        self.listed = False
        """Whether `watch` has listed the lanes once."""

    def ask(self) -> None:
        """List them again soon: jobs came somewhere."""
        self._asked.set()

    async def watch(self) -> None:
        """List the lanes over and over, until cancelled."""
        failures = Pause()
        last_took = 0.0
        while True:
            self._asked.clear()
            began, known_due = time.monotonic(), self._next_due
            try:
                found = await self.once()
            except DATABASE_ERRORS as error:
                _listing_failed(error)
                await failures.wait()
                continue
            failures.reset()
            if found or not self.listed or self._next_due < known_due - SLACK_SECONDS:
                self._wake()
            took = time.monotonic() - began
            # One that was slow says nothing: the network may have been, or this process stood still.
            slow, last_took = min(took, last_took), took
            # But the first is taken at its word: a second is asked for as soon as LISTEN stands.
            rests = (slow if self.listed else took) > SLOW_LISTING_SECONDS
            rest = self._settings.sweep_seconds if rests else 0.0
            self.listed = True
            await asyncio.sleep(rest)
            pause = max(self._settings.poll_max_seconds, slow / LISTING_SHARE)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, MAX_PAUSE_SECONDS) - rest):
                    await self._asked.wait()

    async def once(self) -> bool:
        """Look which lanes there are; whether one is due that was unknown.

        Where there are more than `MAX_LANES`, the next call goes on behind those of this one.

        Raises:
            DATABASE_ERRORS: the database did not answer.
        """
        now = time.monotonic()
        served = self._queues.served
        if served is not None:
            heads = await store.lanes.of_queues(self._link, served)
        else:
            heads = await store.lanes.listed(self._link, limit=MAX_LANES, after=self._up_to)
            more = len(heads) == MAX_LANES
            if more and self._up_to is None:
                _log.warning("many_lanes", more_than=MAX_LANES)
            self._up_to = heads[-1].lane if more else None
        waits = [head.due_in_seconds for head in heads]
        self._next_due = now + min((wait for wait in waits if wait > 0), default=float("inf"))
        self._ageing.listed(heads)
        return self._lanes.replace(heads)

    @property
    def complete(self) -> bool:
        """Whether the last one came to the last lane."""
        return self._up_to is None

    async def add_recent(self, link: Link) -> None:
        """Add lanes where jobs came recently, without a listing; over a connection that is free."""
        try:
            lanes = await store.lanes.recent(
                link,
                self._queues.served,
                within_seconds=HEAD_WINDOW_SECONDS,
                limit=RECENT_QUEUES,
            )
        except DATABASE_ERRORS as error:
            _listing_failed(error)
        else:
            self._lanes.add(lanes)

    def seconds_until_due(self) -> float:
        """How long until the first job that was listed is due; 0 where it has been already."""
        return max(0.0, self._next_due + SLACK_SECONDS - time.monotonic())


def _listing_failed(error: Exception) -> None:
    record_database_error("lanes")
    _log.warning("listing_failed", error=type(error).__name__)
