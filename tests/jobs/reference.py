"""What should become of a job, in plain Python: the rules of the service without a database."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from service.jobs.core.job import DEAD, LIVE, TRANSITIONS, JobId, JobStatus, LeaseToken
from service.jobs.core.poison import FIRST_POSTPONED

SERVED = "work"
UNSERVED = "nobody"
"""A type that no handler is registered for."""

KEPT_ERRORS = 4
MAX_LOST_LEASES = 3
DEFAULT_RETRIES = 3

Entry = tuple[str, int]
"""Event and attempt of one entry of a history."""


@dataclass(eq=False)
class ReferenceJob:
    """One job as it should be."""

    id: JobId
    job_type: str
    queue: str
    priority: int
    max_retries: int | None
    unique_key: str | None
    due: bool
    due_at: datetime | None
    """None after a step that moves it by the database's clock, until the row has been read."""
    status: JobStatus = JobStatus.PENDING
    attempts: int = 0
    lost_leases: int = 0
    token: LeaseToken | None = None
    lease_ended: bool = False
    cancel_asked: bool = False
    """Whether it is RUNNING, and is to end CANCELLED."""
    history: list[Entry] = field(default_factory=list)
    key: str | None = None
    """Its concurrency key."""
    permits: list[str] | None = None
    held_for: str | None = None
    due_when_let_go: tuple[bool, datetime | None] = (True, None)
    """While it is held: whether it would be due else, and when."""
    flagged: bool = False
    """Whether its end is told to those that wait for it."""
    tell: Callable[[JobId, str], None] = field(default=lambda *_: None, repr=False)
    """Called with its end where it is flagged."""
    step: str | None = None
    """Of its step that waits for an event: `waits`, `done`; None: it has not come there."""
    event_sent: bool = False
    doomed: bool = False
    """Whether the end of a parent cancelled it, and not a person."""

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def retries(self) -> int:
        return DEFAULT_RETRIES if self.max_retries is None else self.max_retries

    @property
    def claimable(self) -> bool:
        free = self.status is JobStatus.PENDING or self.lease_ended
        return self.live and free and self.due and self.job_type == SERVED

    @property
    def waits_for_limit(self) -> bool:
        """Whether it waits for a permit, and not for other jobs."""
        return self.held_for is not None and ":" in self.held_for

    def holds(self, token: LeaseToken) -> bool:
        """Whether a write under this token still counts; an ended lease does until it is taken."""
        return self.status is JobStatus.RUNNING and self.token == token

    def settles(self, token: LeaseToken) -> bool:
        """Whether a worker's report under this token counts."""
        return self.holds(token) and not self.cancel_asked

    def claim(self, token: LeaseToken | None) -> None:
        if self.status is JobStatus.RUNNING:
            self.lost_leases += 1
            self._note("lease_lost", self.attempts)
        self.status, self.token, self.lease_ended = JobStatus.RUNNING, token, False
        self.attempts += 1

    def hold(self, held_for: str) -> None:
        """It waits for something other than a worker: it is out of reach of claims."""
        self.held_for, self.due_when_let_go = held_for, (self.due, self.due_at)
        self.due, self.due_at = False, None

    def let_go(self) -> None:
        """It is due when it was before."""
        if self.held_for is not None:
            self.due, self.due_at = self.due_when_let_go
            self.held_for = None

    def end(self, status: JobStatus, *, event: str | None = None, attempt: int = 0) -> None:
        self.status, self.lease_ended, self.permits = status, False, None
        self.let_go()
        if event is not None:
            self._note(event, attempt)
        if self.flagged:
            self.tell(self.id, status)

    def put_back(self, *, refund: bool, due: bool, failed: bool = False) -> None:
        """A retry, a snooze or a release."""
        if failed:
            self._note("error", self.attempts)
        self.attempts -= refund
        self.status, self.token, self.lease_ended, self.lost_leases = (
            JobStatus.PENDING, None, False, 0,
        )  # fmt: skip
        self.permits = None
        self.due, self.due_at = due, None

    def retry_by_hand(self) -> None:
        self._note("manual_retry", self.attempts)
        self.attempts = 0
        self.put_back(refund=False, due=True)

    def doom(self) -> None:
        """The end of a parent leaves it nothing to wait for."""
        self.doomed, self.token = True, None
        self.end(JobStatus.CANCELLED, event="parent_failed", attempt=self.attempts)

    def cancel(self) -> None:
        if self.status is JobStatus.RUNNING and not self.lease_ended:
            self.cancel_asked = True
        else:
            self.end(JobStatus.CANCELLED)
            self.token, self.cancel_asked = None, False

    def end_cancelled(self, *, started: bool) -> None:
        self.attempts -= not started
        self.cancel_asked = False
        self.end(JobStatus.CANCELLED)

    def wait_at_step(self) -> bool:
        """Its handler has come to the step; whether that was over at this moment."""
        ends = self.step != "done" and self.event_sent
        self.step = "done" if self.event_sent else "waits"
        return ends

    def send_event(self) -> None:
        """It goes on where it waits for that."""
        self.event_sent = True
        if self.step == "waits":
            self.step = "done"
            if self.status is JobStatus.PENDING and not self.due and self.held_for is None:
                self.due, self.due_at = True, None

    def fail_unserved(self) -> None:
        self.end(JobStatus.FAILED, event="no_handler", attempt=self.attempts)

    def settle(self, kind: str) -> None:
        """A worker's report, as `outcome_of` makes it."""
        match kind:
            case "success":
                self.end(JobStatus.SUCCESS)
            case "dead":
                self.end(JobStatus.DEAD_LETTER, event="error", attempt=self.attempts)
            case "failed":
                self.end(JobStatus.FAILED, event="error", attempt=self.attempts)
            case "release":
                place, lost_leases = self.due_at, self.lost_leases
                self.put_back(refund=True, due=True)
                self.due_at, self.lost_leases = place, lost_leases
            case "postpone":
                lost_leases = self.lost_leases
                self.put_back(refund=True, due=False)
                self.lost_leases = lost_leases
            case "suspend":
                self.put_back(refund=True, due=self.step == "done")
            case _:
                snoozed = kind == "snooze"
                self.put_back(refund=snoozed, due=kind == "retry_now", failed=not snoozed)

    def run(self, behaviour: str) -> str | None:  # noqa: PLR0911 - one line an end
        """One attempt by `process_due_jobs`: which of its counters it goes to."""
        rescued = self.status is JobStatus.RUNNING
        self.claim(None)
        if self.cancel_asked:
            self.end_cancelled(started=False)
            return None
        if self.lost_leases and (
            self.lost_leases >= MAX_LOST_LEASES or self.attempts > self.retries + 1
        ):
            # Not run, so this claim was no attempt.
            self.attempts -= 1
            self.end(JobStatus.DEAD_LETTER, event="lease_lost", attempt=self.attempts)
            return "dead_lettered"
        if rescued and self.lost_leases >= FIRST_POSTPONED:
            self.settle("postpone")
            return None
        match behaviour:
            case "return":
                self.end(JobStatus.SUCCESS)
                return "succeeded"
            case "permanent" | "bad_result":
                self.end(JobStatus.FAILED, event="error", attempt=self.attempts)
                return "failed"
            case "snooze":
                self.put_back(refund=True, due=False)
                return None
        if self.attempts > self.retries:
            self.end(JobStatus.DEAD_LETTER, event="error", attempt=self.attempts)
            return "dead_lettered"
        self.put_back(refund=False, due=False, failed=True)
        return "retried"

    def _note(self, event: str, attempt: int) -> None:
        self.history = [*self.history, (event, attempt)][-KEPT_ERRORS:]


