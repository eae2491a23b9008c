"""What a caller may claim: the limits of its key, and none of the service's own jobs."""

from collections.abc import Collection, Sequence

from service.auth.principal import Permission, Principal
from service.errors import Forbidden
from service.jobs.core.job_types import DEFAULTS, policies


def queues_for(
    caller: Principal, job_types: Sequence[str], queues: Sequence[str] | None
) -> list[str] | None:
    """The queues that a claim of these is for, sorted; None: all.

    Raises:
        Forbidden: a type or a queue lies outside the limits of the caller's key, or a type is the
            service's own; it is named.
    """
    for job_type in job_types:
        if policies.get(job_type, DEFAULTS).internal:
            raise Forbidden(
                f"job_type {job_type!r} belongs to the service, which alone runs such jobs: claim others",
                scope=Permission.JOBS_WORK.value,
            )
    limits = caller.limits
    if limits is not None:
        _check("job_type", job_types, limits.job_types)
        _check("queue", queues or (), limits.queues)
        if queues is None and limits.queues is not None:
            return sorted(limits.queues)
    return None if queues is None else sorted(set(queues))


def _check(what: str, asked: Sequence[str], allowed: Collection[str] | None) -> None:
    if allowed is None:
        return
    for name in asked:
        if name not in allowed:
            raise Forbidden(
                f"{what} {name!r} is not one that your API key may use: {', '.join(sorted(allowed))}",
                scope=Permission.JOBS_WORK.value,
            )
