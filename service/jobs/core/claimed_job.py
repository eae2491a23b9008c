"""A job under this worker's lease."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.jobs.core.job import JobId, LeaseToken

Lease = tuple[JobId, LeaseToken]
"""One claim of one job."""


@dataclass(slots=True, eq=False)
class ClaimedJob:
    """One job under this worker's lease, as far as running it needs."""

    id: JobId
    lease_token: LeaseToken
    queue: str
    job_type: str
    priority: int
    attempt: int
    max_retries: int | None
    timeout_seconds: float | None
    lost_leases: int
    due_at: float
    """Epoch seconds of next_run_at; with the id, its position in the lane."""
    late_seconds: float
    """How long it had been due when it was claimed."""
    payload: str
    backoff: str | None
    rescued: bool = False
    """Whether this claim took it from a worker that let its lease run out."""
    cancel_asked: bool = False
    """Whether somebody asked for its cancel: it must not run."""
    concurrency_key: str | None = None
    permits: Sequence[str] | None = None
    """The limits that it counts under; None: none. Empty where that is not known."""
    unique_until_start: str | None = None
    """The unique key that it gives up when it starts."""
    held_for: str | None = None
    """The limit that holds it, which its claim found reached: it is not claimed, and must not run."""
    timing: int | None = None
    """Its start delay and run time for the counts (`timing_of`), once it has ended; None if it did not run."""

    @property
    def lease(self) -> Lease:
        """What names this claim."""
        return self.id, self.lease_token
