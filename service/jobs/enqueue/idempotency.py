"""Enqueueing for clients that may ask twice: by `unique_key`, by `Idempotency-Key`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict
from service.jobs import store
from service.jobs.core.encoding import dump_json
from service.jobs.core.idempotency_key import IdempotencyKey
from service.jobs.core.job import JobId
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, EnqueuedJob, NewJob
from service.jobs.enqueue.enqueue import enqueue_for

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
    share_unique_keys: bool,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> Submission:
    """Enqueue the jobs as the caller's, in one transaction, all or none.

    Raises:
        InvalidInput: a job breaks a rule.
        Conflict: a `unique_key` is held by a job of another caller, or one with another type or
            payload.
    """
    enqueued = await enqueue_for(session, jobs, caller=caller, max_payload_bytes=max_payload_bytes)
    reader = None if share_unique_keys else caller
    await check_standing(session, jobs, enqueued, reader=reader)
    created = sum(job.created for job in enqueued)
    return Submission([job.id for job in enqueued], created, repeated=False)


async def submit_once(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    key: IdempotencyKey,
    *,
    hours: int,
    share_unique_keys: bool,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> Submission:
    """Enqueue the jobs, unless a request with this key already did; then find what it made.

    Key and jobs are one transaction, the caller's: of many requests at once with one key, one
    enqueues and the others wait for it.

    Args:
        session: holds the caller's transaction.
        jobs: what the request asks for.
        key: the request's name; its owner becomes the jobs'.
        hours: how long a key is remembered.
        share_unique_keys: whether a standing job may be another caller's.
        max_payload_bytes: bound on each payload.

    Raises:
        InvalidInput: a job breaks a rule.
        Conflict: the key was used with another body, or a `unique_key` is held by another job.
    """
    for _ in range(_MAX_ROUNDS):
        if await store.idempotency.take(session, key, hours=hours):
            made = await submit(
                session,
                jobs,
                caller=key.owner,
                share_unique_keys=share_unique_keys,
                max_payload_bytes=max_payload_bytes,
            )
            await store.idempotency.keep(session, key, made.ids)
            return made
        standing = await store.idempotency.find(session, key)
        if standing is None:  # removed by maintenance between the two statements
            continue
        if not key.names(standing.body_hash, standing.request_hash):
            raise Conflict(
                f"The Idempotency-Key {key.key!r} was used with another body: a new request needs "
                "a new key"
            )
        return Submission([JobId(one) for one in standing.job_ids], 0, repeated=True)
    raise Conflict(
        f"The Idempotency-Key {key.key!r} was taken and freed again and again: try again"
    )


async def check_standing(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    enqueued: Sequence[EnqueuedJob],
    *,
    reader: str | None,
) -> None:
    """Make sure that each job not created is met by a standing one that does the same.

    Args:
        session: holds the caller's transaction.
        jobs: what was asked for.
        enqueued: what became of each.
        reader: whose the standing jobs must be, or nobody's; None: whoever's.

    Raises:
        Conflict: a `unique_key` is held by a job of another caller, of which nothing is told, or by
            one with another type or payload.
    """
    places = [place for place, job in enumerate(enqueued) if not job.created]
    if not places:
        return
    rows = await store.idempotency.compare(
        session,
        reader=reader,
        positions=places,
        ids=[enqueued[place].id for place in places],
        job_types=[jobs[place].job_type for place in places],
        payloads=[_payload_text(jobs[place].payload) for place in places],
    )
    for place, found, same, of_another in rows:
        where = f"Job {place}: " if len(jobs) > 1 else ""
        if of_another:
            raise Conflict(
                f"{where}unique_key {jobs[place].unique_key!r} is held by a job of another "
                "caller: use a key that begins with a name of your own"
            )
        if not same:
            holder = f"job {enqueued[place].id}"
            why = "with another job_type or payload" if found else "that is just being removed"
            raise Conflict(
                f"{where}unique_key {jobs[place].unique_key!r} is held by {holder} {why}"
            )


def _payload_text(payload: object) -> str:
    # It has been enqueued or met already, so that it is storable and not too long.
    return "{}" if payload is None else dump_json(payload, what="payload", max_bytes=2**31)
