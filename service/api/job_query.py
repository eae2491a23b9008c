"""The query of a list of jobs, parameter by parameter."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.cursors import MAX_CURSOR_CHARS
from service.api.field_types import Moment
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.jobs.core.job import HIGHEST_PRIORITY, LOWEST_PRIORITY, JobStatus

Text = Annotated[str, Field(pattern=NO_NUL)]


def _blank_is_unset(values: object) -> object:
    """Forms send `status=&job_type=` for fields left empty."""
    if not isinstance(values, Mapping):
        return values
    return {name: value for name, value in values.items() if value not in ("", [""], [])}


class JobQuery(BaseModel):
    """Filters, size and position of one page."""

    model_config = ConfigDict(extra="forbid")

    status: list[JobStatus] | None = Field(
        None, max_length=len(JobStatus), description="One or several: `status=FAILED&status=…`."
    )
    job_type: Text | None = Field(None, max_length=100, description="Exactly this job type.")
    queue: Text | None = Field(None, max_length=100, description="Exactly this queue.")
    priority: (
        Annotated[int, Field(ge=HIGHEST_PRIORITY, le=LOWEST_PRIORITY), PLAIN_NUMBER] | None
    ) = Field(None, description="Exactly this priority.")
    unique_key: Text | None = Field(None, max_length=255, description="Exactly this key.")
    created_after: Moment | None = Field(None, description="Enqueued at this time or later.")
    created_before: Moment | None = Field(None, description="Enqueued before this time.")
    due_after: Moment | None = Field(None, description="`next_run_at` at this time or later.")
    due_before: Moment | None = Field(None, description="`next_run_at` before this time.")
    finished_after: Moment | None = Field(None, description="Ended at this time or later.")
    finished_before: Moment | None = Field(None, description="Ended before this time.")
    worker: Text | None = Field(
        None,
        max_length=200,
        description="Run by the worker of exactly this name, or run last by it before it ended.",
    )
    error: Text | None = Field(
        None, max_length=200, description="A part of `last_error`, in any case of letters."
    )
    limit: Annotated[int, PLAIN_NUMBER] = Field(
        50,
        ge=1,
        le=1000,
        description="Maximum number of jobs on the page, up to `MAX_PAGE_SIZE` (200).",
    )
    cursor: Text | None = Field(
        None,
        max_length=MAX_CURSOR_CHARS,
        description="`next_cursor` of the page before, with the same filters.",
    )

    _unset = model_validator(mode="before")(_blank_is_unset)

    @model_validator(mode="after")
    def _ordered_ranges(self) -> Self:
        for name in ("created", "due", "finished"):
            after, before = getattr(self, f"{name}_after"), getattr(self, f"{name}_before")
            if after is not None and before is not None and after >= before:
                raise ValueError(f"{name}_after must be earlier than {name}_before")
        return self
