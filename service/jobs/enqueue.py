"""Enqueueing: in the caller's transaction, or grouped with other requests' into one commit."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db.session import CallerSession, fetch
from service.errors import Conflict, InvalidInput
from service.jobs import statements
from service.jobs.backoff import Backoff
from service.jobs.encoding import dump_json
from service.jobs.model import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    NAME_PATTERN,
    JobId,
)
from service.jobs.registry import registry
from service.jobs.store import Lane
from service.jobs.wakeup import announce_after_commit
from service.observability.metrics import record_event

DEFAULT_MAX_PAYLOAD_BYTES: Final = 262_144
"""What `Settings.max_payload_bytes` starts from; callers outside the service have no settings."""

MAX_DELAY_YEARS_SECONDS: Final = 10 * 366 * 86_400
_MAX_STANDING_ROUNDS: Final = 10
_MAX_KNOWN_NAMES: Final = 10_000
_NAME: Final = re.compile(NAME_PATTERN)
_known_names: set[str] = set()


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be enqueued.

    Args:
        job_type: the name of its handler.
        payload: JSON (or a pydantic model) handed to the handler; `{}` where None.
        queue: the lane; where None, the handler's own or `default`.
        priority: 0 (most urgent) to 9; 2 where None.
        max_retries: retries after the first attempt, 0 to 1000; the handler's where None.
        timeout_seconds: bound on one attempt; the handler's where None.
        run_at: when it is due, with a time zone; now where None.
        delay_seconds: in how many seconds it is due, by the database's clock; not with `run_at`.
        unique_key: at most one PENDING or RUNNING job has this key.
        backoff: delays between attempts; the handler's where None.
    """

    job_type: str
    payload: Any = None
    queue: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None
    unique_key: str | None = None
    backoff: Backoff | None = None


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """What became of a `NewJob`: its own row, or the standing one with its `unique_key`."""

    id: JobId
    created: bool
    created_at: datetime
    next_run_at: datetime


class Fetch(Protocol):
    """Runs one statement where the enqueue is to happen."""

    async def __call__(self, statement: str, *args: object) -> Sequence[Sequence[Any]]:
        """Its rows."""


@dataclass(slots=True)
class JobColumns:
    """The columns of one ENQUEUE statement, checked and encoded."""

    job_types: list[str] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    max_retries: list[int | None] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    run_ats: list[datetime | None] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    unique_keys: list[str | None] = field(default_factory=list)
    backoffs: list[str | None] = field(default_factory=list)

    def add(self, job: NewJob, *, max_payload_bytes: int) -> None:
        """Check and encode one job; see `NewJob` for the rules."""
        spec = registry.get(job.job_type)
        queue = job.queue or (spec.queue if spec else None) or DEFAULT_QUEUE
        for name, value in (("job_type", job.job_type), ("queue", queue)):
            if value not in _known_names:
                _check_name(name, value)
        priority = DEFAULT_PRIORITY if job.priority is None else job.priority
        if not HIGHEST_PRIORITY <= priority <= LOWEST_PRIORITY:
            raise InvalidInput(
                f"priority is {priority!r}: expected {HIGHEST_PRIORITY} (most urgent) to "
                f"{LOWEST_PRIORITY}",
                field="priority",
            )
        if job.max_retries is not None and not 0 <= job.max_retries <= 1000:
            raise InvalidInput(
                f"max_retries is {job.max_retries!r}: expected 0 to 1000", field="max_retries"
            )
        if job.timeout_seconds is not None and not 0 < job.timeout_seconds <= 86_400:
            raise InvalidInput(
                f"timeout_seconds is {job.timeout_seconds!r}: expected above 0 and at most 86400",
                field="timeout_seconds",
            )
        if job.unique_key is not None:
            _check_unique_key(job.unique_key)
        self.job_types.append(job.job_type)
        self.queues.append(queue)
        self.priorities.append(priority)
        self.max_retries.append(job.max_retries)
        self.timeouts.append(job.timeout_seconds)
        self.run_ats.append(_checked_run_at(job))
        self.delays.append(_checked_delay(job))
        self.unique_keys.append(job.unique_key)
        self.backoffs.append(
            None
            if job.backoff is None
            else dump_json(job.backoff.to_json(), what="backoff", max_bytes=1000)
        )
        # Last, since it is the dearest.
        self.payloads.append(
            "{}"
            if job.payload is None
            else dump_json(job.payload, what="payload", max_bytes=max_payload_bytes)
        )

    @classmethod
    def joined(cls, parts: Iterable["JobColumns"]) -> "JobColumns":
        """The rows of all parts, in order."""
        whole = cls()
        for part in parts:
            for name in cls.__slots__:
                getattr(whole, name).extend(getattr(part, name))
        return whole

    def picked(self, places: Iterable[int]) -> "JobColumns":
        """The rows at these places alone."""
        chosen = list(places)
        return JobColumns(
            *([getattr(self, name)[place] for place in chosen] for name in self.__slots__)
        )

    def arguments(self) -> tuple[object, ...]:
        """In the order of the statement's parameters."""
        return (
            self.job_types,
            self.payloads,
            self.queues,
            self.priorities,
            self.max_retries,
            self.timeouts,
            self.run_ats,
            self.delays,
            self.unique_keys,
            self.backoffs,
        )

    def lanes(self) -> set[Lane]:
        """The lanes with jobs that are due at once."""
        return {
            Lane(queue, priority)
            for queue, priority, run_at, delay in zip(
                self.queues, self.priorities, self.run_ats, self.delays, strict=True
            )
            if run_at is None and not delay
        }


