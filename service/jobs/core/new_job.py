"""A job to be enqueued: its fields, their rules, and how they travel to the database."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from service.errors import InvalidInput
from service.jobs.core.backoff import Backoff
from service.jobs.core.encoding import MAX_STATEMENT_BYTES, bytes_bound, dump_json
from service.jobs.core.job import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    NAME_PATTERN,
)
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.core.lane import Lane

DEFAULT_MAX_PAYLOAD_BYTES: Final = 262_144
"""What `Settings.max_payload_bytes` starts from; callers outside the service have no settings."""

MAX_DELAY_YEARS_SECONDS: Final = 10 * 366 * 86_400
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Times at which a job may be due. The driver takes the year 1 for -infinity and the end of 9999
for infinity: no delay can be reckoned from those, and every average would be ruined by them."""
_MAX_KNOWN_NAMES: Final = 10_000
_NAME: Final = re.compile(NAME_PATTERN)
_known_names: set[str] = set()


@dataclass(slots=True)
class NewJob:
    """A job to be enqueued. Not frozen: that would make it three times as dear, in the millions.

    Args:
        job_type: the name of its handler.
        payload: JSON, or what pydantic turns into it, handed to the handler; `{}` where None.
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
    enqueued_by: list[str | None] = field(default_factory=list)

    def add(self, job: NewJob, *, max_payload_bytes: int) -> None:
        """Check and encode one job; see `NewJob` for the rules."""
        queue = job.queue or policies.get(job.job_type, DEFAULTS).queue or DEFAULT_QUEUE
        for name, value in (("job_type", job.job_type), ("queue", queue)):
            if value not in _known_names:
                _check_name(name, value)
        priority = DEFAULT_PRIORITY
        if job.priority is not None:
            priority = job.priority
            most_urgent = f"{HIGHEST_PRIORITY} (most urgent)"
            _check_integer("priority", priority, HIGHEST_PRIORITY, LOWEST_PRIORITY, most_urgent)
        if job.max_retries is not None:
            _check_integer("max_retries", job.max_retries, 0, 1000, "0")
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
        self.run_ats.append(None if job.run_at is None else _checked_run_at(job))
        self.delays.append(0.0 if job.delay_seconds is None else _checked_delay(job))
        self.unique_keys.append(job.unique_key)
        self.enqueued_by.append(None)
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

    @property
    def keyed(self) -> bool:
        """Whether a job has a `unique_key`."""
        return not _all_none(self.unique_keys)

    @property
    def for_callers(self) -> bool:
        """Whether a job is some caller's: the statement takes one parameter more."""
        return not _all_none(self.enqueued_by)

    def arguments(self) -> tuple[object, ...]:
        """In the order of the statement's parameters; a column of defaults is left empty."""
        count = len(self.job_types)
        return (
            self.job_types,
            self.payloads,
            [] if self.queues.count(DEFAULT_QUEUE) == count else self.queues,
            [] if self.priorities.count(DEFAULT_PRIORITY) == count else self.priorities,
            *(
                [] if _all_none(column) else column
                for column in (self.max_retries, self.timeouts, self.run_ats)
            ),
            self.delays if any(self.delays) else [],
            *([] if _all_none(column) else column for column in (self.unique_keys, self.backoffs)),
            *([self.enqueued_by] if self.for_callers else []),
        )

    def bytes_bound(self) -> int:
        """How many bytes storing them takes, at the most, beside a few hundred for each."""
        return sum(map(bytes_bound, self.payloads))

    def lanes(self) -> set[Lane]:
        """The lanes with jobs that are due at once, by this process's clock."""
        if _all_none(self.run_ats) and not any(self.delays):
            return set(map(Lane, self.queues, self.priorities))
        now = datetime.now(UTC)
        return {
            Lane(queue, priority)
            for queue, priority, run_at, delay in zip(
                self.queues, self.priorities, self.run_ats, self.delays, strict=True
            )
            if not delay and (run_at is None or run_at <= now)
        }


def encode_jobs(
    jobs: Sequence[NewJob],
    *,
    max_payload_bytes: int,
    first_place: int | None = None,
    caller: str | None = None,
) -> JobColumns:
    """Check and encode jobs for one statement; see `enqueue_batch` for what is raised.

    An error names the job's place, counted from `first_place`; with None only where there are many.
    """
    columns = JobColumns()
    named = len(jobs) > 1 or first_place is not None
    for place, job in enumerate(jobs, first_place or 0):
        _add(columns, job, max_payload_bytes=max_payload_bytes, place=place if named else None)
    columns.enqueued_by = [caller] * len(jobs)
    return columns


def encode_in_parts(
    jobs: Iterable[NewJob], *, max_payload_bytes: int, first_place: int
) -> Iterator[JobColumns]:
    """The same for several statements, none of which carries much more than MAX_STATEMENT_BYTES."""
    columns, size = JobColumns(), 0
    for place, job in enumerate(jobs, first_place):
        _add(columns, job, max_payload_bytes=max_payload_bytes, place=place)
        size += bytes_bound(columns.payloads[-1])
        if size >= MAX_STATEMENT_BYTES:
            yield columns
            columns, size = JobColumns(), 0
    if columns.job_types:
        yield columns


def _add(columns: JobColumns, job: NewJob, *, max_payload_bytes: int, place: int | None) -> None:
    try:
        columns.add(job, max_payload_bytes=max_payload_bytes)
    except InvalidInput as error:
        if place is not None:
            error.detail = f"Job {place}: {error.detail}"
            error.args = (error.detail,)
            error.field = f"jobs.{place}.{error.field}"
        raise


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{name} is {str(value)[:120]!r}: expected 1 to 100 letters, digits or _ . : - with a "
            "letter or digit first",
            field=name,
        )
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names.add(value)


def _check_integer(name: str, value: object, low: int, high: int, low_words: str) -> None:
    # True is 1 to Python, and 1.5 would be cut to 1 on its way to the database.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{name} is {value!r}: expected {low_words} to {high}", field=name)


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
    return checked_moment(job.run_at)


def checked_moment(run_at: datetime) -> datetime:
    """The same instant in UTC, if a job may be due at it.

    Raises:
        InvalidInput: it has no time zone, or does not lie between the years 2000 and 2200.
    """
    if run_at.tzinfo is None:
        raise InvalidInput(
            f"run_at is {run_at.isoformat()} without a time zone: append Z or an offset",
            field="run_at",
        )
    if not EARLIEST <= run_at <= LATEST:
        raise InvalidInput(
            f"run_at is {run_at.isoformat()}: expected a time between the years 2000 and 2200",
            field="run_at",
        )
    return run_at.astimezone(UTC)


def _checked_delay(job: NewJob) -> float:
    delay = job.delay_seconds or 0.0
    if not 0 <= delay <= MAX_DELAY_YEARS_SECONDS:
        raise InvalidInput(
            f"delay_seconds is {delay!r}: expected 0 to {MAX_DELAY_YEARS_SECONDS} (ten years)",
            field="delay_seconds",
        )
    return delay


def _all_none(column: list[Any]) -> bool:
    return column.count(None) == len(column)
