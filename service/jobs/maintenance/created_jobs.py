"""How many jobs were created, by whatever process or SQL: the leader counts them from the table."""

from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.observability.metrics import jobs_created

MAX_COUNTED: Final = 10_000
"""Jobs that one round reads; more than that are estimated from a sample of so many."""
SAMPLES: Final = 20
"""Stretches of neighbouring ids that such a sample is made of."""


class CreatedJobs:
    """Counts new jobs by their ids, round by round.

    Ids are given out in order but become visible in the order of commits. So an id that was given
    out is counted only when every transaction that wrote at that time has ended: a long one delays
    the count and loses nothing.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._counted: int | None = None
        """Every job up to this id is counted."""
        self._given: int | None = None
        """The newest id that was given out, a round ago."""
        self._mark: tuple[int, int] | None = None
        """The id to count up to, and the transaction from which on none can bring such an id."""

    def forget(self) -> None:
        """Start anew from the next round on: another process led meanwhile."""
        self._counted = self._given = self._mark = None

    async def count(self) -> None:
        """One round: one short statement, and a second one where jobs are to be counted."""
        given, oldest_writer, next_writer = await store.created_jobs.ids(self._link)
        if self._counted is None:
            self._counted = self._given = given
            return
        if self._mark is not None and oldest_writer >= self._mark[1]:
            up_to = self._mark[0]
            if up_to > self._counted:
                await self._count_between(self._counted, up_to)
            self._counted, self._mark = up_to, None
        if self._mark is None and self._given is not None:
            # The id of a round ago: who took it writes by now, as its transaction's number says.
            self._mark = (self._given, next_writer)
        self._given = given

    async def _count_between(self, after: int, up_to: int) -> None:
        total = up_to - after
        if total <= MAX_COUNTED:
            stretches = [(after, up_to)]
        else:
            size = MAX_COUNTED // SAMPLES
            starts = (after + total * number // SAMPLES for number in range(SAMPLES))
            stretches = [(start, start + size) for start in starts]
        created = await store.created_jobs.between(self._link, stretches)
        scale = total / sum(high - low for low, high in stretches)
        jobs_created({job_type: round(jobs * scale) for job_type, jobs in created.items()})
