"""What became of the jobs that a job waited for, and which tick it is for: for its handler."""

from dataclasses import dataclass
from typing import Any, Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.encoding import load_json
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.schedule_tick import ScheduleTick

MAX_PARENTS_PAGE: Final = 1_000
MAX_PAGE_BYTES: Final = 16 * 2**20
"""Limits on one page: parents, and bytes of their results; one parent comes however large it is."""


@dataclass(frozen=True, slots=True)
class ParentJob:
    """A job that this one waited for.

    Attributes:
        id: the job.
        job_type: its type; None where it is gone: deleted, or over its retention.
        status: as it is now; where it is gone, as it ended, or None if it was deleted.
        result: what its handler returned.
    """

    id: JobId
    job_type: str | None
    status: JobStatus | None
    result: Any


class ParentReader:
    """Reads them over one connection, which is opened when the first handler asks."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def page(self, job_id: JobId, after_id: int) -> list[ParentJob]:
        """The next parents of a job, by id."""
        found = await store.relatives.parents_of(
            self._link.fetch,
            job_id,
            after_id=after_id,
            limit=MAX_PARENTS_PAGE,
            result_bytes=MAX_PAGE_BYTES,
        )
        return [
            ParentJob(
                one.id,
                one.job_type,
                _status(one.status or one.outcome),
                None if one.result is None else load_json(one.result),
            )
            for one in found
        ]

    async def tick(self, job_id: JobId) -> ScheduleTick | None:
        """The tick of a schedule that a job is for."""
        return await store.schedule_ticks.tick_of(self._link.fetch, job_id)


def _status(text: str | None) -> JobStatus | None:
    return JobStatus(text) if text in set(JobStatus) else None
