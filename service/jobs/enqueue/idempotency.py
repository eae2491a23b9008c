"""Enqueueing for clients of the REST API, who may repeat a request with its `Idempotency-Key`."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict
from service.jobs import store
from service.jobs.core.idempotency_key import IdempotencyKey
from service.jobs.core.job import JobId
from service.jobs.core.new_job import EnqueuedJob, NewJob
from service.jobs.enqueue.dependencies import MayName
from service.jobs.enqueue.enqueue import enqueue_for
from service.jobs.enqueue.insert import refusal
from service.jobs.enqueue.uniqueness import check_holders
from service.settings import Settings

_MAX_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Submission:
    """Ids of the jobs asked for, in order; `repeated` when the request had been made before."""

    ids: list[JobId]
    created: int
    repeated: bool


async def submit(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    *,
    caller: str,
    settings: Settings,
    may_name: MayName | None = None,
    enqueue: Callable[..., Awaitable[list[EnqueuedJob]]] = enqueue_for,
    key: IdempotencyKey | None = None,
) -> Submission:
    """Enqueue jobs as the caller's, all or none; with a key that was used, find those that it made.

    Key and jobs are one transaction. Of many requests at once with one key, one enqueues and the
    others wait for it.

    Args:
        session: holds the transaction.
        jobs: what the request asks for.
        caller: who enqueues them.
        settings: of the service.
        may_name: whether they may wait for a job.
        enqueue: how: as separate jobs, or with `chain_for` one after the other.
        key: names the request, for IDEMPOTENCY_KEY_HOURS.

    Raises:
        InvalidInput: a job breaks a rule, or PostgreSQL refuses a value.
        Conflict: the key was used with another body, or a `unique_key` is held by another job.
    """
    make = partial(
        _submit,
        session,
        jobs,
        partial(enqueue, may_name=may_name),
        caller=caller,
        settings=settings,
    )
    if key is None:
        return await make()
    for _ in range(_MAX_ROUNDS):
        if await store.idempotency.take(session, key, hours=settings.idempotency_key_hours):
            made = await make()
            await store.idempotency.keep(session, key, made.ids)
            return made
        used = await store.idempotency.find(session, key)
        if used is None:  # removed by maintenance between the two statements
            continue
        if not key.names(used.body_hash, used.request_hash):
            raise Conflict(
                f"The Idempotency-Key {key.key!r} was used with another body: a new request needs "
                "a new key"
            )
        return Submission([JobId(one) for one in used.job_ids], 0, repeated=True)
    raise Conflict(
        f"The Idempotency-Key {key.key!r} was taken and freed again and again: try again"
    )


async def _submit(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    enqueue: Callable[..., Awaitable[list[EnqueuedJob]]],
    *,
    caller: str,
    settings: Settings,
) -> Submission:
    try:
        enqueued = await enqueue(
            session,
            jobs,
            caller=caller,
            reader=None if settings.share_unique_keys else caller,
            max_payload_bytes=settings.max_payload_bytes,
        )
    except DBAPIError as error:
        field = "payload" if len(jobs) == 1 else "jobs"
        if (refused := refusal(error, field=field)) is not None:
            raise refused from error
        raise
    await check_holders(session, jobs, enqueued, caller=caller, settings=settings)
    created = sum(job.created for job in enqueued)
    return Submission([job.id for job in enqueued], created, repeated=False)
