"""What operators get, field by field."""

import json
import sys
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from service.api.field_types import UtcTime
from service.api.schemas import (
    EXAMPLE_OUT,
    JobOut,
    JobSummaryOut,
    effective_limits,
    row_of,
)
from service.jobs.core.job import BackgroundJob, JobStatus
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
        description="`error`, `lease_lost`, `manual_retry` or `no_handler`; `unreadable` for an "
        "entry written by plain SQL, with its JSON as `message`.",
    )
    attempt: int | None = Field(None, description="The attempt's number.")
    type: str | None = Field(None, description="Class of the error.")
    message: str | None = Field(None, description="What it said.")
    traceback: str | None = Field(None, description="Its traceback, shortened.")
    started_at: MomentText = Field(None, description="When the attempt began.")
    at: MomentText = Field(None, description="When this was recorded.")
    worker: str | None = Field(None, description="The process that ran it.")
    by: str | None = Field(None, description="Who retried it by hand.")

    @classmethod
    def of(cls, value: object) -> Self:
        """The entry, even if its JSON is not one."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return cls(event="unreadable", message=json.dumps(value, ensure_ascii=False)[:2000])


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
                    "lost_leases": 0,
                    "lease_until": None,
                    "worker_id": 7,
                    "worker": "web-1:831:c0ffee",
                    "waiting_for": None,
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
    lost_leases: int = Field(
        description="How many workers in a row lost its lease while they ran it."
    )
    lease_until: UtcTime | None = Field(description="When its worker's lease ends.")
    worker_id: int | None = Field(description="The number of the worker that ran it last.")
    worker: str | None = Field(
        description="That worker's name: host, process id and a random part. null: none has run it, or "
        "the worker was last seen more than a day ago."
    )

    waiting_for: str | None = Field(
        description="`worker`: it is due, and no worker serves its type now. null: otherwise, or it is "
        "not PENDING."
    )

    @classmethod
    def whole(
        cls, job: BackgroundJob, settings: Settings, *, worker: str | None, waiting_for: str | None
    ) -> Self:
        """The row as operators see it, with the name of its worker."""
        history: Any = job.errors or []
        row = row_of(job, cls) | {
            "errors": list(map(ErrorEntry.of, history if isinstance(history, list) else [history])),
            "backoff": _numbers(job.backoff),
            "worker": worker,
            "waiting_for": waiting_for,
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


class JobPageOut(BaseModel):
    """One page of a list, newest first."""

    jobs: list[JobSummaryOut] = Field(
        description="May be fewer than `limit` although there are more, if matches are far apart."
    )
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
    total: int = Field(description="Jobs that match, on all pages.")
    total_exact: bool = Field(description="False: there are at least `total`.")


class DayOut(BaseModel):
    """What ended on one UTC day."""

    model_config = ConfigDict(from_attributes=True)

    day: date = Field(description="The day.")
    by_status: dict[JobStatus, int] = Field(description="Jobs by how they ended.")


class StatsOut(BaseModel):
    """How many jobs there are. Live jobs are counted up to `COUNT_CAP`."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "as_of": "2026-03-01T09:10:31Z",
                    "total": 1204,
                    "total_exact": True,
                    "by_status": {
                        "PENDING": 3,
                        "RUNNING": 1,
                        "SUCCESS": 1198,
                        "FAILED": 0,
                        "DEAD_LETTER": 2,
                        "CANCELLED": 0,
                    },
                    "by_type": {"send_invoice": 1204},
                    "by_type_rest": 0,
                    "by_queue": {"billing": 1204},
                    "by_queue_rest": 0,
                    "due_now": 1,
                    "oldest_due_seconds": 0.4,
                    "scheduled": 2,
                    "running": 1,
                    "days": [{"day": "2026-03-01", "by_status": {"SUCCESS": 1198}}],
                }
            ]
        },
    )

    as_of: UtcTime = Field(description="The time of these counts.")
    total: int = Field(description="All jobs kept.")
    total_exact: bool = Field(
        description="False: there are more live jobs than were counted, and the figures of live jobs "
        "are lower bounds."
    )
    by_status: dict[JobStatus, int] = Field(description="Every status, zeros included.")
    by_type: dict[str, int] = Field(
        description="The 200 job types with the most jobs. If more than 20,000 pairs of queue and type "
        "have ended jobs, only the largest count, and the figures are lower bounds."
    )
    by_type_rest: int = Field(description="Jobs of all other types.")
    by_queue: dict[str, int] = Field(
        description="The 200 queues with the most jobs; counted as `by_type`."
    )
    by_queue_rest: int = Field(description="Jobs of all other queues.")
    due_now: int = Field(description="PENDING jobs that are due.")
    oldest_due_seconds: float | None = Field(
        description="How long the longest-waiting job has been due; null: none waits."
    )
    scheduled: int = Field(description="PENDING jobs that are due later.")
    running: int = Field(description="RUNNING jobs.")
    days: list[DayOut] = Field(
        description="The jobs that ended on each of the last 7 days, latest first."
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
