"""`/worker` over HTTP: workers report what became of their jobs. Parse, call, map."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request

from service.api.guarded import GuardedRoute
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import deadline_of
from service.auth.principal import Principal
from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import Lease
from service.jobs.core.failures import (
    MAX_MESSAGE_CHARS,
    MAX_TRACEBACK_CHARS,
    Failure,
    clean_text,
)
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.outcomes import Outcome, Released, Snoozed
from service.remote.outcomes import Decide
from service.remote.report_schemas import (
    CompletedIn,
    CompleteIn,
    FailedIn,
    FailIn,
    RecordedOut,
    ReleaseIn,
    ReportOut,
    SnoozedIn,
    SnoozeIn,
)
from service.remote.routes import Caller, gateway_of, leases_of

router = APIRouter(prefix="/worker", tags=["Workers"], route_class=GuardedRoute)


@router.post(
    "/complete",
    operation_id="completeJobs",
    summary="Report jobs that were done",
    response_description="What became of each report.",
    responses=problem_responses(422, 503),
)
async def complete(
    request: Request, body: Annotated[CompleteIn, FIRST_ERRORS], caller: Caller
) -> ReportOut:
    """Each job whose lease holds becomes SUCCESS; one that is refused takes no other along.

    Safe to repeat: a report that was recorded is answered `repeated`.
    """
    return await _record(request, leases_of(body.jobs), _completed, caller, call="complete")


@router.post(
    "/fail",
    operation_id="failJobs",
    summary="Report jobs that failed",
    response_description="What became of each report.",
    responses=problem_responses(422, 503),
)
async def fail(
    request: Request, body: Annotated[FailIn, FIRST_ERRORS], caller: Caller
) -> ReportOut:
    """Each job is retried after its backoff, or ends as DEAD_LETTER where that was its last attempt."""
    return await _record(request, leases_of(body.jobs), _failed, caller, call="fail")


@router.post(
    "/snooze",
    operation_id="snoozeJobs",
    summary="Put jobs off",
    response_description="What became of each report.",
    responses=problem_responses(422, 503),
)
async def snooze(
    request: Request, body: Annotated[SnoozeIn, FIRST_ERRORS], caller: Caller
) -> ReportOut:
    """Each job runs again later. No attempt is used, and no error kept."""
    return await _record(request, leases_of(body.jobs), _snoozed, caller, call="snooze")


@router.post(
    "/release",
    operation_id="releaseJobs",
    summary="Give jobs back",
    response_description="What became of each report.",
    responses=problem_responses(422, 503),
)
async def release(
    request: Request, body: Annotated[ReleaseIn, FIRST_ERRORS], caller: Caller
) -> ReportOut:
    """Each job runs again at once, elsewhere. No attempt is used: what a worker that stops sends."""
    return await _record(request, leases_of(body.jobs), _released, caller, call="release")


async def _record(
    request: Request, jobs: Mapping[Lease, Any], decide: Any, caller: Principal, *, call: str
) -> ReportOut:
    decisions: dict[Lease, Decide] = {lease: partial(decide, one) for lease, one in jobs.items()}
    told = await gateway_of(request).record(
        decisions, limits=caller.limits, deadline=deadline_of(request), call=call
    )
    return ReportOut(
        jobs=[
            RecordedOut(
                id=lease[0],
                lease_token=lease[1],
                outcome=told[lease].answer,
                status=told[lease].status,
            )
            for lease in jobs
        ]
    )


def _completed(report: CompletedIn, policy: OutcomePolicy, attempt: Attempt) -> Outcome:
    outcome = policy.returned(attempt, report.result, None)
    assert outcome is not None, "only a lost lease leaves nothing to record"
    return outcome


def _failed(report: FailedIn, policy: OutcomePolicy, attempt: Attempt) -> Outcome:
    error = report.error
    failure = Failure(
        attempt=attempt.job.attempt,
        type=clean_text(error.type, 200),
        message=clean_text(error.message, MAX_MESSAGE_CHARS),
        traceback=None
        if error.traceback is None
        else clean_text(error.traceback, MAX_TRACEBACK_CHARS, keep_end=True),
        started_at=attempt.started_at,
        worker=policy.worker_name,
    )
    return policy.reported(
        attempt, failure, permanent=report.permanent, delay_seconds=report.retry_after_seconds
    )


def _snoozed(report: SnoozedIn, _policy: OutcomePolicy, _attempt: Attempt) -> Outcome:
    return Snoozed(report.seconds)


def _released(_report: Any, _policy: OutcomePolicy, _attempt: Attempt) -> Outcome:
    return Released()