def counts(jobs: list[ReferenceJob]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """How many there are by status, by type and by queue."""
    return (
        Counter(job.status.value for job in jobs),
        Counter(job.job_type for job in jobs),
        Counter(job.queue for job in jobs),
    )


def assert_same(row: Any, job: ReferenceJob) -> None:
    """The row is what the reference says, in the partition where it belongs."""
    assert row["status"] == job.status
    assert (row["attempts"], row["lost_leases"]) == (job.attempts, job.lost_leases)
    # Elsewhere a token is a trace of the last claim, and holds nothing.
    assert job.status is not JobStatus.RUNNING or row["lease_token"] == job.token
    assert (row["queue"], row["priority"]) == (job.queue, job.priority)
    assert (row["job_type"], row["unique_key"]) == (job.job_type, job.unique_key)
    assert (row["lease_until"] is not None) == (job.status is JobStatus.RUNNING)
    assert (row["finished_at"] is None) == job.live
    cancelled = job.status is JobStatus.CANCELLED or job.cancel_asked
    assert (row["cancel"] is not None) == (cancelled and not job.doomed)
    assert (
        not cancelled or job.doomed or ("how" in json.loads(row["cancel"])) is not job.cancel_asked
    )
    assert (row["held_for"], row["permits"]) == (job.held_for, job.permits)
    partition = "jobs_live" if job.live else "jobs_dead" if job.status in DEAD else "jobs_done_"
    assert row["partition"].startswith(partition)
    history = json.loads(row["errors"] or "[]")
    assert [(entry["event"], entry["attempt"]) for entry in history] == job.history
    if job.due_at is None:
        job.due_at = row["next_run_at"]
    assert (row["next_run_at"], row["due"]) == (job.due_at, job.due)


def reachable(status: JobStatus) -> set[JobStatus]:
    """Where one or more legal steps of one rule lead: a pass claims and settles in one."""
    steps = set(TRANSITIONS[status])
    if JobStatus.RUNNING in steps:
        steps |= TRANSITIONS[JobStatus.RUNNING]
    return steps
