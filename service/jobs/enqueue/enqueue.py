"""Enqueueing in the caller's transaction."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

from service.db.after_commit import after_commit
from service.db.session import CallerSession, fetch
from service.errors import Conflict, InvalidInput
from service.jobs import store
from service.jobs.core.backoff import Backoff
from service.jobs.core.job import JobId
from service.jobs.core.new_job import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    JobColumns,
    NewJob,
    encode_in_parts,
    encode_jobs,
)
from service.jobs.notify.publisher import publish_after_commit
from service.observability.metrics import record_event

_MAX_STANDING_ROUNDS: Final = 10


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """What became of a `NewJob`: its own row, or the standing one with its `unique_key`."""

    id: JobId
    created: bool
    created_at: datetime
    next_run_at: datetime


class Fetch(Protocol):
    """Runs one statement where the enqueue is to happen."""

    async def __call__(self, statement: str, *args: object) -> Sequence[Any]:
        """Its rows."""


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
        queue: the lane.
        priority: 0 (most urgent) to 9.
        max_retries: retries after the first attempt.
        timeout_seconds: bound on one attempt.
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
        InvalidInput: a job breaks a rule: its place and field are named, and none is enqueued.
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
    columns = encode_jobs(jobs, max_payload_bytes=max_payload_bytes, caller=caller)
    enqueued = await insert_jobs(partial(fetch, session), columns)
    await _tell_after_commit(session, columns, count_made(columns, enqueued))
    return enqueued


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
        How many jobs were made; those whose `unique_key` stood already are not counted.

    Raises:
        InvalidInput: a job breaks a rule: its place and field are named, and how many are stored.
    """
    encoded = _encoded(jobs, batch_size, max_payload_bytes)
    created, stored = 0, 0
    storing: asyncio.Task[int] | None = None
    try:
        async for columns in encoded:
            if storing is not None:
                created += await storing
            storing = asyncio.create_task(_store(session, columns), name="jobs.enqueue_many")
            stored += len(columns.job_types)
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


async def _store(session: CallerSession, columns: JobColumns) -> int:
    """Store one batch of many; how many jobs were made."""
    if columns.keyed:
        enqueued = await insert_jobs(partial(fetch, session), columns)
        made = count_made(columns, enqueued)
    else:
        await fetch(session, store.enqueue.ENQUEUE_UNSEEN, *columns.arguments())
        made = Counter(columns.job_types)
    await _tell_after_commit(session, columns, made)
    return made.total()


async def _tell_after_commit(
    session: CallerSession, columns: JobColumns, made: Counter[str]
) -> None:
    if lanes := columns.lanes():
        await publish_after_commit(session, lanes)
    if not await after_commit(session, lambda: record_enqueued(made)):
        record_enqueued(made)


async def insert_jobs(run: Fetch, columns: JobColumns) -> list[EnqueuedJob]:
    """Insert encoded jobs through `run`, and find the standing ones of the keys that are taken."""
    if not columns.keyed:
        statement = (
            store.enqueue.ENQUEUE_FOR_CALLERS if columns.for_callers else store.enqueue.ENQUEUE
        )
        rows = await run(statement, *columns.arguments())
        return [EnqueuedJob(job_id, True, created, due) for job_id, created, due in rows]
    made: dict[str, EnqueuedJob] = {}
    fresh: list[EnqueuedJob] = []
    for job_id, created_at, next_run_at, key in await _insert_keyed(run, columns):
        job = EnqueuedJob(job_id, True, created_at, next_run_at)
        if key is None:
            fresh.append(job)
        else:
            made[key] = job
    missing = {key for key in columns.unique_keys if key is not None} - made.keys()
    standing = await _find_standing(run, columns, missing) if missing else {}
    in_order = iter(fresh)
    answers: list[EnqueuedJob] = []
    for key in columns.unique_keys:
        if key is None:
            answers.append(next(in_order))
        elif key in made:
            # A second job with the key in this very batch meets the first as a standing one.
            standing[key] = replace(made[key], created=False)
            answers.append(made.pop(key))
        else:
            answers.append(standing[key])
    return answers


async def _insert_keyed(run: Fetch, columns: JobColumns) -> Sequence[Any]:
    statement = (
        store.enqueue.ENQUEUE_KEYED_FOR_CALLERS
        if columns.for_callers
        else store.enqueue.ENQUEUE_KEYED
    )
    return await run(statement, *columns.arguments())


async def _find_standing(
    run: Fetch, columns: JobColumns, missing: set[str]
) -> dict[str, EnqueuedJob]:
    """The standing jobs of `missing` keys; a job that ended meanwhile is enqueued anew."""
    found: dict[str, EnqueuedJob] = {}
    for _ in range(_MAX_STANDING_ROUNDS):
        for job_id, created_at, next_run_at, key in await run(
            store.enqueue.KEY_HOLDERS, sorted(missing)
        ):
            found.setdefault(key, EnqueuedJob(job_id, False, created_at, next_run_at))
        missing = missing - found.keys()
        if not missing:
            return found
        again = columns.picked(columns.unique_keys.index(key) for key in missing)
        for job_id, created_at, next_run_at, key in await _insert_keyed(run, again):
            found[key] = EnqueuedJob(job_id, True, created_at, next_run_at)
        missing = missing - found.keys()
        if not missing:
            return found
    raise Conflict(
        f"unique_key {min(missing)!r} was taken and freed again and again while this job was "
        "being enqueued: nothing was enqueued, try again"
    )


def count_made(columns: JobColumns, enqueued: Iterable[EnqueuedJob]) -> Counter[str]:
    """How many jobs of each type were made."""
    pairs = zip(columns.job_types, enqueued, strict=True)
    return Counter(job_type for job_type, job in pairs if job.created)


def record_enqueued(made: Counter[str]) -> None:
    """Count jobs by type, once they are committed."""
    for job_type, count in made.items():
        record_event("enqueued", job_type, count=count)


async def _encoded(
    jobs: Iterable[NewJob] | AsyncIterable[NewJob], batch_size: int, max_payload_bytes: int
) -> AsyncIterator[JobColumns]:
    seen = 0
    async for batch in _batches(jobs, batch_size):
        for columns in encode_in_parts(
            batch, max_payload_bytes=max_payload_bytes, first_place=seen
        ):
            yield columns
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
