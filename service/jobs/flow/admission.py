"""Between claim and start: which claimed jobs may start now.

A place for limits that hold across processes: a job that is over one is parked by a statement of its
own, so that jobs without limits pay nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from service.jobs.core.claimed_job import ClaimedJob


class Admitted(NamedTuple):
    """What became of claimed jobs."""

    admitted: Sequence[ClaimedJob]
    """These start now."""
    parked: Sequence[ClaimedJob] = ()
    """These do not: they have given their lease back, and wait in the table."""


class Admission:
    """Admits every job: no limit holds across processes yet."""

    async def admit(self, jobs: Sequence[ClaimedJob]) -> Admitted:
        """Tell which of these claimed jobs may start."""
        return Admitted(jobs)
