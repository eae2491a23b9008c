"""Enqueueing in the caller's transaction."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

from service.db.after_commit import after_commit
from service.db.session import CallerSession, fetch, together
from service.errors import InvalidInput
from service.jobs.core.backoff import Backoff
from service.jobs.core.encoded_jobs import EncodedJobs, encode_in_parts, encode_jobs
from service.jobs.core.encryption import Encrypt
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, EnqueuedJob, NewJob
from service.jobs.core.unique_key import OnConflict, UniqueScope
from service.jobs.enqueue.dependencies import MayName, check_parents, link_in, waits
from service.jobs.enqueue.insert import Inserted, insert
from service.jobs.enqueue.members import count_in, hold_open
from service.jobs.notify.publisher import publish_after_commit, publish_endings_after_commit


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
    concurrency_key: str | None = None,
    on_conflict: OnConflict | None = None,
    unique_scope: UniqueScope | None = None,
    unique_for_seconds: float | None = None,
    debounce_max_seconds: float | None = None,
    after: Sequence[int] | None = None,
    on_parent_failure: str | None = None,
    batch_id: int | None = None,
    unique_by: Sequence[str] | None = None,
    encrypt: Encrypt | None = None,
    callback: Mapping[str, Any] | None = None,
    result_ttl_seconds: float | None = None,
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
        concurrency_key: jobs with the same key share a limit on how many of them run at once.
        on_conflict: what to do where another live job has the key: `return`, `reject`, `replace`, `extend`,
            `keep_latest`.
        unique_scope: whether it has the key until it has ended, or `until_started`.
        unique_for_seconds: for how long the key is held, even after its job has ended.
        debounce_max_seconds: how long after its creation `extend` may make a job due.
        after: ids of jobs that must have ended before it starts.
        on_parent_failure: what becomes of it when one of those does not succeed.
        batch_id: the batch that it becomes a member of.
        unique_by: what the key is made of instead.
        encrypt: what of the payload is kept encrypted.
        callback: whom to tell of its end: `{"url": "https://…"}`.
        result_ttl_seconds: how long after its end its result is kept.

    Raises:
        InvalidInput: a field breaks a rule; it is named.
        PayloadError: the payload is not storable JSON.
        KeyHeld: the key is held, and `on_conflict` does not allow it, or the holder cannot be changed.
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
        concurrency_key=concurrency_key,
        on_conflict=on_conflict,
        unique_scope=unique_scope,
        unique_for_seconds=unique_for_seconds,
        debounce_max_seconds=debounce_max_seconds,
        after=after,
        on_parent_failure=on_parent_failure,
        batch_id=batch_id,
        unique_by=unique_by,
        encrypt=encrypt,
        callback=callback,
        result_ttl_seconds=result_ttl_seconds,
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
        KeyHeld: a key is held; the position is named. What was stored is for the caller to roll back.
    """
    return await enqueue_for(session, jobs, caller=None, max_payload_bytes=max_payload_bytes)


async def enqueue_for(
    session: CallerSession,
    jobs: Sequence[NewJob],
    *,
    caller: str | None,
    reader: str | None = None,
    may_name: MayName | None = None,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> list[EnqueuedJob]:
    """The same for a caller of the REST API, whose jobs they become; for nobody where None.

    An error tells `reader` of its own jobs alone; of all where None.
    They wait only for jobs that it `may_name`; for any where None.
    """
    if not jobs:
        return []
    encoded = encode_jobs(jobs, max_payload_bytes=max_payload_bytes, caller=caller)
    if not any(map(waits, jobs)):
        return (await insert_in(session, encoded, reader=reader)).jobs
    async with together(session):
        links = await check_parents(partial(fetch, session), jobs, may_name=may_name)
        enqueued = (await insert_in(session, encoded, reader=reader)).jobs
        await link_in(session, enqueued, links)
    return enqueued


async def insert_in(
    session: CallerSession, jobs: EncodedJobs, *, unseen: bool = False, reader: str | None = None
) -> Inserted:
    """Insert in the caller's transaction, to be counted and published once that has committed."""
    run = partial(fetch, session)
    in_batch, ruled = jobs.gives("batch_id"), jobs.gives("key_rule")
    if in_batch or ruled:
        async with together(session):
            if in_batch:
                await hold_open(run, jobs)
            inserted = await insert(run, jobs, unseen=unseen and not ruled, reader=reader)
            if in_batch:
                await count_in(run, jobs, inserted.jobs)
    else:
        inserted = await insert(run, jobs, unseen=unseen, reader=reader)
    if any(rule and rule.on_conflict == "keep_latest" for rule in jobs.columns["key_rule"]):
        # What it waits for may end before this commits.
        await publish_endings_after_commit(session)
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
    return (await insert_in(session, jobs, unseen=True)).made.total()


async def _encoded(
    jobs: Iterable[NewJob] | AsyncIterable[NewJob], batch_size: int, max_payload_bytes: int
) -> AsyncIterator[EncodedJobs]:
    seen = 0
    async for batch in _batches(jobs, batch_size):
        if any(job.after for job in batch):
            raise InvalidInput(
                "enqueue_many takes no jobs with `after`: enqueue those with enqueue_batch",
                field="after",
            )
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
