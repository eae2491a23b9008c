"""What the parts of the slice hand to each other."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobStatus


class Kinds(NamedTuple):
    """Which jobs a claim asks for. Claims that ask for the same share one line."""

    job_types: tuple[str, ...]
    """Sorted."""
    queues: tuple[str, ...] | None
    """Sorted; None: all."""
    policies: tuple[tuple[str, str], ...] = ()
    """Of the types whose worker registered a policy: JSON text."""

    def policy(self, job_type: str) -> str | None:
        """What was registered for a type."""
        return next((text for name, text in self.policies if name == job_type), None)


@dataclass(slots=True, eq=False)
class Arrived(Attempt):
    """A job that was claimed for a waiting worker and is not handed over yet."""

    lease_deadline: float
    """When its lease ends by `lease_clock`, as far as this process knows."""


class Handed(NamedTuple):
    """A job that a worker was given."""

    job: ClaimedJob
    lease_seconds: float
    """How much of the lease is left."""
    timeout_seconds: float
    max_attempts: int


@dataclass(slots=True, eq=False)
class WaitingClaim:
    """A claim that waits for jobs."""

    worker_id: int
    owner: str
    limit: int
    request_id: str | None
    answer: asyncio.Future[Sequence[Handed]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    served: bool = False
    """Whether jobs are on their way to it: it waits for them, however long that takes."""
    sent_away: bool = False
    """Whether its worker is to claim no more."""
    gone: bool = False
    """Whether nobody waits for its answer any more."""


class Recorded(NamedTuple):
    """What became of an outcome that a worker reported."""

    answer: str
    """`recorded`, `repeated` (it was recorded before, under this lease) or `lease_lost`."""
    status: JobStatus | None = None
    """The job's, where it is known."""


class Beat(NamedTuple):
    """What a heartbeat found of one lease."""

    state: str
    """`held`, `cancel`, `timed_out` or `lease_lost`."""
    lease_seconds: float = 0.0
    timeout_in_seconds: float | None = None

    def later(self, seconds: float) -> "Beat":
        """The same, so long after it was found."""
        left = self.timeout_in_seconds
        return self._replace(
            lease_seconds=max(0.0, self.lease_seconds - seconds),
            timeout_in_seconds=None if left is None else max(0.0, left - seconds),
        )
