"""`/jobs/{job_id}`: what clients do to jobs that they enqueued. Parse, call, map."""

from typing import Annotated, Final

from fastapi import APIRouter, Request, Response, Security
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.actor import acting
from service.api.enqueue_policy import check_allowed, may_read, spend_names
from service.api.field_types import ReasonGiven
from service.api.guarded import GuardedRoute
from service.api.job_changes import JobChangeIn
from service.api.job_schemas import JobOut
from service.api.jobs import Id
from service.api.payloads import check_payload_of
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session, settings_of
from service.api.versions import ETAG, IfMatch, tag, versions_of
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import Forbidden, NotFound
from service.jobs.actions import cancel_job, change_job, run_job_now
from service.jobs.core.change import JobChange
from service.jobs.core.job import BackgroundJob, JobId, JobStatus
from service.jobs.core.new_job import NewJob
from service.jobs.read.get import get_job
from service.settings import Settings

router = APIRouter(tags=["Jobs"], route_class=GuardedRoute)

Writer = Annotated[Principal, Security(require(Permission.JOBS_WRITE))]
WIDER: Final = Permission.ADMIN_OPERATE
"""Who has it may change jobs of others."""


@router.post(
    "/jobs/{job_id}/cancel",
    operation_id="cancelOwnJob",
    summary="Cancel a job",
    response_description="The job, CANCELLED.",
    responses={
        200: {"headers": ETAG},
        202: {"model": JobOut, "description": "The job is RUNNING, and will end CANCELLED."},
        **problem_responses(403, 404, 409, 422, 503),
    },
)
async def cancel_own_job(
    request: Request,
    response: Response,
    writer: Writer,
    job_id: Id,
    session: Session,
    settings: AppSettings,
    reason: ReasonGiven = None,
) -> JobOut:
    """A PENDING job becomes CANCELLED and never runs. 409 if the job has ended.

    A RUNNING job answers 202: its worker hears of it within a second, as a rule, and stops its handler. It
    ends CANCELLED, whatever its handler does; `cancel` then says when the worker heard of it, and how the
    handler took it. One that does not stop within `CANCEL_GRACE_SECONDS` is not waited for. To ask again
    changes nothing.

    A job that another caller enqueued needs `admin:operate`.
    """
    await own_job(session, writer, job_id)
    job = await cancel_job(session, JobId(job_id), actor=acting(request, writer), reason=reason)
    response.status_code = 202 if job.status == JobStatus.RUNNING else 200
    return _shown(response, writer, job, settings)


@router.patch(
    "/jobs/{job_id}",
    operation_id="changeOwnJob",
    summary="Change a pending job",
    response_description="The job as it is now.",
    responses={200: {"headers": ETAG}, **problem_responses(403, 404, 409, 412, 422, 429, 503)},
)
async def change_own_job(
    request: Request,
    response: Response,
    writer: Writer,
    job_id: Id,
    body: Annotated[JobChangeIn, FIRST_ERRORS],
    session: Session,
    settings: AppSettings,
    if_match: IfMatch = None,
) -> JobOut:
    """Its payload, due time, queue, priority or retries; 409 unless it is PENDING.

    A due job that is moved to another queue or priority goes to the end of those that are due there.
    With `If-Match` it is changed only if nothing has changed it since it was read; else 412. What the
    caller could not enqueue is refused. A job that another caller enqueued needs `admin:operate`.
    """
    change = body.change()
    await _check_change(request, writer, await own_job(session, writer, job_id), change)
    job = await change_job(
        session,
        JobId(job_id),
        change,
        max_payload_bytes=settings.max_payload_bytes,
        max_errors=settings.max_error_entries,
        versions=versions_of(if_match),
        actor=acting(request, writer),
        reason=body.reason,
    )
    return _shown(response, writer, job, settings)


@router.post(
    "/jobs/{job_id}/run-now",
    operation_id="runOwnJobNow",
    summary="Run a pending job now",
    response_description="The job, due now.",
    responses={200: {"headers": ETAG}, **problem_responses(403, 404, 409, 422, 503)},
)
async def run_own_job_now(
    request: Request,
    response: Response,
    writer: Writer,
    job_id: Id,
    session: Session,
    settings: AppSettings,
    reason: ReasonGiven = None,
) -> JobOut:
    """Makes it due at once, whether it waits for its time or for its next retry.

    Limits, and other jobs that it waits for, hold it all the same. A job that another caller enqueued
    needs `admin:operate`.
    """
    await own_job(session, writer, job_id)
    job = await run_job_now(session, JobId(job_id), actor=acting(request, writer), reason=reason)
    return _shown(response, writer, job, settings)


def _shown(response: Response, caller: Principal, job: BackgroundJob, settings: Settings) -> JobOut:
    tag(response, job)
    return JobOut.of(job, settings).as_seen(may_read=may_read(caller, job))


async def own_job(session: AsyncSession, caller: Principal, job_id: int) -> BackgroundJob:
    """The job, if this caller may change it.

    Raises:
        NotFound: there is none, or none that it may read.
        Forbidden: another caller enqueued it.
    """
    job = await get_job(session, JobId(job_id))
    if job.enqueued_by == caller.subject or caller.may(WIDER):
        return job
    if not may_read(caller, job):
        raise NotFound(f"There is no job {job_id} that you enqueued")
    raise Forbidden(
        f"Job {job_id} was enqueued by another caller: only that one, or who holds {WIDER}, may "
        "change it",
        scope=WIDER,
    )


async def _check_change(
    request: Request, caller: Principal, job: BackgroundJob, change: JobChange
) -> None:
    """Refuse what this caller could not enqueue.

    Raises:
        Forbidden: the job's type is the service's own, or the new queue or priority lies outside the
            limits of the caller's API key.
        QuotaExceeded: the queue is new, and the caller may add no more names.
        RequestValidationError: the handler would refuse the payload.
    """
    changed = NewJob(
        job.job_type,
        queue=change.queue or job.queue,
        priority=job.priority if change.priority is None else change.priority,
    )
    check_allowed(caller, [changed])
    if change.queue is not None:
        await spend_names(request, caller, [changed])
    if change.payload is not None and settings_of(request).check_payloads:
        check_payload_of(job.job_type, change.payload)
