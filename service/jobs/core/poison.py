"""What becomes of jobs whose workers died: run again, postponed, or dead-lettered as poison."""

import random
from typing import Final

from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.failures import Failure
from service.jobs.core.outcomes import DeadLettered, Outcome, Postponed
from service.observability.logging import get_logger
from service.settings import Settings

FIRST_POSTPONED: Final = 2
"""A job that loses its lease for this time, or a later one, is postponed. The first is usually a crash or
a machine that was stopped: its job runs again at once."""

_log = get_logger(__name__)


class PoisonPolicy:
    """Keeps jobs that kill their workers from running for ever, and from taking others along."""

    def __init__(self, settings: Settings, *, worker_name: str) -> None:
        self._settings = settings
        self._worker_name = worker_name

    def unfit(self, attempt: Attempt) -> Outcome | None:
        """The outcome of a job that lost leases and must not start now; None where it may.

        A job that lost too many leases ends. One that lost its second or a later one is postponed by
        a random delay. Jobs that ran when a worker died are claimed again together: started
        together, the job that kills its workers would make all the others lose a lease as well.
        """
        job = attempt.job
        if job.lost_leases == 0:
            return None
        poison = job.lost_leases >= self._settings.max_lost_leases
        if not poison and job.attempt <= attempt.max_retries(self._settings) + 1:
            if job.rescued and job.lost_leases >= FIRST_POSTPONED:
                return self._postponed(job)
            return None
        times = "once" if job.lost_leases == 1 else f"{job.lost_leases} times in a row"
        failure = Failure(
            event="lease_lost",
            attempt=job.attempt - 1,
            type="LeaseLost",
            message=f"the worker stopped or stalled during this job {times}: it is not run again",
            worker=self._worker_name,
        )
        return DeadLettered(failure, "poison" if poison else "lease_lost")

    def _postponed(self, job: ClaimedJob) -> Postponed:
        """A random delay of up to two leases, and up to four times that for each further loss."""
        longest = self._settings.lease_seconds * 2.0 * 4.0 ** (job.lost_leases - FIRST_POSTPONED)
        seconds = random.uniform(longest / 20, longest)  # noqa: S311 - no secret
        _log.warning(
            "job_postponed",
            job_id=job.id,
            job_type=job.job_type,
            lost=job.lost_leases,
            seconds=round(seconds, 3),
        )
        return Postponed(seconds)
