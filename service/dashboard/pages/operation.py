"""One operation: its progress, what it skipped and why, and the buttons that pause and end it."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.session import AppSettings, Session
from service.dashboard.access import Operator, Viewer
from service.dashboard.operation_words import Shown
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Conflict
from service.jobs.actions.many import Skipped
from service.jobs.core.job import JobStatus
from service.jobs.read.waiting import Waiting
from service.operations import repository, starting
from service.operations.model import Operation, OperationId
from service.operations.routes import Id, check_may, what_waits

router = page_router()

PATH: Final = "/dashboard/operations"
WAITING_WORDS: Final = {
    Waiting.TIME: "It rests: by its rate, until it looks at its canary again, or before its next attempt.",
    Waiting.QUEUE_PAUSED: "It waits: the queue finmind, where the service's own jobs wait, is paused.",
    Waiting.WORKER: "It waits: no worker runs. Start one with `python -m service worker`.",
    Waiting.CONCURRENCY: "It waits: as many jobs as the queue finmind may run at once are running.",
    Waiting.RATE_LIMIT: "It waits for its turn under the rate of the queue finmind.",
    Waiting.BREAKER: "It waits for a target.",
    Waiting.DEPENDENCIES: "It waits for the jobs that it comes after.",
    Waiting.SLEEP: "It sleeps.",
    Waiting.EVENT: "It waits for an event.",
}
"""Why its job does not run."""
WAITS_FOR_A_SLOT: Final = "It waits for a worker with a free slot."

Sent = Annotated[FormData, Depends(form)]


@dataclass(frozen=True, slots=True)
class OneOperation:
    """What `operation.html` shows."""

    shown: Shown
    waits: str
    """Why it does not move; empty where it does."""
    skipped: list[Skipped]


@router.get("/operations/{operation_id}")
async def show_operation(
    request: Request, _: Viewer, operation_id: Id, session: Session, settings: AppSettings
) -> Response:
    """The operation, and the first jobs that it skipped."""
    found = await starting.read(session, OperationId(operation_id))
    waits = await what_waits(session, found, settings)
    page = OneOperation(
        shown=Shown(found),
        waits=_words(found, waits),
        skipped=await repository.skips(session, found.id),
    )
    return render(request, "operation.html", page=page)


@router.post("/operations/{operation_id}/pause")
async def pause(
    request: Request, operator: Operator, operation_id: Id, session: Session, sent: Sent
) -> Response:
    """Pause it."""
    paused = starting.pause(
        session, OperationId(operation_id), actor=acting(request, operator), reason=reason_of(sent)
    )
    return await _done(request, operation_id, paused, "is paused: nothing more is changed for now")


@router.post("/operations/{operation_id}/resume")
async def resume(
    request: Request, operator: Operator, operation_id: Id, session: Session, sent: Sent
) -> Response:
    """Let it go on."""
    identity = OperationId(operation_id)
    check_may(operator, (await starting.read(session, identity)).action.verb)
    resumed = starting.resume(
        session, identity, actor=acting(request, operator), reason=reason_of(sent)
    )
    return await _done(request, operation_id, resumed, "goes on")


@router.post("/operations/{operation_id}/cancel")
async def cancel(
    request: Request, operator: Operator, operation_id: Id, session: Session, sent: Sent
) -> Response:
    """End it."""
    cancelled = starting.cancel(
        session, OperationId(operation_id), actor=acting(request, operator), reason=reason_of(sent)
    )
    words = "is cancelled: what it has changed stays changed"
    return await _done(request, operation_id, cancelled, words)


def _words(operation: Operation, waits: Waiting | None) -> str:
    if waits is not None:
        return WAITING_WORDS[waits]
    return WAITS_FOR_A_SLOT if operation.job_status is JobStatus.PENDING else ""


async def _done(
    request: Request, operation_id: int, action: Awaitable[object], words: str
) -> Response:
    """Back to the page, with what was done or why it was not."""
    page = f"{PATH}/{operation_id}"
    try:
        await action
    except Conflict as error:
        return flash(see(request, page), error.detail, kind="failed")
    return flash(see(request, page), f"Operation {operation_id} {words}")
