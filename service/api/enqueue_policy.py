"""What a caller of the API may enqueue and read: service types, limits of API keys, quotas."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from fastapi import Request

from service.api.session import deadline_of, settings_of
from service.auth.principal import Permission, Principal
from service.auth.quotas import Name, Quotas
from service.errors import Forbidden
from service.jobs.core.callback import CALLBACK_TYPE, callback_queue
from service.jobs.core.job import DEFAULT_PRIORITY, DEFAULT_QUEUE
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.core.new_job import NewJob
from service.jobs.store.dependencies import Parent
from service.settings import Settings


async def within_quotas(
    request: Request, principal: Principal, jobs: Sequence[NewJob]
) -> AbstractAsyncContextManager[None]:
    """Count the jobs against the caller's quotas; enqueue them inside the block that this opens.

    Raises:
        QuotaExceeded: they would be more live jobs, or more new names, than it may have.
    """
    quotas: Quotas = request.app.state.quotas
    await spend_names(request, principal, jobs)
    return quotas.live_jobs(principal, len(jobs))


async def spend_names(request: Request, principal: Principal, jobs: Sequence[NewJob]) -> None:
    """Count the names of queues and types that nobody has used before against the caller's quota.

    Raises:
        QuotaExceeded: they would be more than it may add.
    """
    quotas: Quotas = request.app.state.quotas
    async with asyncio.timeout_at(deadline_of(request)):
        if unknown := quotas.unknown_names(_names(jobs)):
            quotas.know(own := _own_names(settings_of(request)))
            await quotas.spend_names(principal, unknown - own)


def _names(jobs: Sequence[NewJob]) -> set[Name]:
    names: set[Name] = set()
    for job in jobs:
        names.add(("job_type", job.job_type))
        names.add(("queue", job.queue or DEFAULT_QUEUE))
    return names


def _own_names(settings: Settings) -> set[Name]:
    """What this process handles and serves by itself."""
    queues = {
        DEFAULT_QUEUE,
        *(policy.queue for policy in policies.values() if policy.queue is not None),
        *(q.partition(":")[0] for q in settings.worker_queues),
    }
    return {("queue", queue) for queue in queues} | {("job_type", one) for one in policies}


def check_allowed(principal: Principal, jobs: Sequence[NewJob]) -> None:
    """Refuse jobs that this caller may not enqueue.

    Raises:
        Forbidden: a job's type is the service's own, or its queue, type or priority lies outside the
            limits of the caller's API key; the first such job is named.
    """
    for position, job in enumerate(jobs):
        if refusal := _refusal(principal, job):
            where = f"Job {position}: " if len(jobs) > 1 else ""
            raise Forbidden(where + refusal, scope=Permission.JOBS_WRITE.value)


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


def may_name(principal: Principal, parent: Parent) -> bool:
    """Whether this caller may have its jobs wait for this one: its own, or one that it may read."""
    return parent.enqueued_by == principal.subject or may_read(principal, parent)


def _refusal(principal: Principal, job: NewJob) -> str | None:
    if policies.get(job.job_type, DEFAULTS).internal:
        return (
            f"job_type {job.job_type!r} belongs to the service, which alone enqueues such jobs: "
            "choose another name for yours"
        )
    if principal.limits is None:
        return None
    refusal = principal.limits.refusal(
        job_type=job.job_type,
        queue=job.queue or "",
        priority=DEFAULT_PRIORITY if job.priority is None else job.priority,
    )
    if refusal is None and job.callback is not None:
        # It would enqueue such a job.
        refusal = principal.limits.refusal(
            job_type=CALLBACK_TYPE, queue=callback_queue(), priority=DEFAULT_PRIORITY
        )
        return refusal and f"callback: {refusal}"
    return refusal
