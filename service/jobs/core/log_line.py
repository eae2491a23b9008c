"""A line that a handler logs about its job."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args

from service.jobs.core.job import JobId, LeaseToken

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[tuple[str, ...]] = get_args(Level)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line."""

    job_id: JobId
    lease_token: LeaseToken
    line: int
    """1 for the first of its attempt."""
    attempt: int
    at: datetime
    """By the clock of the process that ran the attempt."""
    level: str
    message: str
    fields: str | None
    """JSON text of an object."""

    @property
    def size(self) -> int:
        """How many bytes its texts take."""
        return len(self.message.encode()) + len((self.fields or "").encode())
