"""Which jobs a list shows, and a bulk action acts on."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from service.jobs.core.job import JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilters:
    """Which jobs to list; None means any. `*_after` is inclusive, `*_before` exclusive."""

    statuses: Collection[JobStatus] | None = None
    job_type: str | None = None
    queue: str | None = None
    priority: int | None = None
    unique_key: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    due_after: datetime | None = None
    due_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None
    worker: str | None = None
    """The name of the worker that runs it, or ran it last."""
    error: str | None = None
    """A part of `last_error`, upper and lower case alike."""

    def active(self) -> frozenset[str]:
        """The names of the filters that are set."""
        return frozenset(name for name in self.__slots__ if getattr(self, name) is not None)
