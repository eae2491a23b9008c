"""Bodies and answers of `/worker`: what became of jobs."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from service.jobs.core.backoff import MAX_DELAY_SECONDS
from service.jobs.core.failures import MAX_MESSAGE_CHARS, MAX_TRACEBACK_CHARS
from service.jobs.core.job import JobStatus
from service.remote.schemas import MAX_LEASES, LeaseIn, WorkerName

_LEASE: Final[dict[str, Any]] = {"id": 42, "lease_token": 90071}
_ERROR: Final[dict[str, Any]] = {
    "type": "SMTPError",
    "message": "451 mailbox busy",
    "traceback": "at send (mail.js:17)",
}


def _shown(**members: Any) -> ConfigDict:
    example: Any = {"worker": "mailer-1:831", "jobs": [_LEASE | members]}
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    worker: WorkerName | None = None


class CompletedIn(LeaseIn):
    """A job that was done."""

    result: Any = Field(
        None,
        description="Any JSON, `MAX_PAYLOAD_BYTES` at most: one that is larger makes the job FAILED.",
    )


class CompleteIn(_Report):
    """Jobs that were done."""

    model_config = _shown(result={"sent": 1})

    jobs: list[CompletedIn] = Field(
        min_length=1, max_length=MAX_LEASES, description="1,000 at most."
    )


class ErrorIn(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_ERROR]})

    type: str = Field(
        "Error", min_length=1, max_length=200, description="Its kind: the name of its class."
    )
    message: str = Field("", description=f"In words; {MAX_MESSAGE_CHARS} characters are kept.")
    traceback: str | None = Field(
        None, description=f"Where; the last {MAX_TRACEBACK_CHARS} characters are kept."
    )


class FailedIn(LeaseIn):
    """A job that failed."""

    error: ErrorIn
    permanent: bool = Field(
        False,
        strict=True,
        description="Whether no retry could help: the job becomes FAILED at once.",
    )
    retry_after_seconds: float | None = Field(
        None,
        ge=0,
        le=MAX_DELAY_SECONDS,
        strict=True,
        description="When to retry it in place of its backoff, if retries are left.",
    )


class FailIn(_Report):
    """Jobs that failed."""

    model_config = _shown(error=_ERROR)

    jobs: list[FailedIn] = Field(min_length=1, max_length=MAX_LEASES, description="1,000 at most.")


class SnoozedIn(LeaseIn):
    """A job that is to run again later, and has not failed."""

    seconds: float = Field(
        ge=0, le=MAX_DELAY_SECONDS, strict=True, description="In how many seconds."
    )


class SnoozeIn(_Report):
    """Jobs that are to run again later."""

    model_config = _shown(seconds=60)

    jobs: list[SnoozedIn] = Field(min_length=1, max_length=MAX_LEASES, description="1,000 at most.")


class ReleaseIn(_Report):
    """Jobs that are given back."""

    model_config = _shown()

    jobs: list[LeaseIn] = Field(min_length=1, max_length=MAX_LEASES, description="1,000 at most.")


class RecordedOut(BaseModel):
    """What became of one report."""

    id: int
    lease_token: int
    outcome: str = Field(
        description="`recorded`. `repeated`: it had been recorded under this lease before, this report or "
        "another; nothing was changed. `lease_lost`: the job is not the worker's any more, nothing was changed."
    )
    status: JobStatus | None = Field(
        description="The job's now: PENDING where it will be tried again, CANCELLED where somebody had asked "
        "for its cancel. null: it is another worker's business."
    )


class ReportOut(BaseModel):
    """What became of the reports."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"jobs": [_LEASE | {"outcome": "recorded", "status": "SUCCESS"}]}]
        }
    )

    jobs: list[RecordedOut] = Field(description="In the order given.")
