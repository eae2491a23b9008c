"""New jobs that wait for other jobs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from service.db.session import CallerSession, fetch
from service.errors import InvalidInput
from service.jobs import store
from service.jobs.core.dependencies import (
    MAX_LINKS,
    Dependency,
    OnParentFailure,
    checked_parents,
    checked_policy,
)
from service.jobs.core.job import JobId
from service.jobs.core.new_job import EnqueuedJob, NewJob
from service.jobs.notify.publisher import publish_endings_after_commit
from service.jobs.store.dependencies import Parent
from service.jobs.store.enqueue import Fetch

NAMED_IN_ERRORS: Final = 20
"""Unknown ids that an error names."""

Links: TypeAlias = Sequence[tuple[Sequence[JobId], OnParentFailure]]
"""The parents of each of some jobs, and what becomes of it when they do not succeed."""

MayName: TypeAlias = Callable[[Parent], bool]
"""Whether the caller may have its jobs wait for this one."""


def waits(job: NewJob) -> bool:
    """Whether a new job says anything of other jobs, or of a batch."""
    return bool(job.after) or job.on_parent_failure is not None or job.batch_id is not None


async def check_chain(
    run: Fetch, jobs: Sequence[NewJob], *, may_name: MayName | None = None
) -> Links:
    """What the jobs of a chain say themselves, as `check_parents`: the first alone may name parents.

    Raises:
        InvalidInput: a job breaks a rule, or there is no job.
    """
    if not jobs:
        raise InvalidInput("A chain needs at least one job", field="jobs")
    for position, job in enumerate(jobs[1:], 1):
        if job.after:
            raise _at(
                position,
                len(jobs),
                InvalidInput(
                    "after is given, where the job before in the chain is what it waits for: leave "
                    "it out",
                    field="after",
                ),
            )
    first = await check_parents(run, jobs[:1], may_name=may_name)
    return [*first, *(((), checked_policy(job.on_parent_failure)) for job in jobs[1:])]


async def check_parents(
    run: Fetch, jobs: Sequence[NewJob], *, may_name: MayName | None = None
) -> Links:
    """The parents of each job, and what becomes of it when they do not succeed.

    Raises:
        InvalidInput: a job breaks a rule, or names jobs that do not exist or that the caller may not
            name: they are listed.
    """
    links: list[tuple[tuple[JobId, ...], OnParentFailure]] = []
    for position, job in enumerate(jobs):
        try:
            links.append(_link_of(job))
        except InvalidInput as error:
            raise _at(position, len(jobs), error) from None
    ids = {parent for parents, _ in links for parent in parents}
    total = sum(len(parents) for parents, _ in links)
    if total > MAX_LINKS:
        raise InvalidInput(
            f"after names {total} jobs in all: at most {MAX_LINKS} are allowed in one call",
            field="jobs",
        )
    if ids:
        known = {
            parent.id
            for parent in await store.dependencies.parents(run, ids)
            if may_name is None or may_name(parent)
        }
        for position, (parents, _) in enumerate(links):
            if unknown := [one for one in parents if one not in known]:
                raise _at(position, len(jobs), _unknown(unknown))
    return links


def _link_of(job: NewJob) -> tuple[tuple[JobId, ...], OnParentFailure]:
    if job.on_parent_failure is not None and not job.after:
        raise InvalidInput(
            "on_parent_failure is given without after: name the jobs that it is about",
            field="on_parent_failure",
        )
    return checked_parents(job.after or ()), checked_policy(job.on_parent_failure)


async def _link(
    run: Fetch,
    enqueued: Sequence[EnqueuedJob],
    links: Links,
) -> bool:
    """Have the jobs that were made wait for their parents; whether any is held.

    A job that holds a `unique_key` already waits for nothing new.
    """
    dependencies = [
        Dependency(parent, job.id, policy)
        for job, (parents, policy) in zip(enqueued, links, strict=True)
        if job.created
        for parent in parents
    ]
    return bool(dependencies and await store.dependencies.link(run, dependencies))


def _unknown(ids: Sequence[JobId]) -> InvalidInput:
    named = ", ".join(map(str, ids[:NAMED_IN_ERRORS]))
    more = f" and {len(ids) - NAMED_IN_ERRORS} more" if len(ids) > NAMED_IN_ERRORS else ""
    return InvalidInput(
        f"after names jobs that do not exist, or that you may not read: {named}{more}",
        field="after",
    )


def _at(position: int, jobs: int, error: InvalidInput) -> InvalidInput:
    """The error with the position of its job, where there are several."""
    if jobs == 1:
        return error
    return InvalidInput(f"Job {position}: {error.detail}", field=f"jobs.{position}.{error.field}")


async def link_in(session: CallerSession, enqueued: Sequence[EnqueuedJob], links: Links) -> None:
    """Have new jobs wait for their parents, and those looked at once this has committed."""
    if await _link(partial(fetch, session), enqueued, links):
        await publish_endings_after_commit(session)
