"""`/admin/jobs`: what operators do. Parse, call, map."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Security
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.admin_schemas import JobDetail, JobPageOut, ProcessOut, StatsOut
from service.api.cursors import decode_cursor, encode_cursor
from service.api.guarded import GuardedRoute
from service.api.job_query import JobQuery
from service.api.jobs import Id
from service.api.patterns import PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.schemas import JobSummaryOut
from service.api.session import AppSettings, Session, deadline_of, transaction
from service.api.stats_cache import StatsCache
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import InvalidInput
from service.jobs.actions import cancel_job, delete_job, retry_dead_letter_job
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import BackgroundJob, JobId
from service.jobs.maintenance.unserved import MIN_ALIVE_SECONDS
from service.jobs.read.get import get_job, waits_for_worker, worker_name
from service.jobs.read.list import list_jobs
from service.jobs.read.statistics import JobStats, get_job_stats
from service.jobs.run_once import Passes
from service.settings import Settings

router = APIRouter(prefix="/admin/jobs", tags=["Admin"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.ADMIN_READ))]
Operator = Annotated[Principal, Security(require(Permission.ADMIN_OPERATE))]


def _stats_cache(request: Request) -> StatsCache:
    cache: StatsCache = request.app.state.stats_cache
    return cache


async def _change(request: Request) -> AsyncIterator[AsyncSession]:
    """The transaction of an action; once it has committed, earlier statistics are dropped."""
    async with transaction(request) as opened:
        yield opened
    _stats_cache(request).forget()


# scope="function": see Session.
Change = Annotated[AsyncSession, Depends(_change, scope="function")]


@router.get(
    "/stats",
    operation_id="getJobStats",
    summary="Count the jobs",
    response_description="The counts.",
    responses=problem_responses(503),
)
async def read_stats(request: Request, settings: AppSettings, _: Reader) -> StatsOut:
    """By status, type, queue and day. Finished jobs come from kept counts, live ones are counted.

    Counts may be a second old, see `as_of`. An action through this process shows in its next answer.
    """

    async def query() -> JobStats:
        async with transaction(request, own_deadline=True) as session:
            return await get_job_stats(session, cap=settings.count_cap)

    stats = await _stats_cache(request).get(query, deadline=deadline_of(request))
    return StatsOut.model_validate(stats)


@router.get(
    "",
    operation_id="listJobs",
    summary="List jobs, newest first",
    response_description="One page of jobs.",
    responses=problem_responses(422, 503),
)
async def read_jobs(
    _: Reader,
    query: Annotated[JobQuery, Query(), FIRST_ERRORS],
    session: Session,
    settings: AppSettings,
) -> JobPageOut:
    """Pages by cursor: a job appears on one page only, however many are added meanwhile.

    If matches are far apart in a large table, a page may hold fewer than `limit` jobs, even none, and
    still have a `next_cursor`, from which the list continues.
    """
    if query.limit > settings.max_page_size:
        raise InvalidInput(
            f"limit is {query.limit}: at most {settings.max_page_size} are allowed (MAX_PAGE_SIZE)",
            field="query.limit",
        )
    named = query.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True)
    page = await list_jobs(
        session,
        JobFilters(
            statuses=None if query.status is None else frozenset(query.status),
            **{
                name: getattr(query, name)
                for name in JobQuery.model_fields
                if name not in {"status", "limit", "cursor"}
            },
        ),
        limit=query.limit,
        before_id=None if query.cursor is None else JobId(decode_cursor(query.cursor, named)),
        cap=settings.count_cap,
        scan_seconds=settings.page_scan_seconds,
    )
    following = page.next_before_id
    return JobPageOut(
        jobs=[JobSummaryOut.model_validate(job) for job in page.jobs],
        next_cursor=None if following is None else encode_cursor(following, named),
        total=page.total,
        total_exact=page.total_exact,
    )


@router.post(
    "/process",
    operation_id="processDueJobs",
    summary="Run due jobs now",
    response_description="What became of the jobs that were taken.",
    responses=problem_responses(422, 503),
)
async def process_jobs(
    request: Request,
    _: Operator,
    limit: Annotated[
        int, Query(ge=1, le=1000, description="Maximum number of jobs to take."), PLAIN_NUMBER
    ] = 50,
) -> ProcessOut:
    """Runs them in this process and answers when their outcomes are recorded.

    Safe beside workers: each job is claimed once. It does not wait for a handler that does not stop
    after its timeout. A process runs four passes at a time; a fifth waits briefly, then gets 503. A due
    job whose type no worker serves, or has served within `SERVED_TYPE_MEMORY_DAYS`, becomes FAILED at
    once, without the grace period of workers.
    """
    # A pass takes as long as its jobs do, but a database that hangs is reported in time.
    async with transaction(request):
        pass
    passes: Passes = request.app.state.service.passes
    try:
        summary = await passes.run(limit)
    finally:
        _stats_cache(request).forget()
    return ProcessOut.model_validate(summary)


@router.get(
    "/{job_id}",
    operation_id="getJobDetail",
    summary="Read the whole job",
    response_description="The whole job.",
    responses=problem_responses(404, 422, 503),
)
async def read_detail(_: Reader, job_id: Id, session: Session, settings: AppSettings) -> JobDetail:
    """Payload, result, and every attempt's error that is kept."""
    return await _detail(session, await get_job(session, JobId(job_id)), settings)


@router.post(
    "/{job_id}/retry",
    operation_id="retryJob",
    summary="Retry a dead job",
    response_description="The job, PENDING again.",
    responses=problem_responses(404, 409, 422, 503),
)
async def retry_job(
    operator: Operator, job_id: Id, session: Change, settings: AppSettings
) -> JobDetail:
    """A DEAD_LETTER or FAILED job becomes PENDING, due now, with all its attempts before it.

    Its history is kept, with an entry for who retried it. 409 for any other status, or while another
    live job has its `unique_key`.
    """
    job = await retry_dead_letter_job(
        session, JobId(job_id), by=operator.subject, max_errors=settings.max_error_entries
    )
    return await _detail(session, job, settings)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel a pending job",
    response_description="The job, CANCELLED.",
    responses=problem_responses(404, 409, 422, 503),
)
async def cancel_pending_job(
    _: Operator, job_id: Id, session: Change, settings: AppSettings
) -> JobDetail:
    """A PENDING job becomes CANCELLED and never runs; 409 for any other status."""
    return await _detail(session, await cancel_job(session, JobId(job_id)), settings)


@router.delete(
    "/{job_id}",
    operation_id="deleteJob",
    summary="Delete a job and its history",
    response_description="The job is gone.",
    status_code=204,
    responses=problem_responses(404, 409, 422, 503),
)
async def remove_job(_: Operator, job_id: Id, session: Change) -> None:
    """Any but a RUNNING one."""
    await delete_job(session, JobId(job_id))


async def _detail(session: AsyncSession, job: BackgroundJob, settings: Settings) -> JobDetail:
    worker = await worker_name(session, job.worker_id)
    alive = max(settings.lease_seconds, MIN_ALIVE_SECONDS)
    waits = await waits_for_worker(session, job, alive=alive)
    return JobDetail.whole(job, settings, worker=worker, waiting_for="worker" if waits else None)
