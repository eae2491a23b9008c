"""`/admin/operations`: one action on many jobs. Parse, call, map."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response, Security
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.actor import acting
from service.api.cursors import MAX_CURSOR_CHARS, decode_cursor, encode_cursor
from service.api.guarded import GuardedRoute
from service.api.job_schemas import JobSummaryOut
from service.api.patterns import NO_NUL, PLAIN_NUMBER, VISIBLE_ASCII
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import Forbidden
from service.jobs.core.bulk_action import Verb
from service.jobs.core.job import MAX_ID, JobStatus
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.get import get_job
from service.jobs.read.waiting import Waiting, waiting_for
from service.operations import repository, starting
from service.operations.model import Operation, OperationId
from service.operations.schemas import (
    CostOut,
    OperationDetail,
    OperationOut,
    OperationPage,
    PreviewOut,
    ReasonIn,
    SelectionIn,
)
from service.settings import Settings

DEFAULT_PAGE_SIZE = 50

router = APIRouter(prefix="/admin/operations", tags=["Admin"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.ADMIN_READ))]
Operator = Annotated[Principal, Security(require(Permission.ADMIN_OPERATE))]
Id = Annotated[
    int, Path(ge=1, le=MAX_ID, description="Number of an operation.", examples=[12]), PLAIN_NUMBER
]
Why = Annotated[ReasonIn | None, FIRST_ERRORS]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=VISIBLE_ASCII,
        description="Names this request: sent again with the same body it starts nothing, and returns "
        "the operation that the first one started.",
        examples=["redrive-2026-03-01"],
    ),
]


@router.post(
    "/preview",
    operation_id="previewOperation",
    summary="Preview an action on many jobs",
    response_description="What it would act on.",
    responses=problem_responses(422, 503),
)
async def preview_operation(
    body: Annotated[SelectionIn, FIRST_ERRORS],
    _: Operator,
    session: Session,
    settings: AppSettings,
) -> PreviewOut:
    """Counts the jobs that match, up to `COUNT_CAP`, and shows the newest of them. Changes nothing.

    It takes the body of `POST /admin/operations`. The jobs that match may be others when the
    operation is started.
    """
    asked = body.request(datetime.now(UTC))
    asked.action.check()
    found = await starting.preview(
        session, asked.action.verb, asked.filters, settings, rate=asked.rate
    )
    return PreviewOut(
        count=found.count,
        exact=found.exact,
        sample=[JobSummaryOut.model_validate(job) for job in found.sample],
        cost=CostOut(seconds=round(found.seconds, 1)),
    )


@router.post(
    "",
    status_code=202,
    operation_id="startOperation",
    summary="Start an action on many jobs",
    response_description="The operation, which a worker carries out.",
    responses=problem_responses(409, 422, 503),
)
async def start_operation(
    request: Request,
    response: Response,
    body: Annotated[SelectionIn, FIRST_ERRORS],
    operator: Operator,
    session: Session,
    settings: AppSettings,
    idempotency_key: Key = None,
) -> OperationOut:
    """Retries, cancels, deletes, reschedules, moves or reprioritises all jobs that match.

    What it acts on is fixed now: jobs that are enqueued or die later are not touched. It works
    through them newest first, at `rate`, and goes on wherever its worker is killed; each job is acted
    on once. A job that cannot be is skipped, counted and named. `delete` needs `admin:delete`, which
    administrators have. An empty filter is refused without `all: true`.
    """
    check_may(operator, body.action)
    key = None if idempotency_key is None else (idempotency_key, _hash(body))
    started = await starting.start(
        session,
        body.request(datetime.now(UTC)),
        settings,
        actor=acting(request, operator),
        key=key,
    )
    response.headers["Location"] = f"{settings.root_path}/admin/operations/{started.id}"
    return OperationOut.of(started)


@router.get(
    "",
    operation_id="listOperations",
    summary="List operations, newest first",
    response_description="One page of operations.",
    responses=problem_responses(422, 503),
)
async def list_operations(
    _: Reader,
    session: Session,
    *,
    unfinished: Annotated[
        bool, Query(description="Only those that are neither done nor cancelled.")
    ] = False,
    limit: Annotated[
        int, Query(ge=1, le=200, description="Maximum number of operations."), PLAIN_NUMBER
    ] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[
        str | None,
        Query(
            max_length=MAX_CURSOR_CHARS,
            pattern=NO_NUL,
            description="`next_cursor` of the page before.",
        ),
    ] = None,
) -> OperationPage:
    """Operations are kept for `OPERATION_RETENTION_DAYS` after they end."""
    named = {"operations": True, "unfinished": unfinished}
    before = MAX_ID if cursor is None else decode_cursor(cursor, named)
    found = await repository.page(session, limit=limit + 1, before=before, unfinished=unfinished)
    shown = found[:limit]
    return OperationPage(
        operations=[OperationOut.of(one) for one in shown],
        next_cursor=encode_cursor(shown[-1].id, named) if len(found) > limit else None,
    )


@router.get(
    "/{operation_id}",
    operation_id="getOperation",
    summary="Read an operation",
    response_description="The operation, and what it skipped.",
    responses=problem_responses(404, 422, 503),
)
async def read_operation(
    _: Reader, operation_id: Id, session: Session, settings: AppSettings
) -> OperationDetail:
    """How far it is, and the first 1,000 jobs that it skipped, each with its reason."""
    found = await starting.read(session, OperationId(operation_id))
    return await detail(session, found, settings)


@router.post(
    "/{operation_id}/pause",
    operation_id="pauseOperation",
    summary="Pause an operation",
    response_description="The operation, paused.",
    responses=problem_responses(404, 409, 422, 503),
)
async def pause_operation(
    request: Request,
    operator: Operator,
    operation_id: Id,
    session: Session,
    settings: AppSettings,
    body: Why = None,
) -> OperationDetail:
    """Nothing more is changed once this has been answered, until it is resumed."""
    paused = await starting.pause(
        session, OperationId(operation_id), actor=acting(request, operator), reason=_reason(body)
    )
    return await detail(session, paused, settings)


@router.post(
    "/{operation_id}/resume",
    operation_id="resumeOperation",
    summary="Resume an operation",
    response_description="The operation, running.",
    responses=problem_responses(404, 409, 422, 503),
)
async def resume_operation(
    request: Request,
    operator: Operator,
    operation_id: Id,
    session: Session,
    settings: AppSettings,
    body: Why = None,
) -> OperationDetail:
    """Goes on where it was paused, where its canary stopped it, or where its job died.

    To resume what a canary has stopped is to decide that the other jobs follow.
    """
    identity = OperationId(operation_id)
    check_may(operator, (await starting.read(session, identity)).action.verb)
    resumed = await starting.resume(
        session, identity, actor=acting(request, operator), reason=_reason(body)
    )
    return await detail(session, resumed, settings)


@router.post(
    "/{operation_id}/cancel",
    operation_id="cancelOperation",
    summary="Cancel an operation",
    response_description="The operation, cancelled.",
    responses=problem_responses(404, 409, 422, 503),
)
async def cancel_operation(
    request: Request,
    operator: Operator,
    operation_id: Id,
    session: Session,
    settings: AppSettings,
    body: Why = None,
) -> OperationDetail:
    """Nothing more is changed once this has been answered. What it has changed stays changed."""
    cancelled = await starting.cancel(
        session, OperationId(operation_id), actor=acting(request, operator), reason=_reason(body)
    )
    return await detail(session, cancelled, settings)


def check_may(principal: Principal, verb: Verb) -> None:
    """Refuse to delete many jobs for callers who may not.

    Raises:
        Forbidden: the permission is named.
    """
    if verb is Verb.DELETE and not principal.may(Permission.ADMIN_DELETE):
        raise Forbidden(
            f"To delete many jobs needs the permission {Permission.ADMIN_DELETE}",
            scope=Permission.ADMIN_DELETE.value,
        )


async def detail(
    session: AsyncSession, operation: Operation, settings: Settings
) -> OperationDetail:
    """The operation with what it skipped, and what it waits for."""
    waits = await what_waits(session, operation, settings)
    skipped = await repository.skips(session, operation.id)
    return OperationDetail.whole(operation, skipped=skipped, waiting_for=waits)


async def what_waits(
    session: AsyncSession, operation: Operation, settings: Settings
) -> Waiting | None:
    """What the job that carries it out waits for; None: a slot alone, or it runs, or none is to run."""
    if operation.job_id is None or operation.job_status is not JobStatus.PENDING:
        return None
    job = await get_job(session, operation.job_id)
    alive = alive_seconds(settings)
    waits = await waiting_for(session, [job], now=datetime.now(UTC), alive_seconds=alive)
    return waits.get(job.id)


def _hash(body: SelectionIn) -> bytes:
    text = json.dumps(body.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def _reason(body: ReasonIn | None) -> str | None:
    return None if body is None else body.reason
