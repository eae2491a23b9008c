"""`/jobs/{job_id}/explain`: why a job is not running. Parse, call, map."""

from datetime import UTC, datetime

from fastapi import APIRouter

from service.api.enqueue_policy import may_read
from service.api.explain_examples import EXAMPLES
from service.api.explain_schemas import ExplanationOut
from service.api.guarded import GuardedRoute
from service.api.job_schemas import effective_limits
from service.api.jobs import Id, Reader
from service.api.problems import problem_responses
from service.api.session import AppSettings, Session
from service.errors import NotFound
from service.jobs.core.job import JobId
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.explain import explain
from service.jobs.read.get import get_job

router = APIRouter(tags=["Jobs"], route_class=GuardedRoute)


@router.get(
    "/jobs/{job_id}/explain",
    operation_id="explainJob",
    summary="Say why a job is not running",
    response_description="What it waits for, who is in its way, when it starts, and what to do.",
    responses={
        200: {"content": {"application/json": {"examples": EXAMPLES}}},
        **problem_responses(404, 422, 503),
    },
)
async def explain_job(
    principal: Reader, job_id: Id, session: Session, settings: AppSettings
) -> ExplanationOut:
    """What it waits for, since when, who is in its way, when it starts, about, and what to do.

    Of a job that runs it says who runs it, of one that has ended how. Who may read the job may ask;
    names of workers are for those with `admin:read`, and a key with limits sees only those of the
    jobs holding permits that it may read.
    """
    job = await get_job(session, JobId(job_id))
    if not may_read(principal, job):
        raise NotFound(f"There is no job {job_id} of a queue and type that your API key may read")
    why = await explain(
        session,
        job,
        now=datetime.now(UTC),
        alive_seconds=alive_seconds(settings),
        max_lost_leases=settings.max_lost_leases,
    )
    timeout = effective_limits(job, settings)["effective_timeout_seconds"]
    return ExplanationOut.of(why, principal, timeout_seconds=timeout)
