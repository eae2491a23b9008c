"""Walk over all jobs that match, newest first, a bounded step at a time."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.filters import JobFilters
from service.jobs.read.list import JobSummary, summaries
from service.jobs.store import listing


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came by."""

    jobs: list[JobSummary]
    """Newest first."""
    before: int
    """Where the next step starts: only jobs below this id."""
    last: bool
    """Whether there is nothing below."""


async def take_step(
    session: AsyncSession, filters: JobFilters, *, before: int, want: int, scan: int
) -> Step:
    """The next matches below the id `before`.

    Args:
        session: read in its transaction, whose further statements are planned by index.
        filters: which jobs.
        before: where the step before ended.
        want: limit on the jobs of this step.
        scan: limit on the rows that it looks at; at least `want`.
    """
    await listing.plan_by_index(session)
    look = await listing.look(session, filters, before=before, above=-1, scan=scan, want=want)
    jobs = summaries(look.rows)
    if len(jobs) == want:
        return Step(jobs, jobs[-1].id, last=False)
    return Step(jobs, before if look.looked == 0 else look.lowest, last=look.looked < scan)


async def newest_id(session: AsyncSession) -> int:
    """The highest id that a job has; 0 where there is none."""
    return await listing.newest_id(session)
