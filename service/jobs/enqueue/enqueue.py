"""Enqueueing in the caller's transaction."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import datetime
from functools import partial
from itertools import islice

from service.db.after_commit import after_commit
from service.db.session import CallerSession, fetch
from service.errors import InvalidInput
from service.jobs.core.backoff import Backoff
from service.jobs.core.encoded_jobs import EncodedJobs, encode_in_parts, encode_jobs
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, EnqueuedJob, NewJob
from service.jobs.enqueue.insert import Inserted, insert
from service.jobs.notify.publisher import publish_after_commit


async def enqueue(
    session: CallerSession,
    job_type: str,
    payload: object = None,
    *,
    queue: str | None = None,
    priority: int | None = None,
    max_retries: int | None = None,
    timeout_seconds: float | None = None,
    run_at: datetime | None = None,
    delay_seconds: float | None = None,
    unique_key: str | None = None,
    backoff: Backoff | None = None,
) -> EnqueuedJob:
    """Enqueue one job in the caller's transaction: it exists if and when that commits.

    Args:
        session: a SQLAlchemy `AsyncSession` or `AsyncConnection`, or an asyncpg connection.
        job_type: the name of its handler.
        payload: JSON, or what pydantic turns into it; for it and all that follows see `NewJob`.
        queue: where it waits.
        priority: 0 (most urgent) to 9.
        max_retries: retries after the first attempt.
        timeout_seconds: limit on one attempt.
        run_at: when it is due.
        delay_seconds: in how many seconds it is due.
        unique_key: at most one live job has it.
        backoff: delays between attempts.

    Raises:
        InvalidInput: a field breaks a rule; it is named.
        PayloadError: the payload is not storable JSON.
    """
    job = NewJob(
        job_type,
        payload,
        queue=queue,
        priority=priority,
        max_retries=max_retries,
        timeout_seconds=timeout_seconds,
        run_at=run_at,
        delay_seconds=delay_seconds,
        unique_key=unique_key,
        backoff=backoff,
    )
    return (await enqueue_batch(session, [job]))[0]


async def enqueue_batch(
    session: CallerSession,
    jobs: Sequence[NewJob],
    *,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> list[EnqueuedJob]:
    """Enqueue jobs with one statement in the caller's transaction; answers in the order given.

    Raises:
        InvalidInput: a job breaks a rule: its position and field are named, and none is enqueued.
    """
    return await enqueue_for(session, jobs, caller=None, max_payload_bytes=max_payload_bytes)


async def enqueue_for(
    session: CallerSession,
    jobs: Sequence[NewJob],
    *,
    caller: str | None,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> list[EnqueuedJob]:
    """The same for a caller of the REST API, whose jobs they become; for nobody where None."""
    if not jobs:
        return []
    encoded = encode_jobs(jobs, max_payload_bytes=max_payload_bytes, caller=caller)
    return (await _insert_in(session, encoded)).jobs


async def _insert_in(
    session: CallerSession, jobs: EncodedJobs, *, unseen: bool = False
) -> Inserted:
    """Insert in the caller's transaction, to be counted and published once that has committed."""
    inserted = await insert(partial(fetch, session), jobs, unseen=unseen)
    if inserted.lanes:
        await publish_after_commit(session, inserted.lanes)
    if not await after_commit(session, inserted.count):
        inserted.count()
    return inserted


async def enqueue_many(
    session: CallerSession,
    jobs: Iterable[NewJob] | AsyncIterable[NewJob],
    *,
    batch_size: int = 1000,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> int:
    """Enqueue any number of jobs in the caller's transaction, in bounded memory.

    While the database stores one batch of an iterable the next is checked and encoded. An
    asynchronous one may use `session` itself: it is read between two batches.

    An invalid job leaves the transaction usable, with the jobs of the batches before it. Roll back to
    undo them: the transaction, or a savepoint of your own around this call.

    Returns:
        How many jobs were made: those whose `unique_key` was taken are not counted.

    Raises:
        InvalidInput: a job breaks a rule: its position and field are named, and how many are stored.
    """
    encoded = _encoded(jobs, batch_size, max_payload_bytes)
    created, stored = 0, 0
    storing: asyncio.Task[int] | None = None
    try:
        async for batch in encoded:
            if storing is not None:
                created += await storing
            storing = asyncio.create_task(_store(session, batch), name="jobs.enqueue_many")
            stored += len(batch)
            if isinstance(jobs, AsyncIterable):
                created += await storing  # the next job may come over this very session
                storing = None
            else:
                await asyncio.sleep(0)  # so that it is on its way before the next is encoded
        return created + (await storing if storing is not None else 0)
    except Exception as error:
        if storing is not None:
            # A statement that is cancelled half-way would take the caller's transaction with it.
            await storing
        if stored and isinstance(error, InvalidInput):
            _add_stored(error, stored)
        raise
    finally:
        if storing is not None and not storing.done():
            storing.cancel()
            await asyncio.wait({storing})


def _add_stored(error: InvalidInput, stored: int) -> None:
    error.detail += (
        f"; {stored} jobs before it are stored in this transaction: roll back to undo that"
    )
    error.args = (error.detail,)


async def _store(session: CallerSession, jobs: EncodedJobs) -> int:
    """Store one batch of many; how many jobs were made."""
    return (await _insert_in(session, jobs, unseen=True)).made.total()


async def _encoded(
    jobs: Iterable[NewJob] | AsyncIterable[NewJob], batch_size: int, max_payload_bytes: int
) -> AsyncIterator[EncodedJobs]:
    seen = 0
    async for batch in _batches(jobs, batch_size):
        for part in encode_in_parts(
            batch, max_payload_bytes=max_payload_bytes, first_position=seen
        ):
            yield part
        seen += len(batch)


async def _batches(
    jobs: Iterable[NewJob] | AsyncIterable[NewJob], size: int
) -> AsyncIterator[list[NewJob]]:
    if isinstance(jobs, AsyncIterable):
        batch: list[NewJob] = []
        async for job in jobs:
            batch.append(job)
            if len(batch) >= size:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    each = iter(jobs)
    while some := list(islice(each, size)):
        yield some
