"""Jobs as clients send and get them, field by field."""

from typing import Any, Final, Self

from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.field_types import Name, PlannedTime, Priority, Retries, UtcTime
from service.jobs.core.backoff import MAX_DELAY_SECONDS, Backoff
from service.jobs.core.job import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    BackgroundJob,
    JobId,
    JobStatus,
)
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.core.new_job import MAX_DELAY_YEARS_SECONDS, NewJob
from service.settings import Settings

EXAMPLE_IN: Final[dict[str, Any]] = {
    # One that succeeds where nothing but the demo's handlers is loaded: people press "Try it out".
    "job_type": "demo.ok",
    "payload": {"number": 4711},
    "unique_key": "demo-4711",
}
EXAMPLES_IN: Final[dict[str, Example]] = {
    "now": {
        "summary": "Now",
        "description": "With a `unique_key`: enqueued again while it waits or runs, the existing job is returned.",
        "value": EXAMPLE_IN,
    },
    "later": {
        "summary": "At a time",
        "description": "`run_at` has a time zone; `delay_seconds` counts from now.",
        "value": {"job_type": "demo.ok", "run_at": "2030-01-31T09:00:00+01:00"},
    },
    "patient": {
        "summary": "With its own retries",
        "description": "Retried after about 10, 20, 40, 60 and 60 seconds.",
        "value": {
            "job_type": "demo.ok",
            "max_retries": 5,
            "backoff": {"base_seconds": 10, "factor": 2, "cap_seconds": 60, "jitter": 0.1},
        },
    },
    "once": {
        "summary": "Once, however often it is sent",
        "description": "With the header `Idempotency-Key: order-4711` a repeated request returns "
        "the job that the first one created, even when that has ended.",
        "value": {"job_type": "demo.ok", "payload": {"number": 4711}},
    },
}
EXAMPLE_SUMMARY: Final[dict[str, Any]] = {
    "id": 42,
    "job_type": "send_invoice",
    "queue": "billing",
    "status": "DEAD_LETTER",
    "priority": 2,
    "attempts": 4,
    "max_retries": 3,
    "next_run_at": "2026-03-01T09:10:30Z",
    "created_at": "2026-03-01T09:00:00Z",
    "started_at": "2026-03-01T09:10:30Z",
    "finished_at": "2026-03-01T09:10:31Z",
    "unique_key": "invoice-4711",
    "last_error": "TimeoutError: the mail server did not answer",
}
EXAMPLE_OUT: Final[dict[str, Any]] = EXAMPLE_SUMMARY | {
    "payload": {"invoice": 4711},
    "result": None,
    "progress": None,
    "timeout_seconds": None,
    "effective_max_retries": 3,
    "effective_timeout_seconds": 300.0,
}
EXAMPLE_NEW: Final[dict[str, Any]] = EXAMPLE_OUT | {
    "status": "PENDING",
    "attempts": 0,
    "next_run_at": "2026-03-01T09:00:00Z",
    "started_at": None,
    "finished_at": None,
    "last_error": None,
}
_BOTH_TIMES: Final[dict[str, Any]] = {
    "required": ["run_at", "delay_seconds"],
    "properties": {"run_at": {"type": "string"}, "delay_seconds": {"type": "number"}},
}
"""What no job may have: two times at which it is due."""


class BackoffIn(BaseModel):
    """Delays between the attempts of one job: `base_seconds · factor^(retry-1)`."""

    model_config = ConfigDict(extra="forbid")

    base_seconds: float = Field(
        30.0, ge=0, le=MAX_DELAY_SECONDS, strict=True, description="Delay before the first retry."
    )
    factor: float = Field(
        4.0, ge=1, le=100, strict=True, description="Factor by which each further delay grows."
    )
    cap_seconds: float = Field(
        3600.0, ge=0, le=MAX_DELAY_SECONDS, strict=True, description="The longest delay."
    )
    jitter: float = Field(
        0.1, ge=0, le=1, strict=True, description="Share by which delays vary up and down."
    )


