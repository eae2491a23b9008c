"""What the model stores: rows of jobs and workers, and the times that a statement sees."""

import math
from copy import copy
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from service.jobs.core.dependencies import DELETED
from service.jobs.core.job import LIVE, JobStatus

Answer = list[tuple[Any, ...]]
"""The rows that a statement answers."""

MICROSECONDS: Final = 1_000_000
_BEGINNING: Final = datetime.fromtimestamp(0, UTC)
INFINITY: Final = (datetime.max.replace(tzinfo=UTC) - _BEGINNING) // timedelta(microseconds=1)
"""When a held job is due, as asyncpg reads it."""


def epoch(at: int) -> float:
    """As `date_part('epoch', …)` answers."""
    return math.inf if at == INFINITY else at / MICROSECONDS


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
    # asyncpg reads infinity as the last moment of a calendar without time zones.
    return (moment.replace(tzinfo=UTC) - _BEGINNING) // timedelta(microseconds=1)


def entry(event: str, attempt: int, kind: str | None, worker: str | None) -> dict[str, Any]:
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
    created_at: int
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
    fingerprint: str | None = None
    concurrency_key: str | None = None
    permits: list[str] | None = None
    held_for: str | None = None
    held_since: int | None = None
    held_due_at: int | None = None
    has_children: bool | None = None
    cancel: dict[str, Any] | None = None
    """The report of a cancel; times are microseconds since 1970."""
    batch_id: int | None = None
    unique_until_start: str | None = None

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def is_told(self) -> bool:
        """Whether others wait for its end."""
        return bool(self.has_children) or self.batch_id is not None

    @property
    def place(self) -> tuple[int, int]:
        """Its place in its lane."""
        return self.next_run_at, self.id

    @property
    def due_at(self) -> int:
        """When it is due, held or not."""
        return self.next_run_at if self.held_due_at is None else self.held_due_at

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

    def report(self, at: Instant, *, how: str, seen_seconds: float | None = None) -> None:
        """Note how a cancel ended."""
        seen = None if seen_seconds is None else at.clock - microseconds(seen_seconds)
        self.cancel = (self.cancel or {}) | {"seen_at": seen, "ended_at": at.clock, "how": how}

    def end(self, status: JobStatus, at: Instant) -> None:
        """Leave the live partition."""
        self.status, self.finished_at, self.lease_until = status, at.clock, None
        self.unique_key = self.unique_key or self.unique_until_start
        if self.held_due_at is not None:
            self.next_run_at = self.held_due_at
        self.let_go()
        self.permits = None

    def let_go(self) -> None:
        """It is held for nothing any more."""
        self.held_for = self.held_since = self.held_due_at = None


@dataclass(slots=True)
class DependencyRow:
    """One child's wait for one parent."""

    policy: str
    created_at: int
    outcome: str | None = None
    met: bool = False


@dataclass(slots=True)
class EndingRow:
    """An end that somebody is to act on."""

    id: int
    job_id: int | None
    status: str | None
    batch_id: int | None = None
    jobs: int = 1
    taken_at: int | None = None


@dataclass(slots=True)
class BatchRow:
    """A set of jobs that are counted together."""

    id: int
    name: str
    on_complete: str | None
    on_failure: str | None
    closed: bool = False
    cancelled: bool = False
    complete: bool = False
    told_failure: bool = False
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("jobs", "succeeded", "failed", "dead_lettered", "cancelled", "deleted"), 0
        )
    )


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
class QueueRow:
    """What is set for a queue."""

    paused_at: datetime | None = None
    paused_by: str | None = None
    pause_reason: str | None = None
    max_running: int | None = None
    max_running_per_key: int | None = None
    rate_limit: int | None = None
    rate_seconds: float | None = None
    rate_burst: int | None = None
    key_rate_limit: int | None = None
    key_rate_seconds: float | None = None
    key_rate_burst: int | None = None
    weight: int | None = None
    key_fairness: bool = False
    at_limit: str = "wait"

    @property
    def pause(self) -> tuple[datetime | None, str | None, str | None]:
        return self.paused_at, self.paused_by, self.pause_reason

    @property
    def limits(self) -> tuple[Any, ...]:
        return astuple(self)[3:]


