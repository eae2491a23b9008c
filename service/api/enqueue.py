"""`POST /jobs` and `/jobs/batch`: how clients enqueue. Parse, call, map."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Header, Request, Response, Security
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.direct import direct_route
from service.api.enqueue_policy import check_allowed, may_name, may_read, within_quotas
from service.api.guarded import GuardedRoute
from service.api.job_schemas import JobOut, effective_limits
from service.api.new_job_schemas import EXAMPLES_IN, BatchIn, BatchOut, JobIn
from service.api.patterns import VISIBLE_ASCII
from service.api.payloads import check_payload, check_payloads
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.request_key import request_key
from service.api.session import Session, deadline_of, settings_of, transaction
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs.core.idempotency_key import IdempotencyKey
from service.jobs.core.job import BackgroundJob, JobStatus
from service.jobs.core.new_job import EnqueuedJob, NewJob
from service.jobs.core.redaction import shown_of_new
from service.jobs.enqueue.dependencies import waits
from service.jobs.enqueue.enqueue import enqueue_for
from service.jobs.enqueue.group_commit import Intake
from service.jobs.enqueue.idempotency import submit
from service.jobs.enqueue.uniqueness import check_holders
from service.jobs.read.get import get_job
from service.settings import Settings

router = APIRouter(tags=["Jobs"], route_class=GuardedRoute)

Writer = Annotated[Principal, Security(require(Permission.JOBS_WRITE))]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=VISIBLE_ASCII,
        description="Names this request, 1 to 255 visible ASCII characters. Sent again with the "
        "same body within `IDEMPOTENCY_KEY_HOURS` it enqueues nothing and returns the same jobs.",
        examples=["5a1f7c0e-order-4711"],
    ),
]
LOCATION: Final[dict[str, Any]] = {
    "Location": {"description": "Where the job is read.", "schema": {"type": "string"}}
}


async def _enqueue(request: Request, body: JobIn, principal: Principal) -> Response:
    intake: Intake = request.app.state.service.intake
    settings = settings_of(request)
    job = _checked(body, principal, settings)
    if job.is_ruled or waits(job):
        async with await within_quotas(request, principal, [job]):
            return await _enqueue_alone(request, job, principal)
    async with (
        await within_quotas(request, principal, [job]),
        asyncio.timeout_at(deadline_of(request)),
    ):
        enqueued = await intake.submit(job, caller=principal.subject)
    if enqueued.created:
        return _created(job, enqueued, settings)
    async with transaction(request) as session:
        await check_holders(session, [job], [enqueued], caller=principal.subject, settings=settings)
        holder = await get_job(session, enqueued.id)
        return _job_response(holder, 200, settings, principal)


async def enqueue_job(
    request: Request,
    body: Annotated[JobIn, Body(openapi_examples=EXAMPLES_IN), FIRST_ERRORS],
    principal: Writer,
    idempotency_key: Key = None,
) -> Response:
    """The job is durable when the answer comes: no crash loses it, and it runs at least once.

    A `unique_key` held by a live job with the same type and payload answers 200 with that job;
    with another type or payload, or of another caller, 409; `on_conflict` says to do otherwise. An `Idempotency-Key` seen before with
    the same body answers 200 with the job that it created, even when that has ended; with another
    body, or when the job has been deleted since, 409. A job with `after` waits until those jobs have
    ended; ids that do not exist, or that the caller may not read, are a 422. For a caller that may not read jobs `result`,
    `progress` and `last_error` of an existing job are null.
    """
    if idempotency_key is None:
        return await _enqueue(request, body, principal)
    job = _checked(body, principal, settings_of(request))
    key = await _idempotency_key(request, body, principal, idempotency_key)
    async with await within_quotas(request, principal, [job]):
        return await _enqueue_alone(request, job, principal, key=key)


router.add_api_route(
    "/jobs",
    enqueue_job,
    methods=["POST"],
    route_class_override=direct_route(_enqueue),
    operation_id="enqueueJob",
    summary="Enqueue a job",
    status_code=201,
    response_model=JobOut,
    responses={
        200: {
            "model": JobOut,
            "description": "The existing job that the `unique_key` or `Idempotency-Key` names.",
            "headers": LOCATION,
        },
        201: {"description": "The new job.", "headers": LOCATION},
        **problem_responses(400, 409, 422, 503),
    },
)


@router.post(
    "/jobs/batch",
    operation_id="enqueueJobs",
    summary="Enqueue many jobs, all or none",
    response_description="The ids of the jobs, in the order given.",
    status_code=201,
    responses={
        200: {"model": BatchOut, "description": "The `Idempotency-Key` had been used: its jobs."},
        **problem_responses(400, 409, 422, 503),
    },
)
async def enqueue_jobs(
    request: Request,
    response: Response,
    body: Annotated[BatchIn, FIRST_ERRORS],
    principal: Writer,
    session: Session,
    idempotency_key: Key = None,
) -> BatchOut:
    """One transaction: if one job is refused none is enqueued, and the error names its position.

    A `unique_key` held by a live job with the same type and payload gives that job's id, unless
    another caller enqueued it: that is a 409. `on_conflict` says to do otherwise; two jobs of the batch
    with the same key count as enqueued one after the other.
    """
    return await enqueue_list(
        request, response, body, principal, session, idempotency_key=idempotency_key
    )


async def enqueue_list(
    request: Request,
    response: Response,
    body: BatchIn,
    principal: Principal,
    session: AsyncSession,
    *,
    idempotency_key: str | None,
    kind: str | None = None,
    enqueue: Callable[..., Awaitable[list[EnqueuedJob]]] = enqueue_for,
) -> BatchOut:
    """Enqueue the jobs of one request together, in the manner of `enqueue`."""
    settings = settings_of(request)
    if len(body.jobs) > settings.max_batch_jobs:
        raise InvalidInput(
            f"The batch has {len(body.jobs)} jobs: at most {settings.max_batch_jobs} are allowed "
            "(MAX_BATCH_JOBS)",
            field="body.jobs",
        )
    jobs = [job.to_new_job() for job in body.jobs]
    check_allowed(principal, jobs)
    if settings.check_payloads:
        check_payloads(body.jobs)
    key = None
    if idempotency_key is not None:
        key = await _idempotency_key(request, body, principal, idempotency_key, kind=kind)
    async with await within_quotas(request, principal, jobs):
        made = await submit(
            session,
            jobs,
            caller=principal.subject,
            settings=settings,
            may_name=partial(may_name, principal),
            enqueue=enqueue,
            key=key,
        )
    if made.repeated:
        response.status_code = 200
    return BatchOut(ids=made.ids, created=made.created)


def _checked(body: JobIn, principal: Principal, settings: Settings) -> NewJob:
    job = body.to_new_job()
    check_allowed(principal, [job])
    if settings.check_payloads:
        check_payload(body)
    return job


async def _idempotency_key(
    request: Request,
    body: JobIn | BatchIn,
    principal: Principal,
    key: str,
    *,
    kind: str | None = None,
) -> IdempotencyKey:
    jobs = body.jobs if isinstance(body, BatchIn) else [body]
    return request_key(
        await request.json(),
        model=body.model_dump(),
        jobs=jobs,
        kind=kind,
        owner=principal.subject,
        key=key,
    )


async def _enqueue_alone(
    request: Request, job: NewJob, principal: Principal, *, key: IdempotencyKey | None = None
) -> Response:
    """Enqueue in a transaction of its own: it takes several statements."""
    settings = settings_of(request)
    async with transaction(request) as session:
        made = await submit(
            session,
            [job],
            caller=principal.subject,
            settings=settings,
            may_name=partial(may_name, principal),
            key=key,
        )
        try:
            found = await get_job(session, made.ids[0])
        except NotFound:
            if key is None:
                raise
            raise Conflict(
                f"Job {made.ids[0]}, which the Idempotency-Key {key.key!r} made, has been deleted: "
                "to enqueue it again use a new key"
            ) from None
        return _job_response(found, 201 if made.created else 200, settings, principal)


def _created(job: NewJob, enqueued: EnqueuedJob, settings: Settings) -> Response:
    # The members of JobOut, of values that were just checked: this is the hot path.
    answer = {
        "id": enqueued.id,
        "job_type": job.job_type,
        "queue": job.queue,
        "status": JobStatus.PENDING.value,
        "priority": job.priority,
        "attempts": 0,
        "max_retries": job.max_retries,
        "next_run_at": enqueued.next_run_at,
        "created_at": enqueued.created_at,
        "started_at": None,
        "finished_at": None,
        "unique_key": job.unique_key,
        "last_error": None,
        "concurrency_key": job.concurrency_key,
        "held_for": None,
        "batch_id": None,
        "payload": shown_of_new(job),
        "result": None,
        "progress": None,
        "cancel": None,
        "timeout_seconds": job.timeout_seconds,
        "callback": job.callback,
        "result_ttl_seconds": job.result_ttl_seconds,
        "result_dropped": False,
        **effective_limits(job, settings),
    }
    return _response(to_json(answer), 201, f"{settings.root_path}/jobs/{enqueued.id}")


def _job_response(
    job: BackgroundJob, status: int, settings: Settings, principal: Principal
) -> Response:
    shown = JobOut.of(job, settings).as_seen(may_read=may_read(principal, job))
    body = shown.model_dump_json()
    return _response(body, status, f"{settings.root_path}/jobs/{job.id}")


def _response(body: str | bytes, status: int, location: str) -> Response:
    return Response(body, status, headers={"Location": location}, media_type="application/json")
