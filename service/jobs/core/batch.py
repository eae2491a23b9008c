"""A named set of jobs, and its bounds."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from service.errors import InvalidInput

ADDED: Final = "ADDED"
"""In `job_endings`: jobs were added to a batch."""

CHANGED: Final = "CHANGED"
"""In `job_endings`: a batch was closed or cancelled."""

MAX_MEMBERS: Final = 1_000_000
"""Jobs of one batch. Requests that add at the same moment do not see each other's."""

MAX_NAME_CHARS: Final = 200


class BatchState(StrEnum):
    """How far a batch is."""

    OPEN = "open"
    """Jobs can be added."""
    CLOSED = "closed"
    """No more can, and some have not ended."""
    CANCELLED = "cancelled"
    """It was cancelled; some of its jobs have not ended."""
    COMPLETE = "complete"
    """It is closed, and all of its jobs have ended."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How many members a batch has, by what became of them."""

    jobs: int
    succeeded: int
    failed: int
    dead_lettered: int
    cancelled: int
    deleted: int
    """While they waited; and those that the version before ended, or plain SQL deleted."""
    running: int = 0

    @property
    def ended(self) -> int:
        """Those that have ended."""
        return self.succeeded + self.failed + self.dead_lettered + self.cancelled + self.deleted

    @property
    def pending(self) -> int:
        """Those that have not begun, or wait to be retried."""
        return max(0, self.jobs - self.ended - self.running)


@dataclass(frozen=True, slots=True)
class Batch:
    """A named set of jobs."""

    id: int
    name: str
    created_by: str | None
    created_at: datetime
    closed_at: datetime | None
    cancelled_at: datetime | None
    cancelled_by: str | None
    completed_at: datetime | None
    complete_job_id: int | None
    failure_job_id: int | None
    counts: BatchCounts

    @property
    def state(self) -> BatchState:
        """How far it is."""
        if self.completed_at is not None:
            return BatchState.COMPLETE
        if self.cancelled_at is not None:
            return BatchState.CANCELLED
        return BatchState.OPEN if self.closed_at is None else BatchState.CLOSED


def checked_name(name: object) -> str:
    """What a batch may be called.

    Raises:
        InvalidInput: it is empty, too long or not printable.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInput(
            f"name is {str(name)[:120]!r}: expected 1 to {MAX_NAME_CHARS} printable characters",
            field="name",
        )
    return name
