"""What a caller of the API may enqueue and read: service types, and the limits of API keys."""

from collections.abc import Sequence
from typing import Protocol

from service.auth.principal import Permission, Principal
from service.errors import Forbidden
from service.jobs.model import DEFAULT_PRIORITY
from service.jobs.new_job import NewJob
from service.jobs.registry import registry


def check_allowed(principal: Principal, jobs: Sequence[NewJob]) -> None:
    """Refuse jobs that this caller may not enqueue.

    Raises:
        Forbidden: a job's type is the service's own, or its queue, type or priority lies outside the
            limits of the caller's API key; the first such job is named.
    """
    for position, job in enumerate(jobs):
        if refusal := _refusal(principal, job):
            place = f"job {position}: " if len(jobs) > 1 else ""
            raise Forbidden(place + refusal, scope=Permission.JOBS_WRITE.value)


class Named(Protocol):
    """What limits are about."""

    @property
    def job_type(self) -> str:
        """Its type."""

    @property
    def queue(self) -> str:
        """Its queue."""


def may_read(principal: Principal, job: Named) -> bool:
    """Whether this caller may read jobs, and this one."""
    limits = principal.limits
    return principal.may(Permission.JOBS_READ) and (
        limits is None or limits.covers(job_type=job.job_type, queue=job.queue)
    )


def _refusal(principal: Principal, job: NewJob) -> str | None:
    spec = registry.get(job.job_type)
    if spec is not None and spec.internal:
        return (
            f"job_type {job.job_type!r} belongs to the service, which alone enqueues such jobs: "
            "choose another name for yours"
        )
    if principal.limits is None:
        return None
    return principal.limits.refusal(
        job_type=job.job_type,
        queue=job.queue or "",
        priority=DEFAULT_PRIORITY if job.priority is None else job.priority,
    )
