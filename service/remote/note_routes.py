"""`/worker` over HTTP: progress, log lines, and the end of a worker. Parse, call, map."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Request

from service.api.guarded import GuardedRoute
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import deadline_of
from service.jobs.core.claimed_job import Lease
from service.remote.note_schemas import (
    LogIn,
    NotedOut,
    NotesOut,
    ProgressIn,
    StopIn,
    StoppedOut,
)
from service.remote.notes import Noted, Told
from service.remote.routes import Caller, gateway_of, leases_of

router = APIRouter(prefix="/worker", tags=["Workers"], route_class=GuardedRoute)


@router.post(
    "/progress",
    operation_id="reportProgress",
    summary="Report how far jobs are",
    response_description="What became of each report.",
    responses=problem_responses(422, 503),
)
async def progress(
    request: Request, body: Annotated[ProgressIn, FIRST_ERRORS], caller: Caller
) -> NotesOut:
    """For operators and waiting clients to see. It extends no lease."""
    told = {lease: (one.fraction, one.message) for lease, one in leases_of(body.jobs).items()}
    noted = await gateway_of(request).notes.progress(
        told, limits=caller.limits, deadline=deadline_of(request)
    )
    return _out(noted)


@router.post(
    "/log",
    operation_id="logLines",
    summary="Log lines about jobs",
    response_description="What became of the lines of each job.",
    responses=problem_responses(422, 503),
)
async def log(request: Request, body: Annotated[LogIn, FIRST_ERRORS], caller: Caller) -> NotesOut:
    """They stay with the job, as those of `ctx.log` do; send them before the job is reported. Log no secrets."""
    told = {
        lease: [
            Told(line.line, line.level, line.message, line.fields, line.at) for line in one.lines
        ]
        for lease, one in leases_of(body.jobs).items()
    }
    noted = await gateway_of(request).notes.log(
        told, limits=caller.limits, deadline=deadline_of(request)
    )
    return _out(noted)


@router.post(
    "/stop",
    operation_id="stopWorker",
    summary="Tell that a worker stops",
    response_description="Whether the worker was known.",
    responses=problem_responses(422, 503),
)
async def stop(
    request: Request, body: Annotated[StopIn, FIRST_ERRORS], caller: Caller
) -> StoppedOut:
    """The last call of a worker that stops in good order: operators see that it was no crash.

    Jobs that it still has are not given back: release them first.
    """
    async with asyncio.timeout_at(deadline_of(request)):
        known = await gateway_of(request).stopped(caller.subject, body.worker)
    return StoppedOut(known=known)


def _out(noted: Mapping[Lease, Noted]) -> NotesOut:
    return NotesOut(
        jobs=[
            NotedOut(id=lease[0], lease_token=lease[1], outcome=one.outcome, full=one.full)
            for lease, one in noted.items()
        ]
    )
