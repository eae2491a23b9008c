"""The built-in scan: due reminders become jobs without a call of `/reminders/run`."""

import asyncio
import random

from sqlalchemy.exc import SQLAlchemyError

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs.loops import Loop, Pause
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, reminder_event
from service.reminders import repository
from service.reminders.model import ReminderStatus
from service.reminders.scheduling import BATCH_SIZE, MAX_BATCHES, Scan, enqueue_all_due
from service.settings import Settings

_log = get_logger(__name__)


class ReminderLoop:
    """Scans every `REMINDER_SCAN_SECONDS`. Any number of processes may each run one."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._loop = Loop("reminders", self._run)

    async def start(self) -> None:
        """Begin scanning, with a first scan right away."""
        self._loop.start()

    async def stop(self) -> None:
        """Stop scanning; a scan in the middle of a batch is rolled back."""
        await self._loop.stop()

    async def scan(self) -> Scan:
        """One round: enqueue what is due, then end the reminders whose jobs have ended."""
        scan = await enqueue_all_due(self._database.sessions.begin, self._settings)
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
        usual = self._settings.reminder_scan_seconds
        failures = Pause(longest_seconds=usual)
        while True:
            try:
                await self.scan()
            except (*DATABASE_ERRORS, SQLAlchemyError) as error:
                record_database_error("reminder_scan")
                _log.warning("reminder_scan_failed", error=type(error).__name__)
                await failures.wait()
                continue
            failures.reset()
            # A little early or late, so that processes started together do not scan together.
            await asyncio.sleep(usual * random.uniform(0.9, 1.1))  # noqa: S311 - not cryptography
