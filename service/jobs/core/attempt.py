"""One attempt of a job, and why its handler may be stopped."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job_types import JobTypePolicy
from service.settings import Settings


class Stop(StrEnum):
    """Why a handler was cancelled."""

    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"
    """Another claim holds the job now: nothing of this run is recorded."""
    LEASE_UNSURE = "lease_unsure"
    """The lease could not be extended in time; it may still hold."""
    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    """Somebody asked for the job's cancel."""


class HandlerTimeout(Exception):
    """The handler did not end within its timeout."""


class InvalidPayload(Exception):
    """The handler's payload model refused the payload."""


class TooLate(Exception):
    """The run was told to stop, or its lease would end too soon, before its handler could begin."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt, as far as its outcome depends on it."""

    job: ClaimedJob
    policy: JobTypePolicy
    started: float
    """Monotonic time at which the handler began."""
    cancel_seen: float | None = field(default=None, kw_only=True)
    """Monotonic time at which the worker heard that somebody asked for the job's cancel."""
    chunk: int | None = field(default=None, kw_only=True)
    """How many jobs its handler was called with at once; None where that takes one job."""

    @property
    def started_at(self) -> datetime:
        """When the handler began, by this process's clock. For people to read; nothing depends on it."""
        return datetime.fromtimestamp(time.time() - (time.monotonic() - self.started), UTC)

    def max_retries(self, settings: Settings) -> int:
        """Retries after the first attempt: the job's own, else its type's, else the service's."""
        return self.policy.retries_of(self.job.max_retries, settings)
