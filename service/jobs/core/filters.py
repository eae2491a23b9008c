"""Which jobs a list shows, and a bulk action acts on."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from service.jobs.core.job import JobStatus
from service.jobs.core.payload_field import PayloadField


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilters:
    """Which jobs to list; None means any. `*_after` is inclusive, `*_before` exclusive."""

    ids: Collection[int] | None = None
    statuses: Collection[JobStatus] | None = None
    job_type: str | None = None
    queue: str | None = None
    priority: int | None = None
    unique_key: str | None = None
    idempotency_key: str | None = None
    """The `Idempotency-Key` of the request that enqueued it, whoever sent it."""
    concurrency_key: str | None = None
    held_for: str | None = None
    """What it is held for: the name of a hold, its first word (`key`, `queue`, `rate`, `after`, `unique`), or `*`."""
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
    fingerprint: str | None = None
    """The cause of a dead letter: see `core.fingerprint`."""
    payload: tuple[PayloadField, ...] | None = None
    """Fields of the payload, each with its value."""

    def active(self) -> frozenset[str]:
        """The names of the filters that are set."""
        return frozenset(name for name in self.__slots__ if getattr(self, name) is not None)
