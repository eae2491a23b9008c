"""`/admin/workers`: which workers there are, and what each runs. Parse, call, map."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Security
from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import UtcTime
from service.api.guarded import GuardedRoute
from service.api.problems import problem_responses
from service.api.session import AppSettings, Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.workers import WorkerStatus, list_workers

router = APIRouter(prefix="/admin/workers", tags=["Admin"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.ADMIN_READ))]

EXAMPLE: Final[dict[str, Any]] = {
    "id": 7,
    "name": "web-1:831:c0ffee",
    "host": "web-1",
    "pid": 831,
    "version": "1.4.0",
    "status": "live",
    "queues": ["emails:5", "*"],
    "job_types": ["send_invoice"],
    "slots": 100,
    "used": 1,
    "started_at": "2026-03-01T09:00:00Z",
    "seen_at": "2026-03-01T12:00:04Z",
    "stopped_at": None,
    "up_seconds": 10804.0,
    "seen_seconds": 3.2,
    "owner": None,
    "drain_asked_at": None,
    "jobs": [{"id": 42, "job_type": "send_invoice", "queue": "emails", "seconds": 1.5}],
}


class RunningOut(BaseModel):
    """A job that runs."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Its id.")
    job_type: str = Field(description="Its type.")
    queue: str = Field(description="Its queue.")
    seconds: float = Field(description="How long it has been running.")


class WorkerOut(BaseModel):
    """One worker."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]}, from_attributes=True)

    id: int = Field(description="Its number, as in a job's `worker_id`.")
    name: str = Field(
        description="Host, process id and a random part; of a worker over HTTP as it calls itself."
    )
    host: str = Field(description="The host that it runs on.")
    pid: int | None = Field(description="Its process id. null: its name has none.")
    version: str | None = Field(
        description="Of the service, or of a worker over HTTP its own. null: it did not tell."
    )
    status: WorkerStatus = Field(
        description="`live`: seen lately. `lost`: not seen, and it did not say that it stops. "
        "`stopped`: it did."
    )
    queues: list[str] = Field(description="Its `WORKER_QUEUES`.")
    job_types: list[str] = Field(description="The types that it has handlers for.")
    slots: int = Field(description="Jobs that it may run at once.")
    used: int = Field(description="Jobs that it runs.")
    started_at: UtcTime
    seen_at: UtcTime = Field(description="Its last heartbeat.")
    stopped_at: UtcTime | None
    up_seconds: float = Field(description="How long it has been, or was, up.")
    seen_seconds: float = Field(description="How long ago its last heartbeat was.")
    owner: str | None = Field(
        description="Who claims over HTTP under this name: the subject of its key. null: a process of the service."
    )
    drain_asked_at: UtcTime | None = Field(
        description="When somebody asked it to claim no more; null for processes of the service."
    )
    jobs: list[RunningOut] = Field(description="What it runs, the longest first, up to 20.")


class WorkerListOut(BaseModel):
    """The workers of the last day, live ones first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"workers": [EXAMPLE], "complete": True}]},
        from_attributes=True,
    )

    workers: list[WorkerOut]
    complete: bool = Field(description="False: there are more workers than one list shows (500).")


@router.get(
    "",
    operation_id="listWorkers",
    summary="List the workers",
    response_description="The workers.",
    responses=problem_responses(503),
)
async def read_workers(_: Reader, session: Session, settings: AppSettings) -> WorkerListOut:
    """Those that were seen within the last day: live ones, lost ones, stopped ones."""
    found = await list_workers(session, alive_seconds=alive_seconds(settings))
    return WorkerListOut.model_validate(found)
