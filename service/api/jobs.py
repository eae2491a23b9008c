"""`GET /jobs`: how clients read jobs. Parse, call, map."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response, Security

from service.api.enqueue_policy import may_read
from service.api.guarded import GuardedRoute
from service.api.job_schemas import JobOut, JobSummaryOut, JobsWithKeyOut
from service.api.lasting import followers_of, over_within
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.session import AppSettings, Session, transaction
from service.api.versions import ETAG, tag
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import NotFound
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import LIVE, MAX_ID, BackgroundJob, JobId
from service.jobs.read.get import get_job
from service.jobs.read.list import list_jobs

router = APIRouter(tags=["Jobs"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.JOBS_READ))]
Id = Annotated[
    int, Path(ge=1, le=MAX_ID, description="Number of a job.", examples=[42]), PLAIN_NUMBER
]
MAX_WITH_KEY: Final = 20
MAX_WAIT_SECONDS: Final = 60
"""Proxies give a request that is not answered up after some such time."""


@router.get(
    "/jobs",
    operation_id="findJobs",
    summary="Find jobs by their unique key",
    response_description="The jobs that have, or had, the key.",
    responses=problem_responses(422, 503),
)
async def find_jobs(
    principal: Reader,
    session: Session,
    settings: AppSettings,
    unique_key: Annotated[
        str,
        Query(
            min_length=1,
            max_length=255,
            pattern=NO_NUL,
            description="Exactly this key.",
            examples=["invoice-4711"],
        ),
    ],
) -> JobsWithKeyOut:
    """The jobs that have, or had, this key, newest first, 20 at most.

    A key with limits finds those that it may read.
    """
    page = await list_jobs(
        session,
        JobFilters(unique_key=unique_key),
        limit=MAX_WITH_KEY,
        cap=MAX_WITH_KEY,
        scan_seconds=settings.page_scan_seconds,
    )
    return JobsWithKeyOut(
        jobs=[JobSummaryOut.model_validate(job) for job in page.jobs if may_read(principal, job)]
    )


@router.get(
    "/jobs/{job_id}",
    operation_id="getJob",
    summary="Read a job",
    response_description="The job.",
    responses={200: {"headers": ETAG}, **problem_responses(404, 422, 503)},
)
async def read_job(
    request: Request,
    response: Response,
    principal: Reader,
    job_id: Id,
    settings: AppSettings,
    wait: Annotated[
        int,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="Seconds to wait for the job's end: the answer comes when it has ended, or as it is "
            "when the time is over.",
            examples=[10],
        ),
        PLAIN_NUMBER,
    ] = 0,
) -> JobOut:
    """Its status, and its result once it has one. Finished jobs are kept `RETENTION_DAYS`.

    With `wait` the answer is 200 as well, whether or not the job has ended: ask again while its status is
    PENDING or RUNNING. Beyond `MAX_FOLLOWERS` requests that wait in a process the answer is 503.
    """
    if wait:
        job = await _read_at_end(request, principal, job_id, within_seconds=wait)
    else:
        job = await _read(request, principal, job_id)
    tag(response, job)
    return JobOut.of(job, settings)


async def _read(
    request: Request, principal: Principal, job_id: int, *, own_deadline: bool = False
) -> BackgroundJob:
    """The job, if this caller may read it.

    Raises:
        NotFound: there is none, or none that it may read.
    """
    async with transaction(request, own_deadline=own_deadline) as session:
        job = await get_job(session, JobId(job_id))
    if not may_read(principal, job):
        raise NotFound(f"There is no job {job_id} of a queue and type that your API key may read")
    return job


async def _read_at_end(
    request: Request, principal: Principal, job_id: int, *, within_seconds: float
) -> BackgroundJob:
    """The job once it has ended, or as it is when the time is over.

    Raises:
        NotFound: there is none, or none that it may read.
        Unavailable: too many requests wait in this process.
    """
    followers = followers_of(request)
    with followers.wait(JobId(job_id), caller=principal.subject) as follower:
        async with followers.turn:
            job = await _read(request, principal, job_id, own_deadline=True)
        if job.status in LIVE and await over_within(request, follower, within_seconds):
            async with followers.turn:
                job = await _read(request, principal, job_id, own_deadline=True)
        return job
