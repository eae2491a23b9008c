"""`POST /jobs/{job_id}/events/{name}`: what jobs wait for. Parse, call, map."""

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.actor import acting
from service.api.field_types import Reason
from service.api.guarded import GuardedRoute
from service.api.jobs import Id
from service.api.own_jobs import Writer, own_job
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session
from service.jobs.actions import send_event
from service.jobs.core.job import NAME_PATTERN, JobId

router = APIRouter(tags=["Jobs"], route_class=GuardedRoute)

_EVENT: Final[dict[str, Any]] = {
    "job_id": 42,
    "name": "paid",
    "data": {"amount": 1200},
    "sent_at": "2026-03-01T09:10:30.125Z",
    "sent_by": "billing",
    "was_awaited": True,
}


class EventIn(BaseModel):
    """What is sent."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"data": {"amount": 1200}}]}
    )

    data: Any = Field(
        None, description="Any JSON, up to `JOB_EVENT_BYTES`; what the handler's wait returns."
    )
    reason: Reason | None = Field(None, description="Why, for the audit log.")


class EventOut(BaseModel):
    """An event as the job has it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EVENT]})

    job_id: JobId = Field(description="The job.")
    name: str = Field(description="Its name: the first of each name counts.")
    data: Any = Field(description="What was sent.")
    sent_at: datetime = Field(description="When it was sent first.")
    sent_by: str | None = Field(description="Who sent it; `python` where code did.")
    was_awaited: bool = Field(
        description="Whether this request ended a step that waited. false: none waits yet; the event is kept."
    )


@router.post(
    "/jobs/{job_id}/events/{name}",
    operation_id="sendEvent",
    summary="Send an event to a job",
    response_description="The job had this event before.",
    responses={
        201: {
            "model": EventOut,
            "description": "The event is kept, and whoever waits for it goes on.",
        },
        **problem_responses(403, 404, 409, 422, 503),
    },
)
async def send_event_to_job(
    request: Request,
    response: Response,
    writer: Writer,
    job_id: Id,
    name: Annotated[
        str,
        Path(pattern=NAME_PATTERN, description="Its name.", examples=["paid"]),
    ],
    session: Session,
    settings: AppSettings,
    body: Annotated[EventIn | None, FIRST_ERRORS] = None,
) -> EventOut:
    """`ctx.wait_for_event(name)` in the job's handler returns its `data`. A job that waits is due at once.

    An event that comes before its wait is kept, and found. The first of a name counts: the same again answers
    200 and changes nothing, other data 409. 409 also if the job has ended. A job that another caller enqueued
    needs `admin:operate`.
    """
    await own_job(session, writer, job_id)
    body = body or EventIn()
    sent = await send_event(
        session,
        JobId(job_id),
        name,
        body.data,
        max_bytes=settings.job_event_bytes,
        max_events=settings.job_events,
        actor=acting(request, writer),
        reason=body.reason,
    )
    response.status_code = 201 if sent.is_new else 200
    return EventOut(
        job_id=JobId(job_id),
        name=sent.name,
        data=sent.data,
        sent_at=sent.sent_at,
        sent_by=sent.sent_by,
        was_awaited=sent.was_awaited,
    )
