"""`/worker` over HTTP: workers in any language claim jobs and keep them. Parse, call, map."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Request, Response, Security
from pydantic_core import to_json

from service.api.guarded import GuardedRoute
from service.api.lasting import LASTING, hung_up
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, deadline_of, new_deadline
from service.auth.dependencies import authenticated, require
from service.auth.principal import Permission, Principal
from service.errors import InvalidInput, Unauthenticated
from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import Lease
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.outcomes import Outcome, Released
from service.remote.gateway import Gateway
from service.remote.model import Handed, Kinds, WaitingClaim
from service.remote.policies import policies_among
from service.remote.schemas import (
    BeatOut,
    ClaimIn,
    ClaimOut,
    HeartbeatIn,
    HeartbeatOut,
    LeaseIn,
    RegisteredOut,
    RegisterIn,
    head_of,
)
from service.remote.scope import queues_for
from service.settings import Settings

T = TypeVar("T")

FRESH_SECONDS: Final = 1.0
"""After so long a claim that waited looks again whether its caller's credential is valid."""

router = APIRouter(prefix="/worker", tags=["Workers"], route_class=GuardedRoute)

Caller = Annotated[Principal, Security(require(Permission.JOBS_WORK))]


def gateway_of(request: Request) -> Gateway:
    """That of the application that serves `request`."""
    gateway: Gateway = request.app.state.service.gateway
    return gateway


@router.post(
    "/register",
    operation_id="registerWorker",
    summary="Register a worker",
    response_description="What the worker has to keep to.",
    responses=problem_responses(403, 422, 503),
)
async def register(
    request: Request,
    body: Annotated[RegisterIn, FIRST_ERRORS],
    caller: Caller,
    settings: AppSettings,
) -> RegisteredOut:
    """A worker begins: operators see it, its types count as served, and its policies hold for its jobs.

    Not needed by a worker that has no policies: a claim registers it too.
    """
    queues = queues_for(caller, body.job_types, body.queues)
    async with asyncio.timeout_at(deadline_of(request)):
        worker = await gateway_of(request).workers.register(
            caller.subject,
            body.worker,
            job_types=sorted(set(body.job_types)),
            queues=queues,
            concurrency=body.concurrency,
            version=body.version,
            policies={
                name: policy.model_dump(exclude_none=True) for name, policy in body.policies.items()
            },
        )
    return RegisteredOut(
        worker_id=worker.id,
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        max_wait_seconds=settings.remote_claim_wait_seconds,
        drain=worker.draining,
    )


@router.post(
    "/claim",
    operation_id="claimJobs",
    summary="Claim jobs",
    response_model=None,
    responses={
        200: {"model": ClaimOut, "description": "The jobs that are the worker's own now."},
        **problem_responses(403, 422, 503),
    },
)
async def claim(
    request: Request, body: Annotated[ClaimIn, FIRST_ERRORS], caller: Caller, settings: AppSettings
) -> Response:
    """Due jobs, the most urgent first, each under a lease that heartbeats extend.

    Where none is due the call waits for one up to `wait_seconds`. A worker that hangs up while it waits
    loses nothing: no job is claimed for it. One that may have lost the answer sends the same `request_id`
    again. Payloads of one answer come to 8 MB at most; a larger one comes alone.
    """
    answer = await _unless_hung_up(request, _claim(request, body, caller, settings))
    # To a worker that hung up nobody brings the answer.
    return Response(status_code=204) if answer is None else answer


async def _unless_hung_up(request: Request, call: Coroutine[Any, Any, T]) -> T | None:
    """What a call that may wait comes to; None: the worker has hung up, and the call was cancelled."""
    request.scope[LASTING] = True
    waiting = asyncio.create_task(call, name="remote.call")
    gone = asyncio.create_task(hung_up(request), name="remote.hung_up")
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (waiting, gone):
            if not task.done():
                task.cancel()
        await asyncio.wait({waiting, gone})
    return None if waiting.cancelled() else waiting.result()


