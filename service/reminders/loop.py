"""The built-in scan: due reminders become jobs without anybody calling `/reminders/run`."""

import asyncio
import contextlib
import random
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from service.db.engine import DATABASE_ERRORS, Database
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, reminder_event
from service.reminders import repository
from service.reminders.model import ReminderStatus
from service.reminders.scheduling import BATCH_SIZE, MAX_BATCHES, Scan, enqueue_all_due
from service.settings import Settings

FIRST_PAUSE_SECONDS: Final = 0.5
"""Pause after a first failed scan; doubled after each further one, up to the usual pause."""

_log = get_logger(__name__)


class ReminderLoop:
    """Scans every `REMINDER_SCAN_SECONDS`. Any number of processes may each run one."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._failures = 0

    async def start(self) -> None:
        """Begin scanning, with a first scan right away."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.create_task(self._run(), name="reminder-loop")

    async def stop(self) -> None:
        """Stop scanning; a scan in the middle of a batch is rolled back."""
        task, self._task = self._task, None
        if task is not None:
            # Both: a cancellation in the middle of a statement can come out as a database error
            # of the rollback, and the loop goes on after those.
            self._stopping.set()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def running(self) -> bool:
        """Whether it is started and alive."""
        return self._task is not None and not self._task.done()

    async def scan(self) -> Scan:
        """One round: enqueue what is due, then end the reminders whose jobs have ended."""
        scan = await enqueue_all_due(self._database, self._settings)
        await self._reconcile()
        if scan.enqueued:
            _log.info("reminders_enqueued", count=scan.enqueued)
        return scan

    async def _reconcile(self) -> None:
        for _ in range(MAX_BATCHES):
            async with self._database.sessions.begin() as session:
                ended = await repository.reconcile(session, BATCH_SIZE)
            for channel, status in ended:
                event = "failed" if status is ReminderStatus.FAILED else "cancelled"
                reminder_event(event, channel, "job_ended")
            if len(ended) < BATCH_SIZE:
                break

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.scan()
                self._failures = 0
            except (*DATABASE_ERRORS, SQLAlchemyError) as error:
                self._failures += 1
                record_database_error("reminder_scan")
                _log.warning(
                    "reminder_scan_failed", error=type(error).__name__, failures=self._failures
                )
            except Exception:
                # The edge of a loop that must not die: reminders would silently stop.
                self._failures += 1
                record_database_error("reminder_scan_unexpected")
                _log.exception("reminder_scan_failed", failures=self._failures)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._stopping.wait()

    def _pause(self) -> float:
        usual = self._settings.reminder_scan_seconds
        if self._failures:
            return float(min(usual, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 16)))
        # A little early or late, so that processes started together do not scan together.
        return usual * random.uniform(0.9, 1.1)  # noqa: S311 - not cryptography
