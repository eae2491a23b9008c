"""`/batches`: named sets of jobs. Parse, call, map."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response, Security
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.actor import acting
from service.api.batch_schemas import JobBatchIn, JobBatchListOut, JobBatchOut
from service.api.cursors import decode_cursor, encode_cursor
from service.api.enqueue import Key, Writer, enqueue_list
from service.api.enqueue_policy import check_allowed, within_quotas
from service.api.field_types import ReasonGiven
from service.api.guarded import GuardedRoute
from service.api.new_job_schemas import BatchIn, BatchOut
from service.api.patterns import PLAIN_NUMBER
from service.api.payloads import check_payload_of_batch
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import NotFound
from service.jobs.batches import cancel_batch, close_batch, create_batch
from service.jobs.core.batch import Batch
from service.jobs.core.job import MAX_ID
from service.jobs.read.batches import get_batch, list_batches

router = APIRouter(prefix="/batches", tags=["Batches"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.JOBS_READ))]
BatchId = Annotated[
    int, Path(ge=1, le=MAX_ID, description="Number of a batch.", examples=[7]), PLAIN_NUMBER
]
PAGE: Final = 50


@router.post(
    "",
    operation_id="createBatch",
    summary="Make a batch",
    response_description="The new batch, open.",
    status_code=201,
    responses=problem_responses(422, 503),
)
async def make_batch(
    request: Request,
    body: Annotated[JobBatchIn, FIRST_ERRORS],
    principal: Writer,
    settings: AppSettings,
    session: Session,
) -> JobBatchOut:
    """Jobs join while it is open. Once it is closed, and all have ended, `on_complete` is enqueued.

    That job and the one of `on_failure` count against the caller's quotas as if they were enqueued now, and
    their payloads are checked with the member `batch` that they will have.
    """
    on_complete, on_failure = (
        None if job is None else job.to_new_job() for job in (body.on_complete, body.on_failure)
    )
    own = {"on_complete": on_complete, "on_failure": on_failure}
    jobs = [job for job in own.values() if job is not None]
    check_allowed(principal, jobs)
    if settings.check_payloads:
        for member, job in own.items():
            if job is not None:
                check_payload_of_batch(member, job)
    async with await within_quotas(request, principal, jobs):
        batch_id = await create_batch(
            session,
            body.name,
            on_complete=on_complete,
            on_failure=on_failure,
            created_by=principal.subject,
            max_payload_bytes=settings.max_payload_bytes,
        )
    return JobBatchOut.of(await get_batch(session, batch_id))


@router.get(
    "",
    operation_id="listBatches",
    summary="List batches, newest first",
    response_description="One page of batches.",
    responses=problem_responses(422, 503),
)
async def read_batches(
    principal: Reader,
    session: Session,
    *,
    unfinished: Annotated[
        bool, Query(description="Only those that are not complete.", examples=[True])
    ] = False,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the page before.")
    ] = None,
) -> JobBatchListOut:
    """A caller whose API key has limits sees its own."""
    own = None if principal.limits is None else principal.subject
    filters = {"unfinished": unfinished, "created_by": own}
    before_id = MAX_ID if cursor is None else decode_cursor(cursor, filters)
    found = await list_batches(
        session, limit=PAGE + 1, before_id=before_id, created_by=own, unfinished=unfinished
    )
    more = len(found) > PAGE
    return JobBatchListOut(
        batches=[JobBatchOut.of(batch) for batch in found[:PAGE]],
        next_cursor=encode_cursor(found[PAGE - 1].id, filters) if more else None,
    )


@router.get(
    "/{batch_id}",
    operation_id="getBatch",
    summary="Read a batch",
    response_description="The batch.",
    responses=problem_responses(404, 422, 503),
)
async def read_batch(principal: Reader, batch_id: BatchId, session: Session) -> JobBatchOut:
    """Its counts are exact as of one moment."""
    batch = await get_batch(session, batch_id)
    if principal.limits is not None and batch.created_by != principal.subject:
        raise NotFound(f"There is no batch {batch_id} of yours")
    return JobBatchOut.of(batch)


@router.post(
    "/{batch_id}/jobs",
    operation_id="addToBatch",
    summary="Enqueue jobs of a batch, all or none",
    response_description="The ids of the jobs, in the order given.",
    status_code=201,
    responses={
        200: {"model": BatchOut, "description": "The `Idempotency-Key` had been used: its jobs."},
        **problem_responses(400, 404, 409, 422, 503),
    },
)
async def add_jobs(
    request: Request,
    response: Response,
    batch_id: BatchId,
    body: Annotated[BatchIn, FIRST_ERRORS],
    principal: Writer,
    session: Session,
    idempotency_key: Key = None,
) -> BatchOut:
    """As `POST /jobs/batch`, each with this `batch_id`. 409 where the batch is closed.

    A job whose `unique_key` is held by another does not join.
    """
    await _own(session, batch_id, principal)
    for job in body.jobs:
        job.batch_id = batch_id
    return await enqueue_list(
        request, response, body, principal, session, idempotency_key=idempotency_key
    )


@router.post(
    "/{batch_id}/close",
    operation_id="closeBatch",
    summary="Close a batch",
    response_description="The batch.",
    responses=problem_responses(404, 422, 503),
)
async def close(principal: Writer, batch_id: BatchId, session: Session) -> JobBatchOut:
    """No more jobs can join. An empty batch is complete at once. To ask again changes nothing."""
    await _own(session, batch_id, principal)
    await close_batch(session, batch_id)
    return JobBatchOut.of(await get_batch(session, batch_id))


@router.post(
    "/{batch_id}/cancel",
    operation_id="cancelBatch",
    summary="Cancel a batch",
    response_description="The batch.",
    responses=problem_responses(404, 409, 422, 503),
)
async def cancel(
    request: Request,
    principal: Writer,
    batch_id: BatchId,
    session: Session,
    reason: ReasonGiven = None,
) -> JobBatchOut:
    """Closes it, and cancels its jobs, a moment later: those that run as `POST /jobs/{id}/cancel` does.

    When they have ended the batch is complete, and `on_complete` is enqueued as ever: its counts say
    what was cancelled. 409 where the batch is complete.
    """
    await _own(session, batch_id, principal)
    batch = await cancel_batch(session, batch_id, actor=acting(request, principal), reason=reason)
    return JobBatchOut.of(batch)


async def _own(session: AsyncSession, batch_id: int, principal: Principal) -> Batch:
    """The batch, which the caller must have made.

    Raises:
        NotFound: there is no such batch, or it is another's.
    """
    batch = await get_batch(session, batch_id)
    if batch.created_by != principal.subject and not principal.may(Permission.ADMIN_OPERATE):
        raise NotFound(f"There is no batch {batch_id} of yours")
    return batch