async def _claim(
    request: Request, body: ClaimIn, caller: Principal, settings: Settings
) -> Response:
    gateway = gateway_of(request)
    job_types = sorted(set(body.job_types))
    queues = queues_for(caller, job_types, body.queues)
    async with asyncio.timeout_at(deadline_of(request)):
        worker = await gateway.workers.claims(
            caller.subject, body.worker, job_types=job_types, queues=queues, limit=body.limit
        )
        policies = policies_among(job_types, worker.policies)
        kinds = Kinds(tuple(job_types), None if queues is None else tuple(queues), policies)
        if body.request_id is not None:
            before = await gateway.claimed_before(
                kinds, worker_id=worker.id, request_id=body.request_id
            )
            if before is not None:
                return _answer(before, drain=worker.draining)
    if worker.draining:
        return _answer((), drain=True)
    asked = WaitingClaim(worker.id, caller.subject, body.limit, body.request_id)
    seconds = min(body.wait_seconds, settings.remote_claim_wait_seconds)
    began = time.monotonic()
    jobs = await gateway.claim(kinds, asked, wait_seconds=seconds)
    if jobs and time.monotonic() - began > FRESH_SECONDS:
        await _check_again(request, gateway, jobs, settings)
    return _answer(jobs, drain=asked.sent_away)


async def _check_again(
    request: Request, gateway: Gateway, jobs: Sequence[Handed], settings: Settings
) -> None:
    """Give the jobs back where the caller's credential, which was valid when it came, is no more.

    Raises:
        Unauthenticated: it is not.
    """
    try:
        await authenticated(request)
    except Unauthenticated:
        released = {one.job.lease: _released for one in jobs}
        deadline = new_deadline(settings)
        await gateway.record(released, limits=None, deadline=deadline, call="release")
        raise


def _released(_policy: OutcomePolicy, _attempt: Attempt) -> Outcome:
    return Released()


def _answer(handed: Sequence[Handed], *, drain: bool) -> Response:
    # Payloads are passed on as the text that they are.
    jobs = [
        b'%s,"payload":%s}' % (to_json(head_of(one))[:-1], one.job.payload.encode())
        for one in handed
    ]
    ended = b"true" if drain else b"false"
    body = b'{"jobs":[%s],"drain":%s}' % (b",".join(jobs), ended)
    return Response(body, media_type="application/json")


@router.post(
    "/heartbeat",
    operation_id="sendHeartbeat",
    summary="Extend the leases of jobs",
    response_description="What was found of each job.",
    responses=problem_responses(422, 503),
)
async def heartbeat(
    request: Request,
    body: Annotated[HeartbeatIn, FIRST_ERRORS],
    caller: Caller,
    settings: AppSettings,
) -> HeartbeatOut:
    """Once each `heartbeat_seconds`, with all jobs that the worker has. It tells which to stop.

    With `wait_seconds` the call waits while there is nothing to tell, and is answered the moment somebody asks
    for the cancel of one of the jobs: the leases were extended when it came.
    """
    gateway, deadline = gateway_of(request), deadline_of(request)
    leases = leases_of(body.jobs)
    async with asyncio.timeout_at(deadline):
        drain = await gateway.workers.seen(caller.subject, body.worker)
    wait = 0.0 if drain else min(body.wait_seconds, settings.heartbeat_seconds)
    call = gateway.beat(leases, limits=caller.limits, deadline=deadline, wait_seconds=wait)
    found = await (_unless_hung_up(request, call) if wait else call) or {}
    jobs = [
        BeatOut(id=lease[0], lease_token=lease[1], **one._asdict()) for lease, one in found.items()
    ]
    return HeartbeatOut(jobs=jobs, drain=drain)


def leases_of(jobs: Sequence[LeaseIn]) -> dict[Lease, Any]:
    """The jobs by their leases.

    Raises:
        InvalidInput: one is named twice.
    """
    found: dict[Lease, Any] = {}
    for position, one in enumerate(jobs):
        if found.setdefault(one.lease, one) is not one:
            raise InvalidInput(
                f"Job {one.id} is named twice with the lease_token {one.lease_token}: name each once",
                field=f"jobs.{position}",
            )
    return found
