"""What is done to schedules over REST: pause, resume, release, run, backfill. Parse, call, map."""

from typing import Annotated

from fastapi import APIRouter, Request

from service.api.actor import acting
from service.api.guarded import GuardedRoute
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import Session
from service.schedules import managing
from service.schedules.by_hand import backfill, run_now
from service.schedules.change_schema import BackfillIn, BackfillOut, ScheduleRunOut
from service.schedules.declaring import release
from service.schedules.model import Schedule
from service.schedules.routes import ScheduleName, Writer, own
from service.schedules.schemas import (
    ManySchedules,
    ScheduleOut,
    SchedulePage,
    ScheduleReason,
)

router = APIRouter(prefix="/schedules", tags=["Schedules"], route_class=GuardedRoute)

Why = Annotated[ScheduleReason | None, FIRST_ERRORS]


@router.post(
    "/pause",
    operation_id="pauseSchedules",
    summary="Pause many schedules",
    response_description="The schedules, paused.",
    responses=problem_responses(404, 422, 503),
)
async def pause_schedules(
    request: Request,
    body: Annotated[ManySchedules, FIRST_ERRORS],
    principal: Writer,
    session: Session,
) -> SchedulePage:
    """All of them, or none where one is not there. As `POST /schedules/{name}/pause`."""
    await own(session, principal, body.names)
    paused = await managing.pause(
        session, body.names, actor=acting(request, principal), reason=body.reason
    )
    return _page(paused)


@router.post(
    "/resume",
    operation_id="resumeSchedules",
    summary="Resume many schedules",
    response_description="The schedules, which tick again.",
    responses=problem_responses(404, 422, 503),
)
async def resume_schedules(
    request: Request,
    body: Annotated[ManySchedules, FIRST_ERRORS],
    principal: Writer,
    session: Session,
) -> SchedulePage:
    """All of them, or none where one is not there. As `POST /schedules/{name}/resume`."""
    await own(session, principal, body.names)
    resumed = await managing.resume(
        session, body.names, actor=acting(request, principal), reason=body.reason
    )
    return _page(resumed)


@router.post(
    "/{name}/pause",
    operation_id="pauseSchedule",
    summary="Pause a schedule",
    response_description="The schedule, paused.",
    responses=problem_responses(404, 422, 503),
)
async def pause_schedule(
    request: Request,
    principal: Writer,
    name: ScheduleName,
    session: Session,
    body: Why = None,
) -> ScheduleOut:
    """No tick after this is acted on, in any process, until it is resumed. Jobs that it has enqueued go on.

    Ticks that come meanwhile are not made up for. A deploy of the code that defines it does not resume it.
    """
    await own(session, principal, [name])
    (paused,) = await managing.pause(
        session, [name], actor=acting(request, principal), reason=_reason(body)
    )
    return ScheduleOut.of(paused)


@router.post(
    "/{name}/resume",
    operation_id="resumeSchedule",
    summary="Resume a schedule",
    response_description="The schedule, which ticks again.",
    responses=problem_responses(404, 422, 503),
)
async def resume_schedule(
    request: Request,
    principal: Writer,
    name: ScheduleName,
    session: Session,
    body: Why = None,
) -> ScheduleOut:
    """From the next tick after now. Its failures in a row are counted anew."""
    await own(session, principal, [name])
    (resumed,) = await managing.resume(
        session, [name], actor=acting(request, principal), reason=_reason(body)
    )
    return ScheduleOut.of(resumed)


@router.post(
    "/{name}/release",
    operation_id="releaseSchedule",
    summary="Give a schedule back to its code",
    response_description="The schedule, as its code defines it.",
    responses=problem_responses(404, 409, 422, 503),
)
async def release_schedule(
    request: Request,
    principal: Writer,
    name: ScheduleName,
    session: Session,
    body: Why = None,
) -> ScheduleOut:
    """What was changed by hand is undone at once, and the code changes it again. A pause stays."""
    (schedule,) = await own(session, principal, [name])
    released = await release(
        session, schedule, actor=acting(request, principal), reason=_reason(body)
    )
    return ScheduleOut.of(released)


@router.post(
    "/{name}/run",
    operation_id="runSchedule",
    summary="Run a schedule now",
    response_description="The job of the run.",
    status_code=201,
    responses=problem_responses(404, 422, 503),
)
async def run_schedule(
    request: Request,
    principal: Writer,
    name: ScheduleName,
    session: Session,
    body: Why = None,
) -> ScheduleRunOut:
    """Enqueues a job at once, beside whatever runs, also while it is paused. Its ticks stay as they are."""
    (schedule,) = await own(session, principal, [name])
    note = await run_now(session, schedule, actor=acting(request, principal), reason=_reason(body))
    assert note.job_id is not None
    return ScheduleRunOut(job_id=note.job_id, planned_at=note.planned_at)


@router.post(
    "/{name}/backfill",
    operation_id="backfillSchedule",
    summary="Run the ticks of a time that has passed",
    response_description="What was enqueued.",
    status_code=201,
    responses=problem_responses(404, 422, 503),
)
async def backfill_schedule(
    request: Request,
    principal: Writer,
    name: ScheduleName,
    body: Annotated[BackfillIn, FIRST_ERRORS],
    session: Session,
) -> BackfillOut:
    """Enqueues a job for each tick of the range, whatever became of it before; all or none.

    Each is told its planned time, and that it is a backfill. Their failures pause nothing.
    """
    (schedule,) = await own(session, principal, [name])
    done = await backfill(
        session,
        schedule,
        body.begin,
        body.until,
        overlap=body.overlap,
        actor=acting(request, principal),
        reason=body.reason,
    )
    return BackfillOut.of(done)


def _page(schedules: list[Schedule]) -> SchedulePage:
    return SchedulePage(schedules=[ScheduleOut.of(one) for one in schedules], next_cursor=None)


def _reason(body: ScheduleReason | None) -> str | None:
    return None if body is None else body.reason
