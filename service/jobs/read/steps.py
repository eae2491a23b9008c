"""Read the steps of a job, for people."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import store
from service.jobs.core.job import JobId
from service.jobs.core.steps import StepKind
from service.jobs.read.detail import JsonText

MAX_STEPS: Final = 200
"""Steps of a job that are shown, from the first one on."""


@dataclass(frozen=True, slots=True)
class JobStep:
    """One step of a job."""

    name: str
    kind: StepKind
    attempt: int
    """Which attempt came to it first."""
    started_at: datetime
    finished_at: datetime | None
    """None: a sleep, or an event that has not come and whose time is not over."""
    wait_until: datetime | None
    timed_out: bool
    result: JsonText | None

    def waits(self, now: datetime) -> bool:
        """Whether the job waits at it."""
        return self.finished_at is None and self.wait_until is not None and self.wait_until > now


async def read_steps(
    session: AsyncSession, job_id: JobId, *, max_chars: int, limit: int = MAX_STEPS
) -> list[JobStep]:
    """The first steps of a job in order, with up to `max_chars` characters of each result."""
    return [
        JobStep(
            row.name,
            StepKind(row.kind),
            row.attempt,
            row.started_at,
            row.finished_at,
            row.wait_until,
            row.timed_out,
            None if row.result is None else JsonText(row.result, row.result_chars or 0),
        )
        for row in await store.steps.listed(session, job_id, limit=limit, max_chars=max_chars)
    ]
