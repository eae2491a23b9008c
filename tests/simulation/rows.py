"""What the model stores: rows of jobs and workers, and the times that a statement sees."""

import math
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from service.jobs.core.job import LIVE, JobStatus

Answer = list[tuple[Any, ...]]
"""The rows that a statement answers."""

MICROSECONDS: Final = 1_000_000
_BEGINNING: Final = datetime.fromtimestamp(0, UTC)


def microseconds(seconds: float) -> int:
    """As `make_interval(secs => …)` rounds."""
    return round(seconds * MICROSECONDS)


def time_of(seconds: float) -> float:
    """As `to_timestamp` reads it: infinity is a time as well."""
    return seconds if math.isinf(seconds) else microseconds(seconds)


def moment(at: int) -> datetime:
    """That many microseconds since 1970."""
    return _BEGINNING + timedelta(microseconds=at)


def since(moment: datetime) -> int:
    """The same the other way round."""
    return (moment - _BEGINNING) // timedelta(microseconds=1)


def entry(event: str, attempt: int, kind: str, worker: str | None) -> dict[str, Any]:
    """One entry of a job's history, as far as a test looks at it."""
    return {"event": event, "attempt": attempt, "type": kind, "worker": worker}


@dataclass(frozen=True, slots=True)
class Instant:
    """The times of one statement, in microseconds since 1970."""

    now: int
    """`now()`: when the statement came in."""
    clock: int
    """`clock_timestamp()`: when it was carried out, having waited for locks."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One job."""

    id: int
    job_type: str
    queue: str
    priority: int
    payload: str
    next_run_at: int
    max_retries: int | None = None
    timeout_seconds: float | None = None
    unique_key: str | None = None
    backoff: str | None = None
    status: JobStatus = JobStatus.PENDING
    attempts: int = 0
    lost_leases: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    lease_until: int | None = None
    lease_token: int | None = None
    worker_id: int | None = None
    last_error: str | None = None
    result: str | None = None
    progress: str | None = None
    errors: list[dict[str, Any]] | None = None

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def place(self) -> tuple[int, int]:
        """Its place in its lane."""
        return self.next_run_at, self.id

    def free(self, at: Instant) -> bool:
        """Whether it has no valid lease."""
        return self.lease_until is None or self.lease_until < at.now

    def holds(self, token: int) -> bool:
        """Whether a write under this token is the claim's that holds."""
        return self.status is JobStatus.RUNNING and self.lease_token == token

    def note(self, entry: dict[str, Any], *, keep: int) -> None:
        """One entry more in its history; when that is full the oldest goes."""
        history = self.errors or []
        self.errors = [*history, entry][-keep:]

    def fail(self, failure: dict[str, Any], *, keep: int) -> None:
        """Note why an attempt failed."""
        self.last_error = ": ".join(
            str(failure[part]) for part in ("type", "message") if failure.get(part) is not None
        )
        self.note(failure, keep=keep)

    def wait(self) -> None:
        """Back to PENDING; the token stays until the next claim."""
        self.status = JobStatus.PENDING
        self.lease_until = self.worker_id = self.started_at = None

    def end(self, status: JobStatus, at: Instant) -> None:
        """Leave the live partition."""
        self.status, self.finished_at, self.lease_until = status, at.clock, None


@dataclass(slots=True)
class WorkerRow:
    """One worker."""

    id: int
    name: str
    job_types: list[str]
    seen_at: int
    stopped_at: int | None = None


@dataclass(slots=True)
class Change:
    """What a statement did to one job."""

    before: Row | None
    after: Row | None


@dataclass(slots=True)
class Tables:
    """Everything that is stored."""

    jobs: dict[int, Row] = field(default_factory=dict)
    workers: dict[int, WorkerRow] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    """When a leader noted last that a type has a worker."""
    ended_in: set[str] = field(default_factory=set)
    """Queues in which jobs have ended: those that have counts."""
    changes: list[Change] = field(default_factory=list)
    """What the statement that is being carried out has done to jobs so far."""
    last_job_id: int = 0
    last_token: int = 0
    last_worker_id: int = 0

    def change(self, row: Row) -> Row:
        """The row, to be changed."""
        self.changes.append(Change(copy(row), row))
        return row

    def held(self, job_id: int, token: int) -> Row | None:
        """The job, to be changed, if this claim of it holds."""
        row = self.jobs.get(job_id)
        return self.change(row) if row is not None and row.holds(token) else None

    def add(self, row: Row) -> Row:
        """A new row."""
        self.jobs[row.id] = row
        self.changes.append(Change(None, row))
        return row

    def remove(self, row: Row) -> None:
        """A row less."""
        del self.jobs[row.id]
        self.changes.append(Change(row, None))

    def forget_workers(self) -> None:
        """Lose the rows of all workers, but of those whose types no leader has noted yet."""
        self.workers = {
            worker.id: worker
            for worker in self.workers.values()
            if not self.served.keys() >= set(worker.job_types)
        }

    def live(self) -> list[Row]:
        """What `jobs_live` holds."""
        return [row for row in self.jobs.values() if row.live]

    def lane(self, queue: str, priority: int) -> list[Row]:
        """The live jobs of one lane, in order."""
        here = [
            row
            for row in self.jobs.values()
            if row.queue == queue and row.priority == priority and row.live
        ]
        return sorted(here, key=lambda row: row.place)
