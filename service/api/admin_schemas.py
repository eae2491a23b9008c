"""What operators get, field by field."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from service.api.field_types import PlannedTime, Reason, Retries, UtcTime
from service.api.job_schemas import (
    EXAMPLE_OUT,
    EXAMPLE_SUMMARY,
    JobOut,
    JobSummaryOut,
    effective_limits,
    row_of,
)
from service.jobs.core.change import JobChange
from service.jobs.core.job import BackgroundJob
from service.jobs.core.redaction import redact_for
from service.jobs.read.list import JobSummary
from service.jobs.read.steps import JobStep
from service.jobs.read.waiting import Hold, Waiting
from service.settings import Settings

EXAMPLE_ERROR: Final[dict[str, Any]] = {
    "event": "error",
    "attempt": 1,
    "type": "TimeoutError",
    "message": "the mail server did not answer",
    "traceback": "Traceback (most recent call last): …",
    "started_at": "2026-03-01T09:00:00Z",
    "at": "2026-03-01T09:00:01Z",
    "worker": "web-1:831",
    "by": None,
}


def _with_z(value: object) -> str | None:
    """The history is kept as text, with the offset of who wrote it; answers are in UTC, with a Z."""
    try:
        moment = datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None  # put there by hand
    return moment.isoformat().replace("+00:00", "Z")


MomentText = Annotated[
    Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None,
    BeforeValidator(_with_z),
]


class ErrorEntry(BaseModel):
    """One entry of a job's history."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE_ERROR]})

    event: str = Field(
        "error",
        description="`error`, `lease_lost`, `manual_retry`, `cancelled`, `changed` or `no_handler`; `unreadable` for an "
        "entry written by plain SQL, with its JSON as `message`.",
    )
    attempt: int | None = Field(None, description="The attempt's number.")
    type: str | None = Field(None, description="Class of the error.")
    message: str | None = Field(None, description="What it said.")
    traceback: str | None = Field(None, description="Its traceback, shortened.")
    started_at: MomentText = Field(None, description="When the attempt began.")
    at: MomentText = Field(None, description="When this was recorded.")
    worker: str | None = Field(None, description="The process that ran it.")
    by: str | None = Field(None, description="Who retried, cancelled or changed it by hand.")
    chunk: int | None = Field(
        None, description="How many jobs its handler was called with, where that takes several."
    )

    @classmethod
    def of(cls, value: object) -> Self:
        """The entry, even if its JSON is not one."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return cls(event="unreadable", message=json.dumps(value, ensure_ascii=False)[:2000])


EXAMPLE_STEP: Final[dict[str, Any]] = {
    "name": "charge",
    "kind": "call",
    "attempt": 1,
    "started_at": "2026-03-01T09:00:00.100Z",
    "finished_at": "2026-03-01T09:00:00.480Z",
    "wait_until": None,
    "timed_out": False,
}

WAITING_FOR: Final[Any] = Field(
    description="What keeps it from starting: `time`: it is not due; `worker`: no worker serves its type and "
    "queue; `queue_paused`; `concurrency`: the limit of its key or queue is reached; `rate_limit`; "
    "`breaker`: its target keeps failing; `dependencies`: jobs that it comes after have not ended; `sleep`, "
    "`event`: a step of its handler waits for its time, or for an event. null: a free slot alone, or it runs or has "
    "ended. `GET /jobs/{id}/explain` says more."
)


class RetryIn(BaseModel):
    """What a retry changes of the job; a member that is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"payload": {"invoice": 4712}}]}
    )

    payload: Any = Field(None, description="The new payload, as a whole; null leaves it as it is.")
    run_at: PlannedTime | None = Field(None, description="When it is due, with a time zone.")
    max_retries: Retries | None = Field(None, description="Retries after the first attempt.")
    reason: Reason | None = Field(None, description="Why, for the audit log.")

    def change(self) -> JobChange:
        """The new values, for the engine."""
        return JobChange(**{name: value for name, value in self if name != "reason"})


class PauseOut(BaseModel):
    """The pause of a queue."""

    model_config = ConfigDict(from_attributes=True)

    since: UtcTime = Field(description="When it was paused.")
    by: str | None = Field(description="Who paused it. null: by Python.")
    reason: str | None = Field(description="Why, if it was said.")


