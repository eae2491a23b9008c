"""`GET /jobs`: how clients read jobs. Parse, call, map."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Response, Security

from service.api.enqueue_policy import may_read
from service.api.guarded import GuardedRoute
from service.api.job_schemas import JobOut, JobSummaryOut, JobsWithKeyOut
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.session import AppSettings, Session
from service.api.versions import ETAG, tag
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import NotFound
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import MAX_ID, JobId
from service.jobs.read.get import get_job
from service.jobs.read.list import list_jobs

router = APIRouter(tags=["Jobs"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.JOBS_READ))]
Id = Annotated[
    int, Path(ge=1, le=MAX_ID, description="Number of a job.", examples=[42]), PLAIN_NUMBER
]
MAX_WITH_KEY: Final = 20


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
    response: Response, principal: Reader, job_id: Id, session: Session, settings: AppSettings
) -> JobOut:
    """Its status, and its result once it has one. Finished jobs are kept `RETENTION_DAYS`."""
    job = await get_job(session, JobId(job_id))
    if not may_read(principal, job):
        raise NotFound(f"There is no job {job_id} of a queue and type that your API key may read")
    tag(response, job)
    return JobOut.of(job, settings)
