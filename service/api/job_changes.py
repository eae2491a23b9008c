"""`/admin/jobs/{job_id}`: what operators change of a job that waits, and copies of jobs."""

from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, model_validator

from service.api.actor import acting
from service.api.admin import Change, Operator, detail_of
from service.api.admin_schemas import JobDetail, RetryIn
from service.api.field_types import Name, Priority, ReasonGiven
from service.api.guarded import GuardedRoute
from service.api.jobs import Id
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings
from service.api.versions import ETAG, IfMatch, tag, versions_of
from service.jobs.actions import change_job, clone_job, run_job_now
from service.jobs.core.job import JobId
from service.jobs.read.get import get_job

router = APIRouter(prefix="/admin/jobs", tags=["Admin"], route_class=GuardedRoute)

EXAMPLE: Final[dict[str, Any]] = {"queue": "billing-slow", "priority": 7}


class JobChangeIn(RetryIn):
    """What is to be changed; a member that is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [EXAMPLE], "minProperties": 1}
    )

    queue: Name | None = Field(None, description="The queue that it is moved to.")
    priority: Priority | None = Field(None, description="0 (most urgent) to 9.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.change().given():
            names = (name for name in type(self).model_fields if name != "reason")
            raise ValueError(f"give at least one of {', '.join(names)}")
        return self


@router.patch(
    "/{job_id}",
    operation_id="changeJob",
    summary="Change a pending job",
    response_description="The job as it is now.",
    responses={200: {"headers": ETAG}, **problem_responses(404, 409, 412, 422, 503)},
)
async def change_pending_job(
    request: Request,
    response: Response,
    operator: Operator,
    job_id: Id,
    body: Annotated[JobChangeIn, FIRST_ERRORS],
    session: Change,
    settings: AppSettings,
    if_match: IfMatch = None,
) -> JobDetail:
    """Its payload, due time, queue, priority or retries; 409 unless it is PENDING.

    A due job that is moved to another queue or priority goes to the end of those that are due there.
    With `If-Match` it is changed only if nothing has changed it since it was read; else 412.
    """
    limit = settings.max_payload_bytes
    job = await change_job(
        session,
        JobId(job_id),
        body.change(),
        max_payload_bytes=limit,
        max_errors=settings.max_error_entries,
        versions=versions_of(if_match),
        actor=acting(request, operator),
        reason=body.reason,
    )
    tag(response, job)
    return await detail_of(session, job, settings)


@router.post(
    "/{job_id}/run-now",
    operation_id="runJobNow",
    summary="Run a pending job now",
    response_description="The job, due now.",
    responses=problem_responses(404, 409, 422, 503),
)
async def run_pending_job_now(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    reason: ReasonGiven = None,
) -> JobDetail:
    """Makes it due at once, whether it waits for its time or for its next retry."""
    job = await run_job_now(session, JobId(job_id), actor=acting(request, operator), reason=reason)
    return await detail_of(session, job, settings)


@router.post(
    "/{job_id}/clone",
    operation_id="cloneJob",
    summary="Enqueue a copy of a job",
    response_description="The new job.",
    status_code=201,
    responses=problem_responses(404, 422, 503),
)
async def clone_any_job(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    reason: ReasonGiven = None,
) -> JobDetail:
    """A new job with the same type, payload, queue and limits, due now, whatever became of this one.

    Its `unique_key` is not copied. The new job belongs to the operator.
    """
    limit = settings.max_payload_bytes
    made = await clone_job(
        session,
        JobId(job_id),
        by=operator.subject,
        max_payload_bytes=limit,
        actor=acting(request, operator),
        reason=reason,
    )
    return await detail_of(session, await get_job(session, made.id), settings)
