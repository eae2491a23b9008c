"""The card "Why is it not running?" of a job's page."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from service.dashboard.job_rows import WAITING_WORDS
from service.dashboard.links import jobs_href, queue_href
from service.jobs.core.job import BackgroundJob, JobStatus
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.advice import advice, summary
from service.jobs.read.explain import explain
from service.jobs.read.explanation import Explanation
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a job does not run, and where its page leads from there."""

    why: Explanation
    summary: str
    advice: list[str]
    words: str
    """What it waits for, in a few words; empty where it waits for its time, runs or has ended."""

    @property
    def is_shown(self) -> bool:
        """Whether it waits: for something, for a slot, or for who takes it over."""
        return self.why.status == JobStatus.PENDING or self.why.lease_lost_at is not None

    @property
    def queue(self) -> str:
        """The page of its queue."""
        return queue_href(self.why.queue)

    @property
    def held_alike(self) -> str:
        """The jobs held for the same."""
        return jobs_href(held=self.why.held_for or "")


async def explained(
    session: AsyncSession, job: BackgroundJob, *, now: datetime, settings: Settings
) -> Explained:
    """Why the job does not run."""
    why = await explain(
        session,
        job,
        now=now,
        alive_seconds=alive_seconds(settings),
        max_lost_leases=settings.max_lost_leases,
    )
    words = WAITING_WORDS[why.waiting_for] if why.status == JobStatus.PENDING else ""
    return Explained(why, summary(why), advice(why), words)
