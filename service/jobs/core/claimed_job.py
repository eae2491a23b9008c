"""A job under this worker's lease."""

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

    @property
    def lease(self) -> Lease:
        """What names this claim."""
        return self.id, self.lease_token
