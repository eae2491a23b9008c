"""The rows of the list of jobs, and the columns that a reader may choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from service.jobs.core.job import JobStatus
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.read.list import JobSummary
from service.jobs.read.waiting import Waiting
from service.settings import Settings

COLUMNS: Final = {
    "type": "Type",
    "queue": "Queue",
    "priority": "Priority",
    "state": "State",
    "attempts": "Attempts",
    "created": "Enqueued",
    "due": "Due",
    "started": "Started",
    "finished": "Ended",
    "delay": "Start delay",
    "run": "Run time",
    "key": "Unique key",
    "concurrency": "Concurrency key",
    "error": "Last error",
}
"""Name in the URL, and title. Id and status are always there."""

DEFAULT_COLUMNS: Final = ("type", "queue", "state", "attempts", "created", "error")

WAITING_WORDS: Final[dict[Waiting | None, str]] = {
    None: "waits for a free worker",
    Waiting.TIME: "",
    Waiting.QUEUE_PAUSED: "its queue is paused",
    Waiting.WORKER: "no worker serves it",
    Waiting.CONCURRENCY: "its limit is reached",
    Waiting.RATE_LIMIT: "its rate is reached",
    Waiting.BREAKER: "its target keeps failing",
    Waiting.DEPENDENCIES: "it comes after other jobs",
    Waiting.SLEEP: "it sleeps at a step",
    Waiting.EVENT: "its event has not come",
}
"""What a PENDING job waits for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One job of the list."""

    job: JobSummary
    waiting: Waiting | None
    """None: for a free slot alone, or it is not PENDING."""
    waiting_words: str
    attempts: str
    """`2 of 4`, as far as the number of retries is known here."""
    run_seconds: float | None
    delay_seconds: float | None

    @property
    def state(self) -> str:
        """Which of the template's sentences says how it stands."""
        if self.job.status == JobStatus.PENDING:
            if self.job.held_for is not None:
                return "held"
            late = self.waiting not in {Waiting.TIME, Waiting.SLEEP, Waiting.EVENT}
            return "overdue" if late else "retry" if self.job.attempts > 0 else "scheduled"
        return "running" if self.job.status == JobStatus.RUNNING else "ended"


def rows_of(
    jobs: Sequence[JobSummary],
    waiting: Mapping[int, Waiting | None],
    *,
    now: datetime,
    settings: Settings,
) -> list[Row]:
    """The rows that show the jobs."""
    return [_row(job, waiting.get(job.id), now, settings) for job in jobs]


def chosen(asked: Sequence[str], kept: str) -> tuple[str, ...]:
    """The columns to show: those asked for in the URL, else those of the cookie."""
    for names in (asked, kept.split(".")):
        if found := tuple(name for name in COLUMNS if name in names):
            return found
    return DEFAULT_COLUMNS


def attempts_words(attempts: int, job_type: str, *, retries: int | None, settings: Settings) -> str:
    """`2 of 4`; without the limit where only the job's worker knows it."""
    policy = policies.get(job_type)
    if retries is None and policy is None:
        return str(attempts)
    return f"{attempts} of {(policy or DEFAULTS).retries_of(retries, settings) + 1}"


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """How long it took, by clocks that may be of two machines: pages show no less than nothing."""
    return None if start is None or end is None else (end - start).total_seconds()


def _row(job: JobSummary, waiting: Waiting | None, now: datetime, settings: Settings) -> Row:
    is_pending = job.status == JobStatus.PENDING
    ran = job.started_at is not None and not is_pending
    return Row(
        job=job,
        waiting=waiting,
        waiting_words=WAITING_WORDS[waiting] if is_pending else "",
        attempts=attempts_words(
            job.attempts, job.job_type, retries=job.max_retries, settings=settings
        ),
        run_seconds=seconds_between(job.started_at, job.finished_at or now) if ran else None,
        # Of earlier attempts nobody keeps when they were due.
        delay_seconds=seconds_between(job.next_run_at, job.started_at) if ran else None,
    )