async def enqueue(session: CallerSession, job_type: str, payload: Any = None, **options: Any) -> EnqueuedJob:
    """Enqueue one job in the caller's transaction: it exists if and when that commits.

    Args:
        session: a SQLAlchemy `AsyncSession` or `AsyncConnection`, or an asyncpg connection.
        job_type: the name of its handler.
        payload: JSON or a pydantic model.
        **options: the other fields of `NewJob`.

    Raises:
        InvalidInput: a field breaks a rule; it is named.
        PayloadError: the payload is not storable JSON.
    """
    return (await enqueue_batch(session, [NewJob(job_type, payload, **options)]))[0]


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
    if not jobs:
        return []

    async def run(statement: str, *args: object) -> Sequence[Sequence[Any]]:
        return await fetch(session, statement, *args)

    columns = encode_jobs(jobs, max_payload_bytes=max_payload_bytes)
    enqueued = await insert_jobs(run, columns)
    if lanes := columns.lanes():
        if isinstance(session, AsyncSession):
            announce_after_commit(session, (await session.connection()).engine, lanes)
        elif isinstance(session, AsyncConnection):
            announce_after_commit(session, session.engine, lanes)
    return enqueued


async def enqueue_many(
    session: CallerSession,
    jobs: Iterable[NewJob] | AsyncIterable[NewJob],
    *,
    batch_size: int = 1000,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> int:
    """Enqueue any number of jobs in the caller's transaction, in bounded memory.

    Returns:
        How many jobs were made; those whose `unique_key` stood already are not counted.
    """
    created = 0
    batch: list[NewJob] = []
    async for job in _each(jobs):
        batch.append(job)
        if len(batch) >= batch_size:
            created += _created(await enqueue_batch(session, batch, max_payload_bytes=max_payload_bytes))
            batch.clear()
    return created + _created(await enqueue_batch(session, batch, max_payload_bytes=max_payload_bytes))


def encode_jobs(jobs: Sequence[NewJob], *, max_payload_bytes: int) -> JobColumns:
    """Check and encode jobs for one statement; see `enqueue_batch` for what is raised."""
    columns = JobColumns()
    for place, job in enumerate(jobs):
        try:
            columns.add(job, max_payload_bytes=max_payload_bytes)
        except InvalidInput as error:
            if len(jobs) > 1:
                error.detail = f"job {place}: {error.detail}"
                error.field = f"jobs.{place}.{error.field}"
            raise
    return columns


async def insert_jobs(run: Fetch, columns: JobColumns) -> list[EnqueuedJob]:
    """Insert encoded jobs through `run`, and find the standing ones of the keys that are taken."""
    arguments = columns.arguments()
    keys = columns.unique_keys
    made: dict[str, EnqueuedJob] = {}
    fresh: list[EnqueuedJob] = []
    for job_id, created_at, next_run_at, key in await run(statements.ENQUEUE, *arguments):
        job = EnqueuedJob(job_id, True, created_at, next_run_at)
        if key is None:
            fresh.append(job)
        else:
            made[key] = job
    _count(columns, made)
    in_order = iter(fresh)
    answers: list[EnqueuedJob | None] = []
    for key in keys:
        if key is None:
            answers.append(next(in_order))
        else:
            # A second job with the key, in this very batch, meets the first as a standing one.
            job = made.get(key)
            answers.append(job)
            if job is not None and job.created:
                made[key] = EnqueuedJob(job.id, False, job.created_at, job.next_run_at)
    missing = {key for key, answer in zip(keys, answers, strict=True) if answer is None and key}
    standing = await _find_standing(run, columns, missing) if missing else {}
    return [
        answer if answer is not None else standing[str(key)]
        for key, answer in zip(keys, answers, strict=True)
    ]


async def _find_standing(
    run: Fetch, columns: JobColumns, missing: set[str]
) -> dict[str, EnqueuedJob]:
    """The standing jobs of `missing` keys; a job that ended meanwhile is enqueued anew."""
    found: dict[str, EnqueuedJob] = {}
    for _ in range(_MAX_STANDING_ROUNDS):
        for job_id, created_at, next_run_at, key in await run(statements.STANDING, sorted(missing)):
            found.setdefault(key, EnqueuedJob(job_id, False, created_at, next_run_at))
        missing = missing - found.keys()
        if not missing:
            return found
        again = columns.picked(columns.unique_keys.index(key) for key in missing)
        for job_id, created_at, next_run_at, key in await run(
            statements.ENQUEUE, *again.arguments()
        ):
            found[key] = EnqueuedJob(job_id, True, created_at, next_run_at)
        missing = missing - found.keys()
        if not missing:
            return found
    raise Conflict(
        f"unique_key {min(missing)!r} was taken and freed again and again while this job was "
        "being enqueued: nothing was enqueued, try again"
    )


def _count(columns: JobColumns, made: dict[str, EnqueuedJob]) -> None:
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for job_type, key in zip(columns.job_types, columns.unique_keys, strict=True):
        if key is not None:
            if key not in made or key in seen:
                continue
            seen.add(key)
        counts[job_type] = counts.get(job_type, 0) + 1
    for job_type, count in counts.items():
        record_event("enqueued", job_type, count=count)


def _created(jobs: Iterable[EnqueuedJob]) -> int:
    return sum(job.created for job in jobs)


async def _each(jobs: Iterable[NewJob] | AsyncIterable[NewJob]) -> AsyncIterator[NewJob]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
    else:
        for job in jobs:
            yield job


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{name} is {str(value)[:120]!r}: expected 1 to 100 letters, digits or _ . : - with a "
            "letter or digit first",
            field=name,
        )
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names.add(value)


def _check_unique_key(key: object) -> None:
    if not isinstance(key, str) or not 1 <= len(key) <= 255 or not key.isprintable():
        raise InvalidInput(
            f"unique_key is {str(key)[:120]!r}: expected 1 to 255 printable characters",
            field="unique_key",
        )


def _checked_run_at(job: NewJob) -> datetime | None:
    if job.run_at is None:
        return None
    if job.delay_seconds is not None:
        raise InvalidInput("run_at and delay_seconds are both given: give one", field="run_at")
    if job.run_at.tzinfo is None:
        raise InvalidInput(
            f"run_at is {job.run_at.isoformat()} without a time zone: append Z or an offset",
            field="run_at",
        )
    return job.run_at


def _checked_delay(job: NewJob) -> float:
    delay = job.delay_seconds or 0.0
    if not 0 <= delay <= MAX_DELAY_YEARS_SECONDS:
        raise InvalidInput(
            f"delay_seconds is {delay!r}: expected 0 to {MAX_DELAY_YEARS_SECONDS} (ten years)",
            field="delay_seconds",
        )
    return delay