class StepOut(BaseModel):
    """A step of the job's handler."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={"examples": [EXAMPLE_STEP]},
    )

    name: str = Field(description="Its name; of an event, that of the event.")
    kind: str = Field(description="`call`, `sleep` or `event`.")
    attempt: int = Field(description="The attempt that came to it first.")
    started_at: UtcTime = Field(description="When it began.")
    finished_at: UtcTime | None = Field(
        description="When its result was stored, or its event came or was too late. null: a sleep, or it waits."
    )
    wait_until: UtcTime | None = Field(
        description="Until when a sleep, or at the latest a wait for an event, lasts."
    )
    timed_out: bool = Field(description="Whether its event did not come in time.")


class JobDetail(JobOut):
    """The whole job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                EXAMPLE_OUT
                | {
                    "errors": [EXAMPLE_ERROR],
                    "backoff": None,
                    "enqueued_by": "billing",
                    "fingerprint": None,
                    "lost_leases": 0,
                    "lease_until": None,
                    "worker_id": 7,
                    "worker": "web-1:831:c0ffee",
                    "waiting_for": None,
                    "pause": None,
                    "steps": [EXAMPLE_STEP],
                }
            ]
        }
    )

    errors: list[ErrorEntry] = Field(
        description="Failed attempts and retries by hand, oldest first; the latest "
        "`MAX_ERROR_ENTRIES`."
    )
    backoff: dict[str, float] | None = Field(
        description="The requested backoff. null: that of its handler, else the `BACKOFF_*` settings."
    )
    enqueued_by: str | None = Field(
        description="The caller that enqueued it over REST. null: it was enqueued by SQL or Python."
    )
    fingerprint: str | None = Field(
        description="The cause of a dead letter: jobs with the same one failed for the same reason. "
        "null: it is not dead, or died a moment ago."
    )
    lost_leases: int = Field(
        description="How many workers in a row lost its lease while they ran it."
    )
    lease_until: UtcTime | None = Field(description="When its worker's lease ends.")
    worker_id: int | None = Field(description="The number of the worker that ran it last.")
    worker: str | None = Field(
        description="That worker's name: host, process id and a random part. null: none has run it, or "
        "the worker was last seen more than a day ago."
    )

    waiting_for: Waiting | None = WAITING_FOR
    pause: PauseOut | None = Field(
        description="Who paused its queue, why and since when, if it waits for that."
    )
    steps: list[StepOut] = Field(
        description="The steps of its handler that are done or wait, oldest first, without their results; "
        "200 at most."
    )

    @classmethod
    def whole(
        cls,
        job: BackgroundJob,
        settings: Settings,
        *,
        worker: str | None,
        hold: Hold,
        steps: Sequence[JobStep] = (),
    ) -> Self:
        """The row as operators see it, with the name of its worker."""
        history: Any = redact_for(job.job_type, job.errors) or []
        row = row_of(job, cls) | {
            "errors": list(map(ErrorEntry.of, history if isinstance(history, list) else [history])),
            "backoff": _numbers(job.backoff),
            "worker": worker,
            "waiting_for": hold.reason,
            "pause": hold.pause,
            "steps": [StepOut.model_validate(step) for step in steps],
        }
        return cls.model_validate(row | effective_limits(job, settings))


def _numbers(backoff: object) -> dict[str, float] | None:
    """The members of a backoff; a value that is not a number was written by plain SQL and has no effect."""
    if not isinstance(backoff, dict):
        return None
    return {
        name: float(value)
        for name, value in backoff.items()
        if isinstance(value, int | float) and abs(value) <= sys.float_info.max
    }


class ListedJobOut(JobSummaryOut):
    """A job as operators list it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [EXAMPLE_SUMMARY | {"waiting_for": None}]}
    )

    waiting_for: Waiting | None = WAITING_FOR

    @classmethod
    def of(cls, job: JobSummary, waiting_for: Waiting | None) -> Self:
        """The row of the list, and what it waits for."""
        return cls.model_validate(asdict(job) | {"waiting_for": waiting_for})


class JobPageOut(BaseModel):
    """One page of a list, newest first."""

    jobs: list[ListedJobOut] = Field(
        description="May be fewer than `limit` although there are more, if matches are far apart."
    )
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
    total: int = Field(description="Jobs that match, on all pages.")
    total_exact: bool = Field(description="False: there are at least `total`.")
    complete: bool = Field(
        description="False: `PAGE_SCAN_SECONDS` were over before the page was full. Jobs further back "
        "may match: continue with `next_cursor`."
    )


class ProcessOut(BaseModel):
    """What one pass over the due jobs did."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {"processed": 5, "succeeded": 3, "retried": 1, "failed": 0, "dead_lettered": 1}
            ]
        },
    )

    processed: int = Field(description="Jobs taken.")
    succeeded: int = Field(description="Of those, SUCCESS.")
    retried: int = Field(description="Failed, and waiting for their next attempt.")
    failed: int = Field(description="FAILED: no retry could help.")
    dead_lettered: int = Field(description="DEAD_LETTER: their retries are used up.")
