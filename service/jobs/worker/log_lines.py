"""Lines that handlers log about their jobs, written for many jobs with one statement."""

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS, REFUSED_ERRORS
from service.jobs import store
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.log_line import LogLine
from service.jobs.handlers.job_log import JobLog
from service.jobs.loops import Pause
from service.jobs.notify.changes import Changes
from service.observability.logging import get_logger
from service.observability.metrics import JOB_LOG_LINES, record_database_error
from service.settings import Settings

GATHER_SECONDS: Final = 0.2
"""How long lines are gathered before they are written."""
MAX_BATCH: Final = 1000
MAX_WAITING_BYTES: Final = 4 * MAX_STATEMENT_BYTES
"""What waits while the database is away, or too slow; further lines are dropped and counted."""

_log = get_logger(__name__)


class LogLines:
    """Writes lines in batches; a job that logs nothing costs nothing.

    A database that does not answer is waited for, and fails no attempt. What a process that is
    killed has gathered, up to `GATHER_SECONDS` of lines, is lost.
    """

    def __init__(self, link: Link, settings: Settings, changes: Changes) -> None:
        self._link = link
        self._settings = settings
        self._changes = changes
        self._waiting: deque[LogLine] = deque()
        self._bytes_waiting = 0
        self._lock = threading.Lock()  # handlers log in threads as well
        self._loop: asyncio.AbstractEventLoop | None = None
        self._some = asyncio.Event()
        self._hurry = asyncio.Event()
        """Set while somebody waits for what is gathered."""
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, job_id: JobId, lease_token: LeaseToken, attempt: int) -> JobLog:
        """The log of one attempt; called on the event loop or in a handler's thread."""
        return JobLog(
            job_id=job_id,
            lease_token=lease_token,
            attempt=attempt,
            max_lines=self._settings.job_log_lines,
            max_bytes=self._settings.job_log_bytes,
            put=self._put,
        )

    async def flushed(self, timeout_seconds: float) -> bool:
        """Wait until every line is written; False where the time ran out first."""
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._hurry.clear()
        return True

    async def run(self) -> None:
        """Write lines until cancelled."""
        self._loop = asyncio.get_running_loop()
        pause = Pause()
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._hurry.wait()
            self._some.clear()
            while batch := self._next_batch():
                try:
                    await self._write(batch)
                    pause.reset()
                    self._changes.happened({line.job_id for line in batch})
                except DATABASE_ERRORS as error:
                    self._put_back(batch)
                    record_database_error("job_logs")
                    _log.warning(
                        "job_logs_failed", waiting=len(self._waiting), error=type(error).__name__
                    )
                    await pause.wait()
            if not self._waiting:
                self._idle.set()

    def _put(self, line: LogLine) -> None:
        """Take a line, in whatever thread; returns at once."""
        loop = self._loop
        with self._lock:
            if loop is None or self._bytes_waiting + line.size > MAX_WAITING_BYTES:
                JOB_LOG_LINES.labels("dropped").inc()
                return
            self._waiting.append(line)
            self._bytes_waiting += line.size
        if not self._some.is_set():
            try:
                loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop is closed: a thread outlived the service
                JOB_LOG_LINES.labels("dropped").inc()

    def _wake(self) -> None:
        self._idle.clear()
        self._some.set()

    def _next_batch(self) -> list[LogLine]:
        batch: list[LogLine] = []
        size = 0
        with self._lock:
            while self._waiting and len(batch) < MAX_BATCH and size < MAX_STATEMENT_BYTES:
                line = self._waiting.popleft()
                size += line.size
                batch.append(line)
            self._bytes_waiting -= size
        return batch

    def _put_back(self, batch: list[LogLine]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(batch))
            self._bytes_waiting += sum(line.size for line in batch)

    async def _write(self, batch: list[LogLine]) -> None:
        """Write a batch; one that is refused is halved, down to the line that is the cause.

        Raises:
            DATABASE_ERRORS: nothing of it is known to be written.
        """
        try:
            await store.job_logs.write(self._link, batch)
        except REFUSED_ERRORS as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            JOB_LOG_LINES.labels("refused").inc()
            _log.error("job_log_refused", job_id=batch[0].job_id, error=type(error).__name__)
        else:
            JOB_LOG_LINES.labels("written").inc(len(batch))
