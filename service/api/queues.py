"""`/queues`: what each holds, pausing it, and its limits. Parse, call, map."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Security

from service.api.actor import acting
from service.api.guarded import GuardedRoute
from service.api.patterns import NO_NUL
from service.api.problems import problem_responses
from service.api.queue_schemas import QueueChange, QueueListOut, QueueOut
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.queues import configure_queue, pause_queue, resume_queue
from service.jobs.read.queues import get_queue, list_queues

router = APIRouter(prefix="/queues", tags=["Admin"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.ADMIN_READ))]
Operator = Annotated[Principal, Security(require(Permission.ADMIN_OPERATE))]
QueueName = Annotated[
    str,
    Path(
        min_length=1,
        max_length=100,
        pattern=NO_NUL,
        description="Name of a queue.",
        examples=["billing"],
    ),
]


@router.get(
    "",
    operation_id="listQueues",
    summary="List the queues",
    response_description="The queues.",
    responses=problem_responses(503),
)
async def read_queues(_: Reader, session: Session, settings: AppSettings) -> QueueListOut:
    """Those that hold jobs, are set, are served by name, or in which jobs have ended.

    Up to `COUNT_CAP` live jobs of each queue and priority are counted, fewer where there are many.
    """
    found = await list_queues(
        session, cap=settings.count_cap, alive_seconds=alive_seconds(settings)
    )
    return QueueListOut(
        queues=[QueueOut.of(queue) for queue in found.queues], complete=found.complete
    )


@router.get(
    "/{name}",
    operation_id="getQueue",
    summary="Read a queue",
    response_description="The queue.",
    responses=problem_responses(422, 503),
)
async def read_queue(
    _: Reader, name: QueueName, session: Session, settings: AppSettings
) -> QueueOut:
    """Any name is a queue: one that nobody has used holds nothing and has no limits."""
    queue = await get_queue(
        session, name, cap=settings.count_cap, alive_seconds=alive_seconds(settings)
    )
    return QueueOut.of(queue)


@router.patch(
    "/{name}",
    operation_id="changeQueue",
    summary="Pause or resume a queue, or set its limits",
    response_description="The queue.",
    responses=problem_responses(409, 422, 503),
)
async def change_queue(
    request: Request,
    operator: Operator,
    name: QueueName,
    body: Annotated[QueueChange, FIRST_ERRORS],
    session: Session,
    settings: AppSettings,
) -> QueueOut:
    """In force in every process within 2 seconds. The queue need not exist.

    While a queue is paused none of its jobs is started; running ones go on, and more can be enqueued. To
    drain it, pause it and read it until it is `drained`. A limit that is lowered stops no job that runs.
    409 where something is set for 1,000 other queues.
    """
    actor = acting(request, operator)
    if body.paused:
        await pause_queue(session, name, actor=actor, reason=body.reason)
    elif body.paused is False:
        await resume_queue(session, name, actor=actor, reason=body.reason)
    if limits := body.limits():
        await configure_queue(session, name, actor=actor, reason=body.reason, **limits)
    queue = await get_queue(
        session, name, cap=settings.count_cap, alive_seconds=alive_seconds(settings)
    )
    return QueueOut.of(queue)
