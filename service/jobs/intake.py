"""Group commit for requests that each enqueue one job: one statement and one commit for many."""

import asyncio
from typing import Final

from service.db.engine import DATABASE_ERRORS, REFUSED_ERRORS, Database, Link
from service.errors import InvalidInput, Unavailable
from service.jobs.enqueue import EnqueuedJob, count_made, insert_jobs, record_enqueued
from service.jobs.new_job import JobColumns, NewJob, encode_jobs
from service.jobs.wakeup import announce, sender_for
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

MAX_WAITING: Final = 10_000
"""Requests with a key, and as many without, that may wait for their commit; beyond it the answer is
503 at once."""

MAX_GROUP: Final = 500

_log = get_logger(__name__)

Waiting = tuple[JobColumns, asyncio.Future[EnqueuedJob]]


class Intake:
    """Enqueues the jobs of concurrent requests together.

    While one commit is under way the next group gathers: nothing waits for a timer, and each
    request is answered only when its own row is durable.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._max_payload_bytes = settings.max_payload_bytes
        self._link = database.link(timeout_seconds=settings.query_timeout_seconds)
        self._keyed_link = database.link(timeout_seconds=settings.query_timeout_seconds)
        self._plain = _Groups(database, self._link, name="jobs.intake")
        # A group with a key that somebody's open transaction has inserted waits for that to end:
        # only those that came with keys wait behind it.
        self._keyed = _Groups(database, self._keyed_link, name="jobs.intake_keyed")

    async def submit(self, job: NewJob) -> EnqueuedJob:
        """Enqueue one job durably.

        Raises:
            InvalidInput: a field breaks a rule; it is named.
            Unavailable: the database did not answer: the job may or may not have been enqueued.
        """
        # Checked here and alone, so that a bad job cannot spoil its neighbours' commit.
        columns = encode_jobs((job,), max_payload_bytes=self._max_payload_bytes)
        return await (self._keyed if columns.keyed else self._plain).submit(columns)

    async def stop(self) -> None:
        """Store what waits, tell the other processes, then close the connections."""
        await self._plain.flushed()
        await self._keyed.flushed()
        await self._link.close()
        await self._keyed_link.close()
        await sender_for(self._database.engine).close()


class _Groups:
    """What waits for one connection, and is stored group by group."""

    def __init__(self, database: Database, link: Link, *, name: str) -> None:
        self._database = database
        self._link = link
        self._name = name
        self._waiting: list[Waiting] = []
        self._flusher: asyncio.Task[None] | None = None

    async def submit(self, columns: JobColumns) -> EnqueuedJob:
        """Store one job with those that wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} jobs are waiting to be stored already")
        future: asyncio.Future[EnqueuedJob] = asyncio.get_running_loop().create_future()
        self._waiting.append((columns, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_all(), name=self._name)
        return await future

    async def flushed(self) -> None:
        """Wait until all is stored, or answered that it is not."""
        if self._flusher is not None:
            await asyncio.wait({self._flusher})

    async def _flush_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            # Who gave up waiting was told that the job may not be stored: it is not.
            group = [(columns, future) for columns, future in group if not future.done()]
            if group:
                await self._flush(group)

    async def _flush(self, group: list[Waiting]) -> None:
        try:
            columns = JobColumns.joined(columns for columns, _ in group)
            enqueued = await insert_jobs(self._link.fetch, columns)
        except REFUSED_ERRORS as error:
            # One value that PostgreSQL refuses fails the statement: find whose it was.
            if len(group) > 1:
                for one in group:
                    await self._flush([one])
                return
            _answer(group, InvalidInput(f"PostgreSQL refused a value: {error}", field="payload"))
        except DATABASE_ERRORS as error:
            record_database_error("enqueue")
            _log.warning("enqueue_failed", jobs=len(group), error=type(error).__name__)
            _answer(
                group,
                Unavailable(
                    "The database did not confirm the job in time. It may or may not be stored: "
                    "send the request again with the same Idempotency-Key or unique_key; without "
                    "one, look first whether it is."
                ),
            )
        except Exception as error:
            _answer(group, error)
        else:
            for (_, future), job in zip(group, enqueued, strict=True):
                if not future.done():
                    future.set_result(job)
            record_enqueued(count_made(columns, enqueued))
            if lanes := columns.lanes():
                announce(self._database.engine, lanes)


def _answer(group: list[Waiting], error: Exception) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)
