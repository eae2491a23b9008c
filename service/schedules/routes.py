"""`/schedules`: rules that enqueue a job at each tick. Parse, call, map."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response, Security
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.actor import acting
from service.api.cursors import decode_cursor, decode_position, encode_cursor, encode_position
from service.api.enqueue_policy import check_allowed, may_read, spend_names
from service.api.field_types import Name, ReasonGiven
from service.api.guarded import GuardedRoute
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.api.payloads import check_payload_of
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import NotFound
from service.jobs import NewJob
from service.jobs.core.job import MAX_ID
from service.schedules import ledger, managing, preview, repository
from service.schedules.change_schema import ScheduleChange
from service.schedules.model import Definition, Schedule, TickOutcome
from service.schedules.preview_schemas import SchedulePreviewIn, SchedulePreviewOut
from service.schedules.runs import new_job
from service.schedules.schemas import (
    ScheduleIn,
    ScheduleOut,
    SchedulePage,
    TickOut,
    TickPage,
)
from service.settings import Settings

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200
MAX_CURSOR_CHARS: Final = 400
"""Of a list whose positions are names."""

router = APIRouter(prefix="/schedules", tags=["Schedules"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.JOBS_READ))]
Writer = Annotated[Principal, Security(require(Permission.SCHEDULES_WRITE))]
ScheduleName = Annotated[
    str,
    Path(
        min_length=1,
        max_length=100,
        pattern=NO_NUL,
        description="Name of a schedule.",
        examples=["send-digests"],
    ),
]
Limit = Annotated[
    int,
    Query(ge=1, le=MAX_PAGE_SIZE, description="Maximum number of them on the page."),
    PLAIN_NUMBER,
]
Cursor = Annotated[
    str | None,
    Query(
        max_length=MAX_CURSOR_CHARS, pattern=NO_NUL, description="`next_cursor` of the page before."
    ),
]


@router.post(
    "",
    operation_id="createSchedule",
    summary="Make a schedule",
    response_description="The new schedule.",
    status_code=201,
    responses=problem_responses(409, 422, 503),
)
async def create_schedule(
    request: Request,
    response: Response,
    body: Annotated[ScheduleIn, FIRST_ERRORS],
    principal: Writer,
    session: Session,
    settings: AppSettings,
) -> ScheduleOut:
    """Its first tick is the next one after now. A worker of any process enqueues a job at each tick.

    The jobs are the caller's, as if it had enqueued them: they count as its live jobs. 409 where the name is
    taken, or there are `MAX_SCHEDULES` already. A rule without ticks is refused.
    """
    definition = body.definition()
    await check_may_run(request, principal, body.name, definition, settings)
    made = await managing.create(
        session,
        body.name,
        definition,
        max_schedules=settings.max_schedules,
        actor=acting(request, principal),
        created_by=principal.subject,
    )
    response.headers["Location"] = f"{settings.root_path}/schedules/{made.name}"
    return ScheduleOut.of(made)


@router.get(
    "",
    operation_id="listSchedules",
    summary="List schedules",
    response_description="One page of schedules.",
    responses=problem_responses(422, 503),
)
async def list_schedules(
    principal: Reader,
    session: Session,
    *,
    job_type: Annotated[Name | None, Query(description="Only those of this job type.")] = None,
    paused: Annotated[bool | None, Query(description="Only those that are, or are not.")] = None,
    limit: Limit = DEFAULT_PAGE_SIZE,
    cursor: Cursor = None,
) -> SchedulePage:
    """By name. A key that is bound to queues or types sees those of its own."""
    named = {"schedules": True, "job_type": job_type, "paused": paused}
    after = "" if cursor is None else decode_position(cursor, named)[1]
    limits = principal.limits
    found = await repository.page(
        session,
        limit=limit + 1,
        after=after,
        job_type=job_type,
        paused=paused,
        queues=None if limits is None else limits.queues,
        job_types=None if limits is None else limits.job_types,
    )
    shown = found[:limit]
    return SchedulePage(
        schedules=[ScheduleOut.of(one) for one in shown],
        next_cursor=encode_position((0, shown[-1].name), named) if len(found) > limit else None,
    )


@router.post(
    "/preview",
    operation_id="previewSchedule",
    summary="Preview the ticks of a rule",
    response_description="The next ticks, and those around the next change of the clock.",
    responses=problem_responses(422, 503),
)
async def preview_schedule(
    body: Annotated[SchedulePreviewIn, FIRST_ERRORS], _: Reader
) -> SchedulePreviewOut:
    """Changes nothing. Where the clock of the zone changes within 400 days it shows what that does."""
    timing = body.timing()
    timing.check()
    found = preview.preview(timing, after=body.after or datetime.now(UTC), count=body.count)
    return SchedulePreviewOut.of(found)


@router.get(
    "/{name}",
    operation_id="getSchedule",
    summary="Read a schedule",
    response_description="The schedule.",
    responses=problem_responses(404, 422, 503),
)
async def read_schedule(principal: Reader, name: ScheduleName, session: Session) -> ScheduleOut:
    """What it enqueues, when it is due next, and how its last runs fared."""
    return ScheduleOut.of(await _readable(session, principal, name))


@router.patch(
    "/{name}",
    operation_id="changeSchedule",
    summary="Change a schedule",
    response_description="The schedule.",
    responses=problem_responses(404, 422, 503),
)
async def change_schedule(
    request: Request,
    principal: Writer,
    name: ScheduleName,
    body: Annotated[ScheduleChange, FIRST_ERRORS],
    session: Session,
    settings: AppSettings,
) -> ScheduleOut:
    """What is left out stays. With another rule its next tick is the first after now.

    One that code defines is pinned: the code changes it no more, until it is released.
    """
    (schedule,) = await own(session, principal, [name])
    definition = body.of(schedule.definition)
    await check_may_run(request, principal, name, definition, settings)
    changed = await managing.change(
        session, schedule, definition, actor=acting(request, principal), reason=body.reason
    )
    return ScheduleOut.of(changed)


@router.delete(
    "/{name}",
    operation_id="deleteSchedule",
    summary="Delete a schedule",
    response_description="The schedule is gone.",
    status_code=204,
    responses=problem_responses(404, 422, 503),
)
async def delete_schedule(
    request: Request,
    principal: Writer,
    name: ScheduleName,
    session: Session,
    reason: ReasonGiven = None,
) -> None:
    """The jobs that it has enqueued stay.

    One that code defines comes back when a process of its application starts: pause it instead.
    """
    (schedule,) = await own(session, principal, [name])
    await managing.delete(session, schedule, actor=acting(request, principal), reason=reason)


@router.get(
    "/{name}/ticks",
    operation_id="listTicks",
    summary="List what became of the ticks of a schedule",
    response_description="One page of its ledger.",
    responses=problem_responses(404, 422, 503),
)
async def list_ticks(
    principal: Reader,
    name: ScheduleName,
    session: Session,
    *,
    outcome: Annotated[TickOutcome | None, Query(description="Only these.")] = None,
    limit: Limit = DEFAULT_PAGE_SIZE,
    cursor: Cursor = None,
) -> TickPage:
    """Newest first: which were fired, skipped or missed, and why. Kept for `SCHEDULE_TICK_DAYS`."""
    schedule = await _readable(session, principal, name)
    named = {"ticks": schedule.id, "outcome": outcome}
    before = MAX_ID if cursor is None else decode_cursor(cursor, named)
    found = await ledger.ticks(
        session, schedule.id, limit=limit + 1, before=before, outcome=outcome
    )
    shown = found[:limit]
    return TickPage(
        ticks=[TickOut.model_validate(one) for one in shown],
        next_cursor=encode_cursor(shown[-1].id, named) if len(found) > limit else None,
    )


async def check_may_run(
    request: Request,
    principal: Principal,
    name: str,
    definition: Definition,
    settings: Settings,
) -> None:
    """Refuse a schedule whose jobs the caller may not enqueue, or whose handler would refuse them.

    Raises:
        Forbidden: the type is the service's own.
        QuotaExceeded: its names are more new ones than the caller may add.
        RequestValidationError: the model of its type refuses the payload.
    """
    job: NewJob = new_job(name, definition, planned_at=datetime.now(UTC))
    check_allowed(principal, [job])
    if settings.check_payloads:
        check_payload_of(definition.job_type, job.payload)
    await spend_names(request, principal, [job])


async def _readable(session: AsyncSession, principal: Principal, name: str) -> Schedule:
    found = await repository.find(session, name)
    if found is None or not may_read(principal, found.definition):
        raise NotFound(f"There is no schedule {name}")
    return found


async def own(session: AsyncSession, principal: Principal, names: list[str]) -> list[Schedule]:
    """These schedules, locked: the caller's, or anybody's for operators.

    Raises:
        NotFound: one is not there, or is another's.
    """
    found = await managing.lock(session, names)
    if principal.may(Permission.ADMIN_OPERATE):
        return found
    if others := [one.name for one in found if one.created_by != principal.subject]:
        raise NotFound(f"There is no schedule {others[0]} of yours")
    return found
