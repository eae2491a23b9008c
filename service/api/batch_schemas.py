"""Batches of jobs as clients send and get them."""

from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import Name, Priority, Retries, UtcTime
from service.api.new_job_schemas import BackoffIn
from service.jobs.core.backoff import Backoff
from service.jobs.core.batch import MAX_NAME_CHARS, Batch, BatchState
from service.jobs.core.job import DEFAULT_PRIORITY, JobId
from service.jobs.core.new_job import NewJob

EXAMPLE_IN: Final[dict[str, Any]] = {
    "name": "invoices of March",
    "on_complete": {"job_type": "demo.ok", "payload": {"number": 3}},
}
EXAMPLE_OUT: Final[dict[str, Any]] = {
    "id": 7,
    "name": "invoices of March",
    "state": "closed",
    "created_by": "billing",
    "created_at": "2026-03-31T20:00:00Z",
    "closed_at": "2026-03-31T20:01:00Z",
    "cancelled_at": None,
    "cancelled_by": None,
    "completed_at": None,
    "complete_job_id": None,
    "failure_job_id": 4711,
    "counts": {
        "jobs": 1000,
        "pending": 120,
        "running": 20,
        "succeeded": 858,
        "failed": 0,
        "dead_lettered": 2,
        "cancelled": 0,
        "deleted": 0,
    },
}


class BatchJobIn(BaseModel):
    """A job that a batch enqueues: at once, and once."""

    model_config = ConfigDict(extra="forbid")

    job_type: Name = Field(description="The name that its handler is registered under.")
    payload: dict[str, Any] = Field(
        default_factory=dict,
        description="Any JSON object; it gets a member `batch` with the counts.",
    )
    queue: Name | None = Field(None, description="The queue that it waits in.")
    priority: Priority = Field(DEFAULT_PRIORITY, description="0 (most urgent) to 9.")
    max_retries: Retries | None = Field(None, description="Retries after the first attempt.")
    timeout_seconds: float | None = Field(
        None, gt=0, le=86_400, strict=True, description="Timeout of one attempt."
    )
    backoff: BackoffIn | None = Field(None, description="Delays between attempts.")

    def to_new_job(self) -> NewJob:
        """The same for the engine."""
        values = dict(self) | {"backoff": None}
        if self.backoff is not None:
            values["backoff"] = Backoff(**dict(self.backoff))
        return NewJob(**values)


class JobBatchIn(BaseModel):
    """A batch to be made; jobs join by `batch_id`, or by `POST /batches/{batch_id}/jobs`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_IN]})

    name: str = Field(
        min_length=1, max_length=MAX_NAME_CHARS, description="For people; need not be unique."
    )
    on_complete: BatchJobIn | None = Field(
        None,
        description="Enqueued once, when the batch is closed and all its jobs have ended, whatever became "
        "of them.",
    )
    on_failure: BatchJobIn | None = Field(
        None, description="Enqueued once, when the first job ends FAILED or DEAD_LETTER."
    )


class BatchCountsOut(BaseModel):
    """How many jobs a batch has, by what became of them."""

    model_config = ConfigDict(from_attributes=True)

    jobs: int = Field(description="Jobs that have joined.")
    pending: int = Field(description="Jobs that have not begun, or wait to be retried.")
    running: int = Field(description="Jobs that run.")
    succeeded: int = Field(description="SUCCESS.")
    failed: int = Field(description="FAILED.")
    dead_lettered: int = Field(description="DEAD_LETTER.")
    cancelled: int = Field(description="CANCELLED.")
    deleted: int = Field(
        description="Jobs that were deleted while they waited, or whose end is not known."
    )


class JobBatchOut(BaseModel):
    """A batch."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE_OUT]})

    id: int = Field(description="Its number.")
    name: str = Field(description="Its name.")
    state: BatchState = Field(
        description="`open`: jobs can join. `closed`: no more can. `cancelled`: its jobs are being "
        "cancelled. `complete`: all have ended."
    )
    created_by: str | None = Field(description="Who made it, and alone may add to it.")
    created_at: UtcTime = Field(description="When it was made.")
    closed_at: UtcTime | None = Field(description="When it was closed.")
    cancelled_at: UtcTime | None = Field(description="When it was cancelled.")
    cancelled_by: str | None = Field(description="By whom.")
    completed_at: UtcTime | None = Field(description="When the last of its jobs had ended.")
    complete_job_id: JobId | None = Field(description="The job of `on_complete`, once enqueued.")
    failure_job_id: JobId | None = Field(description="The job of `on_failure`, once enqueued.")
    counts: BatchCountsOut = Field(description="Its jobs, exact as of one moment.")

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """The batch as the API shows it."""
        return cls.model_validate(batch)


class JobBatchListOut(BaseModel):
    """One page of batches, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"batches": [EXAMPLE_OUT], "next_cursor": None}]}
    )

    batches: list[JobBatchOut] = Field(description="Running jobs are not counted apart.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")