@dataclass(slots=True)
class StepRow:
    """One step of a job."""

    kind: str
    token: int
    result: str | None
    is_done: bool
    wait_until: int | None
    timed_out: bool = False

    @property
    def awaits_event(self) -> bool:
        return self.kind == "event" and not self.is_done


@dataclass(slots=True)
class Tables:
    """Everything that is stored."""

    jobs: dict[int, Row] = field(default_factory=dict)
    workers: dict[int, WorkerRow] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    """When a leader noted last that a type has a worker."""
    queues: dict[str, QueueRow] = field(default_factory=dict)
    """What is set for queues."""
    permits: dict[str, list[Any]] = field(default_factory=dict)
    """The limit that was asked for last, and how many jobs run under it."""
    rates: dict[str, int] = field(default_factory=dict)
    """The time that each rate has reserved for the next start."""
    ended_in: set[str] = field(default_factory=set)
    """Queues in which jobs have ended: those that have counts."""
    changes: list[Change] = field(default_factory=list)
    """What the statement that is being carried out has done to jobs so far."""
    dependencies: dict[tuple[int, int], DependencyRow] = field(default_factory=dict)
    """By parent and child."""
    steps: dict[tuple[int, str], StepRow] = field(default_factory=dict)
    """By job and name."""
    events: dict[tuple[int, str], str | None] = field(default_factory=dict)
    """The data of events, by job and name."""
    batches: dict[int, BatchRow] = field(default_factory=dict)
    endings: dict[int, EndingRow] = field(default_factory=dict)
    last_ending_id: int = 0
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

    def settled(self, job_id: int, token: int, *, cancelled: bool = False) -> Row | None:
        """The same for its end or its return: only if its cancel was asked for, or only if not."""
        row = self.jobs.get(job_id)
        if row is None or (row.cancel is not None) is not cancelled:
            return None
        return self.held(job_id, token)

    def free_permits(self, row: Row) -> None:
        """Count the permits of a job as free."""
        for key in row.permits or ():
            if key in self.permits:
                self.permits[key][1] -= 1

    def add(self, row: Row) -> Row:
        """A new row."""
        self.jobs[row.id] = row
        self.changes.append(Change(None, row))
        return row

    def end(self, row: Row, status: JobStatus, at: Instant) -> None:
        """A job leaves the live partition; where others wait for it, or a batch counts it, that is noted."""
        row.end(status, at)
        if row.is_told:
            self.tell(row.id if row.has_children else None, status.value, batch_id=row.batch_id)

    def fail_unrun(self, row: Row, at: Instant) -> None:
        """A job ends without a run: FAILED, unless its cancel was asked for."""
        self.end(row, JobStatus.FAILED if row.cancel is None else JobStatus.CANCELLED, at)
        if row.cancel is not None:
            row.report(at, how="not_started")
        row.lease_token = row.worker_id = None

    def tell(
        self, job_id: int | None, status: str | None, *, batch_id: int | None = None, jobs: int = 1
    ) -> None:
        """Note an end, or that somebody is to look whether there is one."""
        self.last_ending_id += 1
        ending = EndingRow(self.last_ending_id, job_id, status, batch_id, jobs)
        self.endings[ending.id] = ending

    def remove(self, row: Row) -> None:
        """A row less."""
        del self.jobs[row.id]
        batch_id = row.batch_id if row.status is JobStatus.PENDING else None
        if row.has_children or batch_id is not None:
            status = row.status.value if row.status is JobStatus.SUCCESS else DELETED
            self.tell(row.id if row.has_children else None, status, batch_id=batch_id)
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
