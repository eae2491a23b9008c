"""The loop that acts on schedules when they are due. Every process with a worker runs one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.errors import Conflict
from service.jobs.loops import Loop, Pause
from service.jobs.notify.messages import Message, Schedules
from service.jobs.notify.subscriber import Subscription
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.schedules import repository
from service.schedules.endings import note_endings
from service.schedules.firing import act_on_due
from service.settings import Settings

BATCH: Final = 500
"""Schedules that one transaction acts on."""

SHORTEST_SECONDS: Final = 0.002
"""A little after the time of a tick, so that the database's clock has reached it."""

OTHERS_SECONDS: Final = 0.05
"""Pause where other processes hold all that is due."""

ENDINGS_BATCH: Final = 1000
ENDINGS_SECONDS: Final = 2.0
"""How often it is noted how runs ended; less often where that takes over a twentieth of the time."""
ENDINGS_SHARE: Final = 0.05
MAX_ENDINGS_PAUSE_SECONDS: Final = 60.0

_log = get_logger(__name__)


class Ticker:
    """Looks when the next schedule is due, sleeps until then, and acts on it; notes how runs ended."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._poll_seconds = settings.schedule_poll_seconds
        self._changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._open_runs = asyncio.Event()
        """Whether there are runs whose end is not noted, as the last look found."""
        self._loops = (
            Loop("schedules", lambda: self._repeat(self.look, self._changed)),
            Loop("schedule_endings", lambda: self._repeat(self.note_endings, asyncio.Event())),
        )

    async def start(self) -> None:
        """Begin, with a first look right away."""
        self._subscription = Subscription(self._notified, is_worker=False)
        for loop in self._loops:
            loop.start()

    async def stop(self) -> None:
        """Stop; a transaction that is under way is rolled back."""
        if self._subscription is not None:
            self._subscription.close()
        for loop in self._loops:
            await loop.stop()

    def _notified(self, message: Message) -> None:
        if isinstance(message, Schedules):
            self._changed.set()

    async def look(self) -> float:
        """Act on what is due; in how many seconds to look again."""
        async with self._database.engine.connect() as connection:
            # One statement, without the two of a transaction: it is all that an idle process sends.
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            seconds, open_runs = await repository.due_in(connection)
        if open_runs:
            self._open_runs.set()
        if seconds is None or seconds > 0:
            wait = self._poll_seconds if seconds is None else seconds + SHORTEST_SECONDS
            return min(wait, self._poll_seconds)
        acted = 0
        while True:
            async with self._database.sessions.begin() as session:
                done = await act_on_due(session, limit=BATCH)
            acted += done.schedules
            if done.schedules < BATCH:
                return 0.0 if acted else OTHERS_SECONDS

    async def note_endings(self) -> float:
        """Note how runs ended; in how many seconds to look again."""
        await self._open_runs.wait()
        self._open_runs.clear()
        began = time.monotonic()
        async with self._database.sessions.begin() as session:
            ended = await note_endings(session, limit=ENDINGS_BATCH)
        if ended == ENDINGS_BATCH:
            self._open_runs.set()
            return 0.0
        took = (time.monotonic() - began) / ENDINGS_SHARE
        return min(max(ENDINGS_SECONDS, took), MAX_ENDINGS_PAUSE_SECONDS)

    async def _repeat(self, step: Callable[[], Awaitable[float]], woken: asyncio.Event) -> None:
        failures = Pause(longest_seconds=5.0)
        while True:
            try:
                woken.clear()
                seconds = await step()
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await woken.wait()
            except (*DATABASE_ERRORS, SQLAlchemyError, Conflict) as error:
                record_database_error("schedules")
                _log.warning(
                    "schedules_failed", error=type(error).__name__, detail=str(error)[:200]
                )
                await failures.wait()
                continue
            failures.reset()
