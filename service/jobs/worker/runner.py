"""What takes claimed jobs on: handlers of this process, or workers elsewhere."""

from collections.abc import Set as AbstractSet
from typing import Protocol

from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import ClaimedJob


class Runner(Protocol):
    """Takes the jobs that a `Claimer` brings: the `Executor`, and `service.remote.desk`."""

    @property
    def runs(self) -> AbstractSet[Attempt]:
        """What it has, and has not ended."""

    def start(self, job: ClaimedJob, *, lease_deadline: float) -> None:
        """Take one job on; its slot is taken already."""

    def give_back(self, job: ClaimedJob, *, lease_deadline: float) -> Attempt:
        """Put back one job that has no slot; its attempt does not count."""
