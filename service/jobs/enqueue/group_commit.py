"""Group commit for requests that each enqueue one job: one statement and one commit for many."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import asyncpg

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS, REFUSED_ERRORS
from service.errors import Unavailable
from service.jobs.batch_limit import BatchLimit
from service.jobs.core.encoded_jobs import EncodedJobs, encode_jobs
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.core.new_job import EnqueuedJob, NewJob
from service.jobs.enqueue.insert import insert, refusal
from service.jobs.notify.publisher import publish, publisher_for
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 32 * MAX_STATEMENT_BYTES
"""Requests with a key, and as many without, that may wait for their commit, and what they may hold in
memory; beyond either the answer is 503 at once."""

MAX_GROUP: Final = 500
MAX_TRIES: Final = 4
"""Statements that one job may be sent with: each but the last was called off, and stored nothing."""

STATEMENT_SHARE: Final = 1 / MAX_TRIES
"""Share of a request's time after which PostgreSQL calls a statement off, to be sent in halves."""

UNSURE: Final = (
    "The database did not confirm the job in time. It may or may not be stored: send the request "
    "again with the same Idempotency-Key or unique_key; without one, look first whether it is."
)
NOT_STORED: Final = "The database did not store the job in time: send the request again"

_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """One request: its job, its future answer, and the bytes that it holds."""

    jobs: EncodedJobs
    answer: asyncio.Future[EnqueuedJob]
    size: int
    tries: int = 0


class Intake:
    """Enqueues the jobs of concurrent requests together.

    While one commit is under way the next group gathers: nothing waits for a timer, and each
    request is answered only when its own row is durable.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._max_payload_bytes = settings.max_payload_bytes
        seconds = settings.query_timeout_seconds
        self._plain = _Groups(database, seconds, name="jobs.intake")
        # A key that somebody's open transaction has inserted makes a group wait for that to end.
        # Jobs without keys do not wait behind it.
        self._keyed = _Groups(database, seconds, name="jobs.intake_keyed")

    async def submit(self, job: NewJob, *, caller: str | None = None) -> EnqueuedJob:
        """Enqueue one job durably, as one of `caller`'s.

        Raises:
            InvalidInput: a field breaks a rule; it is named.
            ValueError: it has an `on_conflict`, which takes a transaction of its own.
            Unavailable: the database did not answer: the job may or may not have been enqueued.
        """
        # Checked here and alone, so that a bad job cannot spoil its neighbours' commit.
        encoded = encode_jobs((job,), max_payload_bytes=self._max_payload_bytes, caller=caller)
        if encoded.gives("key_rule"):
            raise ValueError("on_conflict takes several statements: enqueue the job by `enqueue`")
        groups = self._plain if job.unique_key is None else self._keyed
        return await groups.submit(encoded)

    async def stop(self) -> None:
        """Store what waits, notify the other processes, then close the connections."""
        await self._plain.stop()
        await self._keyed.stop()
        await publisher_for(self._database.engine).close()


class _Groups:
    """Requests that wait for one connection, and are stored group by group."""

    def __init__(self, database: Database, seconds: float, *, name: str) -> None:
        limit = seconds * STATEMENT_SHARE
        self._database = database
        self._link = database.link(timeout_seconds=seconds, statement_seconds=limit)
        self._name = name
        self._limit = BatchLimit(MAX_GROUP, seconds=limit)
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._flusher: asyncio.Task[None] | None = None

    async def submit(self, encoded: EncodedJobs) -> EnqueuedJob:
        """Store one job with those that wait."""
        size = encoded.bytes_bound()
        if len(self._waiting) >= MAX_WAITING or self._bytes + size > MAX_WAITING_BYTES:
            raise Unavailable(
                f"{len(self._waiting)} jobs of {self._bytes} bytes are waiting to be stored already: "
                "send the request again later"
            )
        future: asyncio.Future[EnqueuedJob] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(encoded, future, size))
        self._bytes += size
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_all(), name=self._name)
        return await future

    async def stop(self) -> None:
        """Wait until each request is answered, then close the connection."""
        if self._flusher is not None:
            await asyncio.wait({self._flusher})
        await self._link.close()

    async def _flush_all(self) -> None:
        while self._waiting:
            group = self._next_group()
            # Those who gave up waiting do not expect the job to be stored: it is not.
            asked = [one for one in group if not one.answer.done()]
            if asked:
                await self._flush(asked)
            self._bytes -= sum(one.size for one in group)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        for one in islice(self._waiting, self._limit.rows):
            size += one.size
            if group and size > MAX_STATEMENT_BYTES:
                break
            group.append(one)
        del self._waiting[: len(group)]
        return group

    async def _flush(self, group: list[_Waiting]) -> None:
        began = time.monotonic()
        stored = False

        async def run(statement: str, *args: object) -> Sequence[Any]:
            nonlocal stored
            rows = await self._link.fetch(statement, *args)
            stored = True
            return rows

        try:
            jobs = EncodedJobs([row for one in group for row in one.jobs.rows])
            inserted = await insert(run, jobs)
        except DATABASE_ERRORS as error:
            # PostgreSQL refused the statement or called it off: nothing is stored, and the jobs can
            # be sent again until the one at fault is known. A timeout here says nothing of that.
            certain = isinstance(error, (asyncpg.QueryCanceledError, *REFUSED_ERRORS))
            if certain and not stored:
                self._send_again(group, error)
            else:
                self._limit.failed(len(group))
                _unavailable(group, error, UNSURE)
        except Exception as error:
            _answer(group, error)
        else:
            self._limit.succeeded(time.monotonic() - began)
            for one, job in zip(group, inserted.jobs, strict=True):
                if not one.answer.done():
                    one.answer.set_result(job)
            inserted.count()
            if inserted.lanes:
                publish(self._database.engine, inserted.lanes)

    def _send_again(self, group: list[_Waiting], error: Exception) -> None:
        """Send the jobs in halves; one alone after the others, a few times."""
        if len(group) > 1:
            self._limit.failed(len(group))
            self._waiting[:0] = group
        elif (refused := refusal(error)) is not None:
            _answer(group, refused)
            return
        else:
            group[0].tries += 1
            if group[0].tries >= MAX_TRIES:
                _unavailable(group, error, NOT_STORED)
                return
            self._waiting += group
        self._bytes += sum(one.size for one in group)


def _unavailable(group: list[_Waiting], error: Exception, words: str) -> None:
    record_database_error("enqueue")
    _log.warning("enqueue_failed", jobs=len(group), error=type(error).__name__)
    _answer(group, Unavailable(words))


def _answer(group: list[_Waiting], error: Exception) -> None:
    for one in group:
        if not one.answer.done():
            one.answer.set_exception(error)
