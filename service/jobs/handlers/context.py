"""What a handler gets beside the payload."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from service.jobs.core.encoding import dump_json
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.log_line import Level
from service.jobs.core.schedule_tick import ScheduleTick
from service.jobs.handlers.job_log import JobLog
from service.jobs.handlers.parents import ParentJob
from service.jobs.handlers.stepping import OpenSteps, Stepping, loop_here
from service.observability.logging import get_logger

MAX_PROGRESS_BYTES: Final = 4_096
PARENTS_WAIT_SECONDS: Final = 60.0
"""Bound on a thread's wait for its parents: more than the timeouts of the database."""

TICK_WAIT_SECONDS: Final = 60.0
"""Bound on a thread's wait for its tick: more than the timeouts of the database."""

PROGRESS_WAIT_SECONDS: Final = 60.0
"""Bound on a thread's wait for its progress to be written: more than the timeouts of the database."""


class JobContext(Stepping):
    """One attempt at one job, as its handler sees it.

    Attributes:
        job_id: the job.
        job_type: its type.
        attempt: 1 for the first run.
        is_last_attempt: whether a failure of this attempt ends the job.
        lease_token: grows with every claim of any job: a fencing token for other systems.
        cancelled: true once the handler should stop: timeout, lost lease, shutdown, or somebody cancelled
            its job. Coroutines are cancelled as well; plain functions must look.
    """

    __slots__ = (
        "_job_log",
        "_open_log",
        "_read_parents",
        "_read_tick",
        "_write",
        "attempt",
        "cancelled",
        "is_last_attempt",
        "job_id",
        "job_type",
        "lease_token",
    )

    def __init__(
        self,
        *,
        job_id: JobId,
        job_type: str,
        attempt: int,
        is_last_attempt: bool,
        lease_token: LeaseToken,
        write: Callable[[str], Coroutine[Any, Any, bool]],
        open_log: Callable[[JobId, LeaseToken, int], JobLog],
        read_parents: Callable[[JobId, int], Coroutine[Any, Any, list[ParentJob]]],
        open_steps: OpenSteps,
        read_tick: Callable[[JobId], Coroutine[Any, Any, ScheduleTick | None]],
    ) -> None:
        super().__init__(open_steps)
        self.job_id = job_id
        self.job_type = job_type
        self.attempt = attempt
        self.is_last_attempt = is_last_attempt
        self.lease_token = lease_token
        self.cancelled = False
        self._write = write
        self._open_log = open_log
        self._read_parents = read_parents
        self._read_tick = read_tick
        self._job_log: JobLog | None = None

    @property
    def logger(self) -> FilteringBoundLogger:
        """A logger of the service's own log; job id, type and attempt are on every line of it."""
        return get_logger(f"job.{self.job_type}")

    def log(self, message: str, *, level: Level = "info", **fields: Any) -> None:
        """Log a line about the job, for operators to see: `ctx.log("sent", recipients=3)`.

        Returns at once, in coroutines and in threads. Lines are written a moment later, whatever
        becomes of the attempt; those of the last moment of a process that is killed are lost.
        An attempt keeps `JOB_LOG_LINES` lines and `JOB_LOG_BYTES` bytes. Log no secrets.

        Args:
            message: 4,000 characters are kept.
            level: `debug`, `info`, `warning` or `error`.
            fields: values beside the message, written as JSON, or as text where JSON has no form for
                them; long ones are cut.

        Raises:
            ValueError: there is no such level.
        """
        self.keep_line(level, message, fields)

    def keep_line(self, level: Level, message: str, fields: Mapping[str, Any]) -> None:
        """The same with the fields in a mapping, whatever their names.

        Raises:
            ValueError: there is no such level.
        """
        if self._job_log is None:
            self._job_log = self._open_log(self.job_id, self.lease_token, self.attempt)
        self._job_log.write(level, message, fields)

    def parents(self, *, after_id: int = 0) -> Coroutine[Any, Any, list[ParentJob]]:
        """Read what became of the jobs in `after`, with their results: `await ctx.parents()`.

        Args:
            after_id: where the page begins. A page has 1,000 parents at most, by id, and about 16 MB of
                results: of more ask again with the id of the last, until nothing comes.

        Raises:
            RuntimeError: called in a thread: a plain function calls `parents_sync`.
            DATABASE_ERRORS: awaited, the database did not answer: let the attempt fail.
        """
        if loop_here() is not self._loop:
            raise RuntimeError(
                "ctx.parents is for `async def` handlers; in a plain function or a thread call "
                "ctx.parents_sync(), without await"
            )
        return self._read_parents(self.job_id, after_id)

    def parents_sync(self, *, after_id: int = 0) -> list[ParentJob]:
        """The same for handlers that are plain functions.

        Raises:
            RuntimeError: called on the event loop, which it would block: `await ctx.parents`.
            DATABASE_ERRORS: the database did not answer.
        """
        if loop_here() is not None:
            raise RuntimeError("ctx.parents_sync would block the event loop: await ctx.parents")
        reading = self._read_parents(self.job_id, after_id)
        return asyncio.run_coroutine_threadsafe(reading, self._loop).result(PARENTS_WAIT_SECONDS)

    def tick(self) -> Coroutine[Any, Any, ScheduleTick | None]:
        """Read which tick of a schedule the job is for: `await ctx.tick()`; None: it is for none.

        Raises:
            RuntimeError: called in a thread: a plain function calls `tick_sync`.
            DATABASE_ERRORS: awaited, the database did not answer: let the attempt fail.
        """
        if loop_here() is not self._loop:
            raise RuntimeError(
                "ctx.tick is for `async def` handlers; in a plain function or a thread call "
                "ctx.tick_sync(), without await"
            )
        return self._read_tick(self.job_id)

    def tick_sync(self) -> ScheduleTick | None:
        """The same for handlers that are plain functions.

        Raises:
            RuntimeError: called on the event loop, which it would block: `await ctx.tick`.
            DATABASE_ERRORS: the database did not answer.
        """
        if loop_here() is not None:
            raise RuntimeError("ctx.tick_sync would block the event loop: await ctx.tick")
        reading = self._read_tick(self.job_id)
        return asyncio.run_coroutine_threadsafe(reading, self._loop).result(TICK_WAIT_SECONDS)

    def progress(self, fraction: float, message: str = "") -> Coroutine[Any, Any, bool]:
        """Record how far the job is, for operators to see: `await ctx.progress(0.5, "half")`.

        Args:
            fraction: 0 to 1.
            message: a few words; 1,000 characters are kept.

        A database that does not answer is logged and counted, and is no reason to stop.

        Returns:
            False where the lease was lost: nothing was written, and the handler should stop.

        Raises:
            PayloadError: the message cannot be stored.
            RuntimeError: called in a thread: a plain function calls `progress_sync`.
        """
        if loop_here() is not self._loop:
            # A coroutine that nobody awaits would record nothing, and no one would notice.
            raise RuntimeError(
                "ctx.progress is for `async def` handlers; in a plain function or a thread call "
                "ctx.progress_sync(fraction, message), without await"
            )
        return self._write(progress_text(fraction, message))

    def progress_sync(self, fraction: float, message: str = "") -> bool:
        """The same for handlers that are plain functions: waits until it is recorded.

        Raises:
            PayloadError: the message cannot be stored.
            RuntimeError: called on the event loop, which it would block: `await ctx.progress`.
        """
        if loop_here() is not None:
            raise RuntimeError("ctx.progress_sync would block the event loop: await ctx.progress")
        text = progress_text(fraction, message)
        written = asyncio.run_coroutine_threadsafe(self._write(text), self._loop)
        try:
            return written.result(PROGRESS_WAIT_SECONDS)
        except TimeoutError:
            written.cancel()
            return True  # not known to be lost


def progress_text(fraction: float, message: str) -> str:
    """Progress as its column keeps it: JSON text.

    Raises:
        PayloadError: the message cannot be stored.
    """
    return dump_json(
        {"fraction": min(max(float(fraction), 0.0), 1.0), "message": message[:1000]},
        what="progress",
        max_bytes=MAX_PROGRESS_BYTES,
    )
