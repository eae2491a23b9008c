"""What a handler is told of the job it runs, beside the payload."""

from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from service.jobs.encoding import dump_json
from service.jobs.model import JobId, LeaseToken
from service.observability.logging import get_logger

MAX_PROGRESS_BYTES = 4_096


class JobContext:
    """One attempt at one job, as its handler sees it.

    Attributes:
        job_id: the job.
        job_type: its type.
        attempt: 1 for the first run.
        is_last_attempt: whether a failure of this attempt ends the job.
        lease_token: grows with every claim of any job: a fencing token for other systems.
        cancelled: true once the handler should stop: time-out, lost lease or shutdown. Coroutines
            are cancelled as well; plain functions must look.
    """

    __slots__ = (
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
        write: Callable[[str], Awaitable[bool]],
    ) -> None:
        self.job_id = job_id
        self.job_type = job_type
        self.attempt = attempt
        self.is_last_attempt = is_last_attempt
        self.lease_token = lease_token
        self.cancelled = False
        self._write = write

    @property
    def logger(self) -> FilteringBoundLogger:
        """A logger; job id, type and attempt are on every line of it."""
        return get_logger(f"job.{self.job_type}")

    async def progress(self, fraction: float, message: str = "") -> bool:
        """Record how far the job is, for operators to see.

        Args:
            fraction: 0 to 1.
            message: a few words; 1,000 characters are kept.

        A database that does not answer is logged and counted, and is no reason to stop.

        Returns:
            False where the lease was lost: nothing was written, and the handler should stop.

        Raises:
            PayloadError: the message cannot be stored.
        """
        text = dump_json(
            {"fraction": min(max(float(fraction), 0.0), 1.0), "message": message[:1000]},
            what="progress",
            max_bytes=MAX_PROGRESS_BYTES,
        )
        return await self._write(text)
