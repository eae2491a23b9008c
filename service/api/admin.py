"""`/admin/jobs`: what operators do. Parse, call, map."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.api.actor import acting
from service.api.admin_schemas import JobDetail, JobPageOut, ListedJobOut, ProcessOut, RetryIn
from service.api.cursors import decode_cursor, encode_cursor
from service.api.field_types import ReasonGiven
from service.api.guarded import GuardedRoute
from service.api.job_query import JobQuery
from service.api.job_stats import StatsOut, job_stats
from service.api.jobs import Id
from service.api.patterns import PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session, transaction
from service.api.stats_cache import StatsCache
from service.api.versions import ETAG, tag
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import InvalidInput
from service.jobs.actions import cancel_job, delete_job, retry_dead_letter_job
from service.jobs.core.job import BackgroundJob, JobId, JobStatus
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.get import get_job, worker_name
from service.jobs.read.list import list_jobs
from service.jobs.read.steps import read_steps
from service.jobs.read.waiting import waiting_for, what_holds
from service.jobs.run_once import Passes
from service.settings import Settings

router = APIRouter(prefix="/admin/jobs", tags=["Admin"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.ADMIN_READ))]
Operator = Annotated[Principal, Security(require(Permission.ADMIN_OPERATE))]
Deleter = Annotated[Principal, Security(require(Permission.ADMIN_DELETE))]


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
async def read_stats(request: Request, _: Reader) -> StatsOut:
    """By status, type, queue and day, and what ended in the last hour.

    Finished jobs come from kept counts, live ones are counted.

    Counts may be a second old, see `as_of`. An action through this process shows in its next answer.
    """
    return StatsOut.of(await job_stats(request))


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
    still have a `next_cursor`, from which the list continues; `complete` is then false. No index serves
    `payload`, `error` and `priority`: each page looks at as many jobs as `PAGE_SCAN_SECONDS` allow.
    """
    if query.limit > settings.max_page_size:
        raise InvalidInput(
            f"limit is {query.limit}: at most {settings.max_page_size} are allowed (MAX_PAGE_SIZE)",
            field="query.limit",
        )
    named, now = query.named(), datetime.now(UTC)
    page = await list_jobs(
        session,
        query.filters(now),
        limit=query.limit,
        before_id=None if query.cursor is None else JobId(decode_cursor(query.cursor, named)),
        cap=settings.count_cap,
        scan_seconds=settings.page_scan_seconds,
    )
    waits = await waiting_for(session, page.jobs, now=now, alive_seconds=alive_seconds(settings))
    following = page.next_before_id
    return JobPageOut(
        jobs=[ListedJobOut.of(job, waits.get(job.id)) for job in page.jobs],
        next_cursor=None if following is None else encode_cursor(following, named),
        total=page.total,
        total_exact=page.total_exact,
        complete=page.complete,
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
    operator: Operator,
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
    async with transaction(request) as session:
        await session.execute(select(1))
    passes: Passes = request.app.state.service.passes
    try:
        summary = await passes.run(limit)
    finally:
        _stats_cache(request).forget()
    async with transaction(request, own_deadline=True) as session:
        await audit.record(
            session,
            acting(request, operator),
            "job.process",
            subject_type="job",
            after={"limit": limit} | asdict(summary),
        )
    return ProcessOut.model_validate(summary)


@router.get(
    "/{job_id}",
    operation_id="getJobDetail",
    summary="Read the whole job",
    response_description="The whole job.",
    responses={200: {"headers": ETAG}, **problem_responses(404, 422, 503)},
)
async def read_detail(
    response: Response, _: Reader, job_id: Id, session: Session, settings: AppSettings
) -> JobDetail:
    """Payload, result, and every attempt's error that is kept."""
    job = await get_job(session, JobId(job_id))
    tag(response, job)
    return await detail_of(session, job, settings)


@router.post(
    "/{job_id}/retry",
    operation_id="retryJob",
    summary="Retry a dead job",
    response_description="The job, PENDING again.",
    responses=problem_responses(404, 409, 422, 503),
)
async def retry_job(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    body: Annotated[RetryIn | None, FIRST_ERRORS] = None,
) -> JobDetail:
    """A DEAD_LETTER or FAILED job becomes PENDING, due now, with all its attempts before it.

    Its history is kept, with an entry for who retried it. The body, if there is one, edits it: its
    payload, when it is due, its retries; the payload before is kept in the history as
    `payload_before`. 409 for any other status, or while another live job has its `unique_key`.
    """
    job = await retry_dead_letter_job(
        session,
        JobId(job_id),
        by=operator.subject,
        max_errors=settings.max_error_entries,
        edit=None if body is None else body.change(),
        max_payload_bytes=settings.max_payload_bytes,
        actor=acting(request, operator),
        reason=None if body is None else body.reason,
    )
    return await detail_of(session, job, settings)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel any job",
    response_description="The job, CANCELLED.",
    responses={
        202: {"model": JobDetail, "description": "The job is RUNNING, and will end CANCELLED."},
        **problem_responses(404, 409, 422, 503),
    },
)
async def cancel_any_job(
    request: Request,
    response: Response,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    reason: ReasonGiven = None,
) -> JobDetail:
    """A PENDING job becomes CANCELLED and never runs; 409 if the job has ended.

    A RUNNING job answers 202: its worker stops its handler, waits `CANCEL_GRACE_SECONDS` at most, and the
    job ends CANCELLED, whatever the handler does; see `cancel`. To ask again changes nothing.
    """
    actor = acting(request, operator)
    job = await cancel_job(session, JobId(job_id), actor=actor, reason=reason)
    response.status_code = 202 if job.status == JobStatus.RUNNING else 200
    return await detail_of(session, job, settings)


@router.delete(
    "/{job_id}",
    operation_id="deleteJob",
    summary="Delete a job and its history",
    response_description="The job is gone.",
    status_code=204,
    responses=problem_responses(404, 409, 422, 503),
)
async def remove_job(
    request: Request,
    operator: Deleter,
    job_id: Id,
    session: Change,
    reason: ReasonGiven = None,
) -> None:
    """Any but a RUNNING one. The audit log keeps what it was, without payload and result."""
    await delete_job(session, JobId(job_id), actor=acting(request, operator), reason=reason)


async def detail_of(session: AsyncSession, job: BackgroundJob, settings: Settings) -> JobDetail:
    """The job as operators see it."""
    worker = await worker_name(session, job.worker_id)
    hold = await what_holds(
        session, job, now=datetime.now(UTC), alive_seconds=alive_seconds(settings)
    )
    steps = await read_steps(session, JobId(job.id), max_chars=0)
    return JobDetail.whole(job, settings, worker=worker, hold=hold, steps=steps)
