"""`GET /admin/jobs/{job_id}/logs`: what handlers logged about a job."""

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service.api.admin import Reader
from service.api.guarded import GuardedRoute
from service.api.job_query import Text
from service.api.jobs import Id
from service.api.patterns import PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import Session
from service.jobs.core.job import JobId
from service.jobs.read.logs import MAX_LINES, read_log

router = APIRouter(prefix="/admin/jobs", tags=["Admin"], route_class=GuardedRoute)

_LINE: Final[dict[str, Any]] = {
    "position": "9017.1",
    "attempt": 1,
    "at": "2026-03-01T09:30:00.125Z",
    "level": "info",
    "message": "sent",
    "fields": {"recipients": 3},
}


class LogQuery(BaseModel):
    """Which lines."""

    model_config = ConfigDict(extra="forbid")

    after: Text | None = Field(
        None, max_length=40, description="`next_after` of the answer before: what came since then."
    )
    limit: Annotated[int, PLAIN_NUMBER] = Field(
        200, ge=1, le=MAX_LINES, description="Maximum number of lines."
    )


class LogLineOut(BaseModel):
    """A line that the handler logged by `ctx.log`."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_LINE]})

    position: str = Field(description="Its place among the lines of the job.")
    attempt: int = Field(description="Of which attempt; a retry by hand begins again at 1.")
    at: datetime = Field(description="When, by the clock of the worker.")
    level: str = Field(description="`debug`, `info`, `warning` or `error`.")
    message: str = Field(description="The words.")
    fields: dict[str, Any] | None = Field(description="Values beside them.")


class JobLogOut(BaseModel):
    """Lines of a job, oldest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"lines": [_LINE], "next_after": "9017.1"}]}
    )

    lines: list[LogLineOut] = Field(description="The lines.")
    next_after: str | None = Field(
        description="Pass it as `after` for what comes next; null: nothing has been logged yet."
    )


@router.get(
    "/{job_id}/logs",
    operation_id="readJobLog",
    summary="Read what a job logged",
    response_description="Its lines, oldest first.",
    responses=problem_responses(404, 422, 503),
)
async def read_job_log(
    _: Reader, job_id: Id, query: Annotated[LogQuery, Query(), FIRST_ERRORS], session: Session
) -> JobLogOut:
    """Lines of the newest three attempts that logged, a moment after they were logged.

    They are kept for `JOB_LOG_DAYS`, or until the job is deleted.
    """
    found = await read_log(session, JobId(job_id), after=query.after, limit=query.limit)
    return JobLogOut(
        lines=[LogLineOut.model_validate(line) for line in found],
        next_after=found[-1].position if found else query.after,
    )
