"""`/admin/workers/{id}/drain` over HTTP: operators ask a worker elsewhere to stop. Parse, call, map."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Security
from pydantic import BaseModel, ConfigDict, Field

from service.api.actor import acting
from service.api.field_types import ReasonGiven, UtcTime
from service.api.guarded import GuardedRoute
from service.api.patterns import PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.session import Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.jobs.core.job import MAX_ID
from service.remote.draining import drain

router = APIRouter(prefix="/admin/workers", tags=["Admin"], route_class=GuardedRoute)

Operator = Annotated[Principal, Security(require(Permission.ADMIN_OPERATE))]
WorkerId = Annotated[
    int, Path(ge=1, le=MAX_ID, description="Number of a worker.", examples=[7]), PLAIN_NUMBER
]
EXAMPLE: Final[dict[str, Any]] = {
    "id": 7,
    "name": "mailer-1:831",
    "drain_asked_at": "2026-03-01T12:00:04Z",
}


class DrainOut(BaseModel):
    """A worker that is to claim no more."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]}, from_attributes=True)

    id: int
    name: str
    drain_asked_at: UtcTime = Field(description="When somebody asked for it first.")


@router.post(
    "/{worker_id}/drain",
    operation_id="drainWorker",
    summary="Ask a worker over HTTP to stop",
    response_description="The worker.",
    responses=problem_responses(404, 409, 422, 503),
)
async def drain_worker(
    request: Request,
    operator: Operator,
    worker_id: WorkerId,
    session: Session,
    reason: ReasonGiven = None,
) -> DrainOut:
    """It gets no more jobs, within a heartbeat in every process, and its heartbeats tell it so.

    What it has goes on. A worker that registers anew begins anew. 409 for a process of the service, which
    stops on SIGTERM.
    """
    asked = await drain(session, worker_id, actor=acting(request, operator), reason=reason)
    return DrainOut.model_validate(asked)