class JobIn(BaseModel):
    """A job to be enqueued."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [EXAMPLE_IN], "not": _BOTH_TIMES}
    )

    job_type: Name = Field(description="The name that its handler is registered under.")
    payload: dict[str, Any] = Field(
        default_factory=dict, description="Any JSON object; passed to the handler."
    )
    queue: Name | None = Field(
        None,
        description=f"The queue that it waits in; default the handler's own, else `{DEFAULT_QUEUE}`.",
    )
    priority: Priority = Field(
        DEFAULT_PRIORITY,
        description=f"{HIGHEST_PRIORITY} (most urgent) to {LOWEST_PRIORITY}.",
    )
    max_retries: Retries | None = Field(
        None,
        description="Retries after the first attempt; default those of the handler, else "
        "`DEFAULT_MAX_RETRIES` (3).",
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=86_400,
        strict=True,
        description="Timeout of one attempt; default that of the handler, else "
        "`DEFAULT_TIMEOUT_SECONDS` (300).",
    )
    run_at: PlannedTime | None = Field(
        None,
        description="When it is due, with a time zone, between the years 2000 and 2200; default now. "
        "Not with `delay_seconds`.",
    )
    delay_seconds: float | None = Field(
        None,
        ge=0,
        le=MAX_DELAY_YEARS_SECONDS,
        strict=True,
        description="In how many seconds it is due, by the database's clock. Not with `run_at`.",
    )
    unique_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="At most one PENDING or RUNNING job has this key: a second request for the "
        "same job returns the existing one.",
    )
    backoff: BackoffIn | None = Field(
        None, description="Delays between attempts; default those of the handler."
    )

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.run_at is not None and self.delay_seconds is not None:
            raise ValueError("run_at and delay_seconds are both given: give one")
        return self

    def to_new_job(self) -> NewJob:
        """The same for the engine, with its queue decided."""
        return NewJob(
            job_type=self.job_type,
            payload=self.payload,
            queue=self.queue or _own_queue(self.job_type),
            priority=self.priority,
            max_retries=self.max_retries,
            timeout_seconds=self.timeout_seconds,
            run_at=self.run_at,
            delay_seconds=self.delay_seconds,
            unique_key=self.unique_key,
            backoff=None if self.backoff is None else Backoff(**dict(self.backoff)),
        )


class BatchIn(BaseModel):
    """Jobs to be enqueued together: all, or none."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"jobs": [EXAMPLE_IN, {"job_type": "demo.slow"}]}]},
    )

    jobs: list[JobIn] = Field(
        min_length=1, max_length=10_000, description="At most `MAX_BATCH_JOBS` (1000) of them."
    )


class BatchOut(BaseModel):
    """What became of a batch."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [42, 43], "created": 2}]})

    ids: list[JobId] = Field(
        description="Id of each job in the order given; that of the existing job if one holds the `unique_key`."
    )
    created: int = Field(description="How many of them are new.")


class JobSummaryOut(BaseModel):
    """A job as lists show it."""

    model_config = ConfigDict(
        from_attributes=True, json_schema_extra={"examples": [EXAMPLE_SUMMARY]}
    )

    id: JobId = Field(description="Its number.")
    job_type: str = Field(description="The name of its handler.")
    queue: str = Field(description="The queue that it waits in.")
    status: JobStatus = Field(description="Its status.")
    priority: int = Field(description="0 (most urgent) to 9.")
    attempts: int = Field(description="Attempts begun; a retry by hand starts again at 0.")
    max_retries: int | None = Field(
        description="The requested retries. null: those of its handler where it runs, else "
        "`DEFAULT_MAX_RETRIES` (3)."
    )
    next_run_at: UtcTime = Field(description="When it is, or was last, due.")
    created_at: UtcTime = Field(description="When it was enqueued.")
    started_at: UtcTime | None = Field(description="When its latest attempt began.")
    finished_at: UtcTime | None = Field(description="When it ended.")
    unique_key: str | None = Field(description="No other live job has it.")
    last_error: str | None = Field(description="The error of its latest failed attempt.")


class JobOut(JobSummaryOut):
    """A job as its client sees it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_NEW]})

    payload: Any = Field(description="What its handler gets.")
    result: Any = Field(description="What its handler returned.")
    progress: Any = Field(
        description="The progress that its handler reported last; null before that, and once it succeeded."
    )
    timeout_seconds: float | None = Field(
        description="The requested timeout. null: that of its handler where it runs, else "
        "`DEFAULT_TIMEOUT_SECONDS` (300)."
    )
    effective_max_retries: int | None = Field(
        description="The effective retries. null: its handler determines them, and this process does "
        "not know the handler."
    )
    effective_timeout_seconds: float | None = Field(
        description="The effective timeout of one attempt. null: its handler determines it, and this "
        "process does not know the handler."
    )

    @classmethod
    def of(cls, job: BackgroundJob, settings: Settings) -> Self:
        """The row as the API shows it."""
        return cls.model_validate(row_of(job, cls) | effective_limits(job, settings))


class JobsWithKeyOut(BaseModel):
    """Jobs that have, or had, one `unique_key`."""

    jobs: list[JobSummaryOut] = Field(description="Newest first, 20 at most.")


def row_of(job: BackgroundJob, shown: type[JobOut]) -> dict[str, Any]:
    """What the row itself holds of the fields that are shown."""
    return {name: getattr(job, name) for name in shown.model_fields if hasattr(job, name)}


def effective_limits(job: NewJob | BackgroundJob, settings: Settings) -> dict[str, float | None]:
    """The effective limits of a job, as far as this process knows its type."""
    known = policies.get(job.job_type)
    policy = known or DEFAULTS
    return {
        "effective_max_retries": None
        if known is None and job.max_retries is None
        else policy.retries_of(job.max_retries, settings),
        "effective_timeout_seconds": None
        if known is None and job.timeout_seconds is None
        else policy.timeout_of(job.timeout_seconds, settings),
    }


def _own_queue(job_type: str) -> str:
    return policies.get(job_type, DEFAULTS).queue or DEFAULT_QUEUE
