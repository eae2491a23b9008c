"""Jobs as clients get them, field by field."""

from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from service.api.cancel_schema import CancelOut, cancel_out
from service.api.field_types import UtcTime
from service.jobs.core.job import (
    BackgroundJob,
    JobId,
    JobStatus,
)
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.core.new_job import NewJob
from service.jobs.core.redaction import redact_for
from service.settings import Settings

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
    "concurrency_key": "customer:7",
    "held_for": None,
    "batch_id": None,
}
EXAMPLE_OUT: Final[dict[str, Any]] = EXAMPLE_SUMMARY | {
    "payload": {"invoice": 4711},
    "result": None,
    "progress": None,
    "cancel": None,
    "timeout_seconds": None,
    "callback": None,
    "result_ttl_seconds": None,
    "result_dropped": False,
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
    concurrency_key: str | None = Field(
        description="Jobs with the same key share a limit on how many of them run at once."
    )
    held_for: str | None = Field(
        description="What it waits for although it may be due: `key:` and its concurrency key, or `queue:` "
        "and its queue, for a limit on running jobs; `unique` for the running job with its unique key; "
        "`rate:` and its queue for a rate; `breaker:` and its target for one that keeps failing; `after` for other jobs. null: it is not held."
    )
    batch_id: int | None = Field(description="The batch that it is a member of.")


class JobOut(JobSummaryOut):
    """A job as its client sees it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_NEW]})

    payload: Any = Field(description="What its handler gets.")
    result: Any = Field(description="What its handler returned.")
    progress: Any = Field(
        description="The progress that its handler reported last; null before that, and once it succeeded."
    )
    cancel: Annotated[CancelOut | None, BeforeValidator(cancel_out)] = Field(
        description="Who asked for its cancel, and what came of it. null: nobody did."
    )
    timeout_seconds: float | None = Field(
        description="The requested timeout. null: that of its handler where it runs, else "
        "`DEFAULT_TIMEOUT_SECONDS` (300)."
    )
    callback: Any = Field(description="Whom its end is told: `url`, and `sign_with`. null: nobody.")
    result_ttl_seconds: float | None = Field(
        description="How long after its end its result is kept. null: as long as the job."
    )
    result_dropped: bool = Field(
        description="Whether that time is over: then `result` is null, whatever its handler returned."
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

    def as_seen(self, *, may_read: bool) -> Self:
        """The same for a caller that may not read jobs: without result, progress and error."""
        if may_read:
            return self
        return self.model_copy(update={"result": None, "progress": None, "last_error": None})


class JobsWithKeyOut(BaseModel):
    """Jobs that have, or had, one `unique_key`."""

    jobs: list[JobSummaryOut] = Field(description="Newest first, 20 at most.")


def row_of(job: BackgroundJob, shown: type[JobOut]) -> dict[str, Any]:
    """What the row itself holds of the fields that are shown."""
    row = {name: getattr(job, name) for name in shown.model_fields if hasattr(job, name)}
    row |= {"next_run_at": job.due_at, "unique_key": job.own_key}
    if job.result_dropped:
        row["result"] = None
    return row | {
        name: redact_for(job.job_type, row[name]) for name in ("payload", "result", "progress")
    }


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
